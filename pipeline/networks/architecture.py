"""Model configurations from elsewhere: refused while they are numbers, before they are memory.

A JSON file of a kilobyte can ask for a network of a petabyte, or for a billion layers. Real ones
stay far below the bounds here.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pipeline.machine import machine_memory
from pipeline.networks.checkpoints import BackboneError

MAX_NUMBER = 2**21
"""Of any whole number: widths, vocabularies, positions. The largest vocabularies have 2**18."""
MAX_LAYERS = 64
"""Of any number of layers, blocks or levels; the deepest vision transformers have 64."""
MAX_ITEMS = 4096
"""Of a list; a schedule may list its betas."""
MAX_DEPTH = 16
_COUNTS = ("layers", "depth", "blocks")


def check_numbers(document: Any, where: str) -> None:
    """Raise BackboneError for a number or a list that no network has."""
    _check(document, where, "", 0)


def check_fits(model: nn.Module, where: str) -> None:
    """Raise BackboneError where a model's float32 weights are more than this machine's memory.

    The model is meant to be on torch's `meta` device, where it takes no memory itself.
    """
    sizes = [tensor.numel() for tensor in (*model.parameters(), *model.buffers())]
    if 4 * sum(sizes) > machine_memory():
        raise BackboneError(
            f"{where}: asks for {sum(sizes):,} weights, more than this machine's memory holds; "
            "use the configuration that belongs to the weights"
        )


def _check(value: Any, where: str, key: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BackboneError(f"{where}: is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check(inner, where, str(name), depth + 1)
    elif isinstance(value, list):
        if len(value) > (MAX_LAYERS if _is_count(key) else MAX_ITEMS):
            raise BackboneError(f"{where}: {key[:60]} lists {len(value):,} values")
        for inner in value:
            _check(inner, where, key, depth + 1)
    elif isinstance(value, int):
        if abs(value) > (MAX_LAYERS if _is_count(key) else MAX_NUMBER):
            shown = f"{value:,}" if abs(value) < 10**18 else "beyond 10**18"
            raise BackboneError(f"{where}: {key[:60]} is {shown}, no network has that")
    elif isinstance(value, float) and not math.isfinite(value):
        raise BackboneError(f"{where}: {key[:60]} is {value}, not a finite number")


def _is_count(key: str) -> bool:
    return any(word in key for word in _COUNTS) or key.endswith("block")
