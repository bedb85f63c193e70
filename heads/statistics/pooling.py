"""How a feature map becomes one vector: statistics of each channel over the map's cells.

The mean over the cells is what the paper and nearly everybody pools by. It deletes how a channel
varies from cell to cell, which in some networks is most of what the channel knows
(docs/pooling.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from configs.train import Pooling

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

STATISTICS = ("mean", "deviation", "soft maximum", "soft minimum")
"""Rows of what `channel_statistics` returns."""
USES: Mapping[Pooling, tuple[int, ...]] = {
    "mean": (0,),
    "deviation": (1,),
    "extremes": (2, 3),
    "joined": (0, 1, 2, 3),
}
"""Which of the statistics each pooling takes."""
SHARPNESS = 2.0
"""Of the soft extremes: 0 would be the mean, infinity the maximum and the minimum themselves."""


def channel_statistics(maps: Tensor, scale: Tensor) -> Tensor:
    """Four statistics of every channel over the cells: [B, 4, C] of maps [B, C, h, w].

    With x the values of a channel divided by its `scale` and n cells, in the order of
    `STATISTICS`:

        mean          1/n sum(x)
        deviation     sqrt(1/n sum((x - mean)^2))
        soft maximum   1/b log(1/n sum(exp( b x)))      b = SHARPNESS
        soft minimum  -1/b log(1/n sum(exp(-b x)))

    Args:
        maps: float32 or wider; half precision is widened.
        scale: [C], each channel's standard deviation over the cells of training images.
    """
    values = maps.float().flatten(2) / scale[:, None].to(maps.device)
    log_n = math.log(values.shape[2])
    highest = (torch.logsumexp(SHARPNESS * values, 2) - log_n) / SHARPNESS
    lowest = (log_n - torch.logsumexp(-SHARPNESS * values, 2)) / SHARPNESS
    deviation = values.var(2, correction=0).sqrt()
    return torch.stack((values.mean(2), deviation, highest, lowest), dim=1)


def pooled(statistics: Tensor, pooling: Pooling) -> Tensor:
    """The statistics [B, 4, C] that a pooling takes, side by side: [B, C], [B, 2 C] or [B, 4 C]."""
    return statistics[:, list(USES[pooling])].flatten(1)


def pooled_width(n_channels: int, pooling: Pooling) -> int:
    """Length of what `pooled` returns for maps of so many channels."""
    return n_channels * len(USES[pooling])


class ScaleMeter:
    """Each channel's standard deviation over the cells of all images seen, in float64."""

    def __init__(self) -> None:
        self._n = 0
        self._shift: Tensor | None = None
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, maps: Tensor) -> None:
        """Add maps [B, C, h, w]."""
        values = maps.double().transpose(0, 1).flatten(1)
        if self._shift is None or self._sum is None or self._squares is None:
            self._shift = values.mean(1)
            self._sum = torch.zeros_like(self._shift)
            self._squares = torch.zeros_like(self._shift)
        values = values - self._shift[:, None]
        self._n += values.shape[1]
        self._sum += values.sum(1)
        self._squares += values.square().sum(1)

    def result(self) -> Tensor:
        """float32 [C]; 1 for a channel that never varies. Raises ValueError before any map."""
        if self._sum is None or self._squares is None:
            raise ValueError("scales: no maps yet")
        variance = self._squares / self._n - (self._sum / self._n).square()
        scale = variance.clamp(min=0).sqrt().float()
        return torch.where(scale > 0, scale, 1.0)
