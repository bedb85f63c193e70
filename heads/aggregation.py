"""The aggregation network: layer maps of several sizes become one descriptor per cell.

Each layer goes through a bottleneck block of its own, onto one grid; the results are added with
learnable weights (paper, section 4). It is what is trained on top of the features, in every task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 1280
"""The paper's descriptor width P."""
GRID = 60
"""Cells per side of the paper's descriptor map."""
DROPOUT = 0.5
"""Share of the input values that the paper drops while training."""
GROUPS = 32
"""The paper's groups of channels that are normalised together: 40 channels each at its width."""

_TIMESTEP = re.compile(r"(?<=/)t\d+/")


class Descriptors(NamedTuple):
    """What the network knows of each image, float32, every descriptor of length 1.

    A cell to which no layer contributes anything (all its values are zero) is the zero vector.
    """

    spatial: Tensor
    """One descriptor per cell: [B, P, G, G], of length 1 over the channels."""
    pooled: Tensor
    """One per image: [B, P], the mean of the cells before they were normalised, normalised."""
    corrected: Tensor | None = None
    """The part of `pooled` that is trained, [B, Q], normalised; None if all of it is."""


class AggregationNetwork(nn.Module):
    """Sums the layers' bottleneck blocks with softmax-normalised mixing weights.

    There is one mixing weight per array, that is per timestep and layer, and one block per layer:
    `sd/t195/s3` and `sd/t400/s3` share theirs. Any array of maps is a layer, `clip/tokens` too.

    Args:
        channels: channels C by array name.
        width: descriptor channels P, a multiple of 4.
        grid: cells G per side of the output.
        dropout: share of the layer maps' values dropped while training. It acts on the map as
            given, before anything is resized: one value of the map is the unit that is dropped.
        dropout_on_grid: resize the maps first, so that one value of the resized map is the unit,
            as in the released code. About twice the work while values are dropped.
        groups: of channels in every group normalisation, or the next smaller number that divides
            them. A narrow network needs fewer: a group of one channel loses its mean over the
            cells, and so what a pooled descriptor is made of.

    Raises:
        ValueError: no arrays, a width that is no multiple of 4, or arrays of one layer that
            differ in channels.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        width: int = WIDTH,
        grid: int = GRID,
        dropout: float = DROPOUT,
        groups: int = GROUPS,
        dropout_on_grid: bool = False,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("aggregation: needs at least one array of feature maps")
        if width % 4:
            raise ValueError(f"aggregation: width {width} is not a multiple of 4")
        self.arrays = tuple(channels)
        self.grid = grid
        self.dropout = nn.Dropout(dropout)
        self.dropout_on_grid = dropout_on_grid
        by_layer: dict[str, int] = {}
        for name, count in channels.items():
            if by_layer.setdefault(layer_of(name), count) != count:
                raise ValueError(
                    f"aggregation: {name} has {count} channels, the same layer at another "
                    f"timestep {by_layer[layer_of(name)]}; they cannot share a block"
                )
        self.blocks = nn.ModuleDict(
            {layer: Bottleneck(count, width, groups) for layer, count in by_layer.items()}
        )
        # Under the arrays' names, so that weights are never loaded for another timestep.
        self.mixing = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in channels})

    def forward(self, maps: Mapping[str, Tensor]) -> Descriptors:
        """Descriptors of layer maps [B, C, h, w] by array name; other arrays are ignored.

        A global descriptor [B, D] counts as a map of one cell.
        """
        aggregated: Tensor | None = None
        for name, weight in zip(self.arrays, self._normalised_mixing(), strict=True):
            block = self.blocks[layer_of(name)]
            layer_map = as_map(maps[name])
            if self.dropout_on_grid and self.dropout.training:
                layer_map = resize(layer_map, self.grid)
            part = weight * block(self.dropout(layer_map), self.grid)
            aggregated = part if aggregated is None else aggregated + part
        assert aggregated is not None
        # Half precision cannot hold the squares that a length is made of.
        aggregated = aggregated.float()
        return Descriptors(
            F.normalize(aggregated, dim=1), F.normalize(aggregated.mean((2, 3)), dim=1)
        )

    def mixing_weights(self) -> dict[str, float]:
        """Each array's share in the sum; they add up to 1."""
        return dict(zip(self.arrays, self._normalised_mixing().tolist(), strict=True))

    def _normalised_mixing(self) -> Tensor:
        return torch.stack([self.mixing[name] for name in self.arrays]).softmax(0)


class Bottleneck(nn.Module):
    """A layer map [B, C, h, w] to [B, P, G, G]: 1x1 to P/4, 3x3, 1x1 to P, and a 1x1 shortcut.

    The block is defined on the map resized to the grid. A 1x1 convolution without bias commutes
    with bilinear resizing, so the two that come first run at the layer's own, smaller size, and
    their results are resized: the same numbers for about half the work. Group normalisation does
    not commute and runs on the grid.
    """

    def __init__(self, channels: int, width: int, groups: int = GROUPS) -> None:
        super().__init__()
        inner = width // 4
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = _group_norm(inner, groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.norm2 = _group_norm(inner, groups)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.norm3 = _group_norm(width, groups)
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False)
        self.shortcut_norm = _group_norm(width, groups)
        for conv in (self.conv1, self.conv2, self.conv3, self.shortcut):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, layer_map: Tensor, grid: int) -> Tensor:
        """The block's output on a grid of `grid` x `grid` cells."""
        hidden = F.relu(self.norm1(resize(self.conv1(layer_map), grid)))
        hidden = F.relu(self.norm2(self.conv2(hidden)))
        shortcut = self.shortcut_norm(resize(self.shortcut(layer_map), grid))
        return F.relu(self.norm3(self.conv3(hidden)) + shortcut)


def layer_of(array: str) -> str:
    """The layer of an array: its name without the timestep (`sd/t195/s3` is `sd/s3`)."""
    return _TIMESTEP.sub("", array)


def as_map(values: Tensor) -> Tensor:
    """A map [B, C, h, w] as it is; a global descriptor [B, D] as a map [B, D, 1, 1]."""
    return values[:, :, None, None] if values.ndim == 2 else values


def resize(layer_map: Tensor, grid: int) -> Tensor:
    """A map [B, C, h, w] bilinearly resized to [B, C, grid, grid]."""
    return F.interpolate(layer_map, size=(grid, grid), mode="bilinear", align_corners=False)


def _group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """So many groups; where they do not divide the channels, the next smaller number."""
    fitting = next(n for n in range(min(groups, channels), 0, -1) if channels % n == 0)
    return nn.GroupNorm(fitting, channels)
