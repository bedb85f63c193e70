"""From descriptors to points: where in a photo is what a sketch has at its keypoints?

Points are (x, y) in pixels of the square, from its upper left corner: the first pixel's centre is
(0.5, 0.5), and cell i of a map with G cells a side has its centre at (i + 0.5) * size / G, where
`size` is the square's side in pixels. K is the number of points per pair.

    descriptors = sample_descriptors(sketch_maps, sketch_points, size)
    predicted = soft_argmax(correlate(descriptors, photo_maps), size)
    loss = end_point_error(predicted, photo_points, visible, cell=size / grid)

Only the keypoints' rows of the correlation are ever computed: K instead of G * G of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.transfer import to_device

TEMPERATURE = 0.02
"""The paper's softmax temperature over cosine similarities."""
WINDOW_RADIUS = 7
"""Cells on either side of the maximum in the paper's evaluation: a window of 2 * 7 + 1."""
RELEASED_TARGET_NOISE = 0.05
"""Noise on training targets in the released code, 0.1 * side / 2, as a share of the side."""


def sample_descriptors(maps: Tensor, points: Tensor, size: float) -> Tensor:
    """Descriptors [B, K, P] of maps [B, P, h, w] at points [B, K, 2], bilinear between cells.

    Beyond the outermost cell centres the nearest cell counts. Between cells the descriptors are
    not normalised again: that makes their correlation exactly the one interpolated from the rows
    of the full correlation of two maps. A point that is NaN (not annotated) is read at the centre.
    """
    # -1 and 1 are the outer edges of the map, as they are of the square. A NaN must not get
    # through: the gradient of grid_sample would write outside its memory.
    where = (2 * points / size - 1).nan_to_num(0).clamp(-1, 1).to(maps.dtype)
    sampled = F.grid_sample(
        maps, where[:, :, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[..., 0].transpose(1, 2)


def correlate(descriptors: Tensor, maps: Tensor) -> Tensor:
    """Similarity [B, K, h, w] of descriptors [B, K, P] and every cell of maps [B, P, h, w].

    For descriptors of length 1 it is the cosine.
    """
    return torch.einsum("bkp,bphw->bkhw", descriptors, maps)


def soft_argmax(correlation: Tensor, size: float, temperature: float = TEMPERATURE) -> Tensor:
    """Expected points [B, K, 2] under the softmax of a correlation [B, K, h, w] over its cells."""
    # A temperature of 0.02 makes half precision's rounding visible.
    scores = at_least_float32(correlation).flatten(2) / temperature
    return scores.softmax(-1) @ cell_centres(correlation, size)


def windowed_soft_argmax(
    correlation: Tensor,
    size: float,
    temperature: float = TEMPERATURE,
    radius: int = WINDOW_RADIUS,
) -> Tensor:
    """`soft_argmax` over the cells within `radius` cells of the maximum, in x and in y."""
    windowed = at_least_float32(correlation).masked_fill(
        ~near_maximum(correlation, radius), -torch.inf
    )
    return soft_argmax(windowed, size, temperature)


def near_maximum(correlation: Tensor, radius: int) -> Tensor:
    """bool [B, K, h, w]: cells within `radius` of a correlation's maximum, in x and in y."""
    height, width = correlation.shape[-2:]
    best = correlation.flatten(2).argmax(-1)
    rows = torch.arange(height, device=best.device)
    columns = torch.arange(width, device=best.device)
    near_rows = (rows - (best // width)[..., None]).abs() <= radius
    near_columns = (columns - (best % width)[..., None]).abs() <= radius
    return near_rows[..., :, None] & near_columns[..., None, :]


def nearest_neighbour(correlation: Tensor, size: float) -> Tensor:
    """Centres [B, K, 2] of the most similar cells of a correlation [B, K, h, w]."""
    return cell_centres(correlation, size)[correlation.flatten(2).argmax(-1)]


def cell_centres(maps: Tensor, size: float) -> Tensor:
    """Centres [h * w, 2] of the cells of maps [..., h, w], row by row."""
    height, width = maps.shape[-2:]
    dtype = at_least_float32(maps.new_empty(0)).dtype
    ys = (torch.arange(height, device=maps.device, dtype=dtype) + 0.5) * (size / height)
    xs = (torch.arange(width, device=maps.device, dtype=dtype) + 0.5) * (size / width)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2)


def end_point_error(predicted: Tensor, target: Tensor, valid: Tensor, cell: float) -> Tensor:
    """Mean distance, in cells, of predicted and true points [B, K, 2] where `valid` [B, K] is true.

    `valid` may be on the CPU, which a GPU then need not be asked how many points there are.
    `cell` is the side of a cell in pixels. Every point of the batch counts the same; without any
    valid point the loss is zero, and so are its gradients. Points that are not valid may hold
    anything, NaN included.
    """
    places = tuple(to_device(i, predicted.device) for i in valid.nonzero(as_tuple=True))
    distances = torch.linalg.vector_norm(predicted[places] - target[places], dim=-1) / cell
    return distances.sum() / max(distances.numel(), 1)


def add_target_noise(
    target: Tensor,
    size: float,
    share: float = RELEASED_TARGET_NOISE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Targets [B, K, 2] moved by Gaussian noise with a standard deviation of `share` * size pixels.

    A regulariser of the released training. Drawn on the CPU, so that devices agree.
    """
    noise = torch.randn(target.shape, generator=generator, dtype=target.dtype)
    return target + share * size * noise.to(target.device)


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or in their own type if that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
