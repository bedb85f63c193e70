"""PCK@alpha: the share of a pair's points found within alpha times the size of the picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PCKScores:
    """Means over the pairs that have a visible point; the others are excluded and counted."""

    metrics: Mapping[str, float]
    values: Tensor
    """float64 [pairs, M]: each pair's own PCK, a column for each metric."""
    n_pairs: int
    n_excluded: int


def pck(
    predicted: Iterable[Tensor],
    truth: Iterable[Tensor],
    visible: Iterable[Tensor],
    size: float = 1.0,
    percents: Sequence[float] = (5, 10, 15),
    strict: bool = False,
) -> PCKScores:
    """PCK under the names `pck@5`, `pck@10`, `pck@15`, for alpha of 0.05, 0.10 and 0.15.

    Args:
        predicted: points [K, 2] of each pair, in any unit; K may differ from pair to pair.
        truth: points [K, 2]; those that are not visible may be anything.
        visible: bool [K].
        size: of the picture, in the same unit.
        percents: alpha times 100.
        strict: count an error below alpha * size; else one that equals it too.

    Raises `ValueError` where no pair has a visible point, and for a NaN among visible points.
    """
    rates: list[Tensor] = []
    n_excluded = 0
    for row, (ours, theirs, seen) in enumerate(zip(predicted, truth, visible, strict=True)):
        if ours.shape != theirs.shape or seen.shape != ours.shape[:1]:
            raise ValueError(
                f"pair {row}: points {list(ours.shape)} for {list(theirs.shape)},"
                f" visible {list(seen.shape)}"
            )
        seen = seen.cpu()
        if not seen.any():
            n_excluded += 1
            continue
        error = errors(ours, theirs)[seen]
        if error.isnan().any():
            raise ValueError(f"pair {row}: a visible point is not a number")
        found = [within(error, percent, size, strict) for percent in percents]
        rates.append(torch.stack(found).double().mean(1))
    if not rates:
        raise ValueError(f"no pair has a visible point: {n_excluded} pairs given")
    values = torch.stack(rates)
    names = [f"pck@{percent:g}" for percent in percents]
    means = dict(zip(names, values.mean(0).tolist(), strict=True))
    return PCKScores(means, values, len(rates), n_excluded)


def errors(predicted: Tensor, truth: Tensor) -> Tensor:
    """Distances float64 [K] of points [K, 2] of one pair, on the CPU."""
    return torch.linalg.vector_norm(predicted.cpu().double() - truth.cpu().double(), dim=1)


def within(error: Tensor, percent: float, size: float = 1.0, strict: bool = False) -> Tensor:
    """bool [K]: which errors PCK@`percent` counts as found. Arguments as in `pck`."""
    reach = percent / 100 * size
    return error < reach if strict else error <= reach
