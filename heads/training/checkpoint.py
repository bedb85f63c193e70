"""Weights on disk: safetensors with what belongs to them in the header, and a JSON to look at.

Files are replaced as a whole: a reader, and a process that is killed, find the old or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cache.storage.files import replacing
from pipeline.networks.saving import save_tensors

_FACTS = "sketchfusion"


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
    facts = json.dumps(dict(checkpoint.facts), sort_keys=True)
    save_tensors(path, checkpoint.tensors, {_FACTS: facts})
    write_facts(path, checkpoint)


def write_facts(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's facts beside it, for people, if they are not there. Raises OSError."""
    document = path.with_suffix(".json")
    text = json.dumps(dict(checkpoint.facts), indent=2, sort_keys=True) + "\n"
    if not document.is_file() or document.read_bytes() != text.encode():
        write_text(document, text)


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
    """Replace a text file as a whole. Raises OSError."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


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
