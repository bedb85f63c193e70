"""Weights on disk: safetensors with what belongs to them in the header, and a JSON to look at.

A file is written beside its name, synced and renamed: it is whole or it is not there.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cache.storage.files import fsync_folder, open_to_others

_FACTS = "sketchfusion"
_OS_ERROR = re.compile(r"os error (\d+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors on the CPU, and plain facts about them."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without it."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path`, and its facts to the `.json` of the same name. Raises OSError."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous().clone()
        for name, tensor in checkpoint.tensors.items()
    }
    facts = json.dumps(dict(checkpoint.facts), sort_keys=True)
    beside = path.with_suffix(".tmp")
    try:
        save_file(tensors, str(beside), metadata={_FACTS: facts})
    except SafetensorError as error:
        # A full or a read-only disk.
        number = _OS_ERROR.search(str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    open_to_others(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
    fsync_folder(path.parent)
    write_facts(path, checkpoint)


def write_facts(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's facts beside it, for people. Raises OSError."""
    write_text(path.with_suffix(".json"), json.dumps(dict(checkpoint.facts), indent=2) + "\n")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Raises CheckpointError."""
    return _read(path, with_tensors=True)


def load_facts(path: Path) -> Mapping[str, Any]:
    """The facts alone. Raises CheckpointError."""
    return _read(path, with_tensors=False).facts


def _read(path: Path, with_tensors: bool) -> Checkpoint:
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            if not isinstance(facts, dict):
                raise ValueError("its facts are no mapping")
            names = tuple(file.keys()) if with_tensors else ()
            return Checkpoint({name: file.get_tensor(name) for name in names}, facts)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; train the run first") from None
    except Exception as error:
        # Besides SafetensorError, what json and torch make of a header from elsewhere.
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint ({reason}); restore it, or train the run again "
            "in another folder"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    fsync_folder(path.parent)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]
) -> dict[str, Tensor]:
    """An optimiser's state per parameter, under the parameters' names."""
    return {
        f"{names[parameter]}/{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    tensors: Mapping[str, Tensor],
) -> None:
    """Give an optimiser the state that `optimizer_tensors` told.

    Raises CheckpointError for the state of other parameters.
    """
    parameter_of = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameter_of.get(name)
        if parameter is None or (kind != "step" and value.shape != parameter.shape):
            raise CheckpointError(
                f"the optimiser's state {key[:80]} belongs to no parameter of this run; "
                "train it again in another folder"
            )
        # The count of steps stays on the CPU, as the optimiser keeps it.
        device = "cpu" if kind == "step" else parameter.device
        optimizer.state[parameter][kind] = value.to(device)
