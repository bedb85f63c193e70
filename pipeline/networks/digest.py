"""Content digests of weights: what a fingerprint says about a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def digest_tensors(tensors: Mapping[str, Tensor], architecture: object = None) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever the order or the file they came from.

    `architecture` is plain JSON that says what is done with the weights: the same weights under
    another number of heads or another activation give other features. Each tensor is hashed on
    its own (in threads: hashing releases the interpreter lock) and the digest is that of the
    sorted list of results.
    """
    with ThreadPoolExecutor() as pool:
        lines = sorted(pool.map(_line, tensors.items()))
    if architecture is not None:
        lines.append(json.dumps(architecture, sort_keys=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(item: tuple[str, Tensor]) -> str:
    name, tensor = item
    array = tensor.detach().cpu().contiguous()
    data = array.flatten().view(torch.uint8).numpy().data if array.numel() else b""
    shape = "x".join(map(str, tensor.shape))
    return f"{name} {tensor.dtype} {shape} {hashlib.sha256(data).hexdigest()}"
