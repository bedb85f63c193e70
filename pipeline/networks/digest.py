"""Content digests of weights: what a fingerprint says about a network.

A network is named by its values and by what is done with them: see docs/store-format.md, "Digests".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

_HEADER = "sketchfusion network 2"
"""First line of what `digest_values` hashes."""


@dataclass(frozen=True)
class TensorHash:
    """Type, shape and SHA-256 of the bytes of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    sha256: str


def hash_tensors(tensors: Mapping[str, Tensor]) -> dict[str, TensorHash]:
    """The hash of each tensor by name, in the given order.

    Hashing releases the interpreter lock, so it is done in threads.
    """
    with ThreadPoolExecutor() as pool:
        return dict(zip(tensors, pool.map(_hash, tensors.values()), strict=True))


def digest_values(tensors: Iterable[TensorHash], settings: Mapping[str, object]) -> str:
    """SHA-256 over values and settings: the digest of a network, whatever its tensors are called.

    `tensors` are float32 and in the order in which the network registers them, which tells two
    tensors of one shape apart. `settings` is plain JSON that says what is done with them: the same
    weights with another number of heads or another activation give other features.
    """
    lines = [f"{_shape(tensor)} {tensor.sha256}" for tensor in tensors]
    return _sha256([_HEADER, *lines, json.dumps(settings, sort_keys=True)])


def digest_named(tensors: Mapping[str, TensorHash], architecture: object = None) -> str:
    """SHA-256 over names, types, shapes and bytes, in any order.

    For tensors whose names are this project's own, such as those of an injection file. Until
    version 2 of the digests networks were named like this too, with `architecture` being their
    configuration as it was spelled, so it still tells what older stores call a network.
    """
    lines = sorted(
        f"{name} {tensor.dtype} {_shape(tensor)} {tensor.sha256}"
        for name, tensor in tensors.items()
    )
    if architecture is not None:
        lines.append(json.dumps(architecture, sort_keys=True))
    return _sha256(lines)


def digest_tensors(tensors: Mapping[str, Tensor], architecture: object = None) -> str:
    """`digest_named` of tensors that have not been hashed yet."""
    return digest_named(hash_tensors(tensors), architecture)


def _hash(tensor: Tensor) -> TensorHash:
    array = tensor.detach().cpu().contiguous()
    data = array.flatten().view(torch.uint8).numpy().data if array.numel() else b""
    return TensorHash(tensor.dtype, tuple(tensor.shape), hashlib.sha256(data).hexdigest())


def _shape(tensor: TensorHash) -> str:
    return "x".join(map(str, tensor.shape))


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
