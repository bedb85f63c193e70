"""Descriptors without the aggregation network: the maps side by side, as they are or probed.

These are what the baselines are made of. Every array counts the same: its vectors have length 1
before they are concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.aggregation import DROPOUT, Descriptors, as_map, resize


class Concatenation(nn.Module):
    """Nothing to train: unit vectors of all maps, resized to one grid and concatenated.

    Args:
        arrays: names of the maps.
        globals_of: for some maps the array with the network's own global descriptor, such as
            `clip/pooled` for `clip/tokens`; of the others the mean over the cells is taken.
        grid: cells G per side.
    """

    def __init__(self, arrays: Sequence[str], globals_of: Mapping[str, str], grid: int) -> None:
        super().__init__()
        self.arrays = tuple(arrays)
        self.globals_of = dict(globals_of)
        self.grid = grid

    def forward(self, maps: Mapping[str, Tensor]) -> Descriptors:
        """Descriptors of maps [B, C, h, w] and global descriptors [B, D] by array name."""
        spatial = torch.cat(
            [F.normalize(resize(maps[name], self.grid), dim=1) for name in self.arrays], dim=1
        )
        pooled = torch.cat(
            [
                F.normalize(
                    maps[self.globals_of[name]]
                    if name in self.globals_of
                    else maps[name].mean((2, 3)),
                    dim=1,
                )
                for name in self.arrays
            ],
            dim=1,
        )
        return Descriptors(F.normalize(spatial, dim=1), F.normalize(pooled, dim=1))


class LinearProbe(nn.Module):
    """One 1x1 convolution of the concatenated unit vectors: what is there, linearly read.

    Args:
        channels: channels C by array name.
        width: descriptor channels P.
        grid: cells G per side of the output.
        dropout: share of the values dropped while training.
    """

    def __init__(
        self, channels: Mapping[str, int], width: int, grid: int, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.arrays = tuple(channels)
        self.grid = grid
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Conv2d(sum(channels.values()), width, 1, bias=False)

    def forward(self, maps: Mapping[str, Tensor]) -> Descriptors:
        """Descriptors of maps [B, C, h, w] by array name; of global descriptors [B, D] too."""
        unit = [F.normalize(resize(as_map(maps[name]), self.grid), dim=1) for name in self.arrays]
        projected = self.projection(self.dropout(torch.cat(unit, dim=1))).float()
        return Descriptors(
            F.normalize(projected, dim=1), F.normalize(projected.mean((2, 3)), dim=1)
        )
