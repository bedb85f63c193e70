"""Matching by the released code's equations, for numbers that must compare with the paper's table.

The code is `calculate_keypoint_transformation`, `get_flow`, `kpts_to_patch_idx`, `calculate_loss`
and `Correlation2Displacement` of the authors' repository. Where it differs from `heads.matching`
and why that is not followed by default: docs/differences.md.

A map has G cells a side, of stride s = S / G pixels each if the square has S. Cells are counted
from 0. Points are as in `heads.matching`, in units of which the square has `size` a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heads.matching import (
    TEMPERATURE,
    WINDOW_RADIUS,
    at_least_float32,
    end_point_error,
    near_maximum,
)


def cells_of(points: Tensor, grid: int, size: float) -> Tensor:
    """int64 [B, K, 2]: column and row of the cells that hold points [B, K, 2].

    A point outside the square counts to the nearest cell, a NaN (not annotated) to the first.
    """
    return (points * (grid / size)).nan_to_num(0).floor().long().clamp(0, grid - 1)


def cell_descriptors(maps: Tensor, points: Tensor, size: float) -> Tensor:
    """Descriptors [B, K, P] of the cells of maps [B, P, G, G] that hold points [B, K, 2].

    Not interpolated: every point of a cell has the same descriptor.
    """
    grid = maps.shape[-1]
    cells = cells_of(points, grid, size)
    index = cells[..., 1] * grid + cells[..., 0]
    rows = index[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, rows).transpose(1, 2)


def released_points(
    correlation: Tensor,
    size: float,
    pixels: int,
    temperature: float = TEMPERATURE,
    radius: int = WINDOW_RADIUS,
) -> Tensor:
    """Points [B, K, 2] that the released evaluation reads from a correlation [B, K, G, G].

    With W the cells within `radius` of the maximum in x and in y, c'_ij = c_ij in W and 0
    elsewhere, and w = softmax(c' / temperature) over all cells, the point is

        (sum w_ij j, sum w_ij i) * s + floor(s / 2)    in pixels, s = `pixels` / G,

    so cells beyond the window still weigh exp(-max / temperature) each, and a point is read
    s / 2 - floor(s / 2) pixels before its cell's centre: 0.8 at 336 pixels and 60 cells.
    """
    grid = correlation.shape[-1]
    windowed = at_least_float32(correlation).masked_fill(~near_maximum(correlation, radius), 0)
    index = torch.arange(grid, device=windowed.device, dtype=windowed.dtype)
    cells = _expected(windowed, index, index, temperature)
    stride = pixels / grid
    return (cells.clamp(0, grid - 1) * stride + stride // 2) * (size / pixels)


class ReleasedCoordinates(nn.Module):
    """The training's soft-argmax, whose cell coordinates are trained along with the rest.

    They start as -1 to 1 in equal steps, x and y apart, and are parameters of the optimiser, which
    decays them too; evaluation does not know them. With w = softmax(c / temperature) the expected
    column is (sum w_ij x_j + 1) * (G - 1) / 2.
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, grid))
        self.y = nn.Parameter(torch.linspace(-1, 1, grid))

    def forward(self, correlation: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Expected column and row [B, K, 2] under a correlation [B, K, G, G]."""
        grid = correlation.shape[-1]
        normalised = _expected(at_least_float32(correlation), self.x, self.y, temperature)
        return (normalised + 1) * ((grid - 1) / 2)


def flow_error(
    cells: Tensor, source: Tensor, target: Tensor, valid: Tensor, size: float, grid: int
) -> Tensor:
    """The released loss: mean end-point error, in cells, of the flow of visible points.

    The flow found starts at the first corner of the source point's cell, the true one at the point
    itself: |(cells - floor(u)) - (v - u)| with u and v the source and the target in cells.

    Args:
        cells: expected columns and rows [B, K, 2] in the target picture.
        source: true points [B, K, 2].
        target: what they correspond to [B, K, 2], noise included.
        valid: bool [B, K], of the points that count; without one the loss is zero.
    """
    per_cell = grid / size
    found = cells - cells_of(source, grid, size).to(cells)
    true = (target - source) * per_cell
    return end_point_error(found, true.to(cells), valid, cell=1.0)


def _expected(correlation: Tensor, x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """[B, K, 2]: the mean of x [G] over columns and y [G] over rows, under the softmax."""
    weights = (correlation.flatten(2) / temperature).softmax(-1).reshape(correlation.shape)
    return torch.stack((weights.sum(2) @ x, weights.sum(3) @ y), dim=-1)
