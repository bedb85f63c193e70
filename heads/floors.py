"""What needs no network: the scores that a feature has to beat, beside chance.

All of it looks at a picture as PSC6K's frame does: stretched to a square, in shades of grey.
Places are (x, y) in fractions of width and height. Features are histograms of oriented gradients
(Dalal & Triggs, CVPR 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heads.protocols import PointPair, PredictedPair

Load = Callable[[str], Image.Image]
"""The picture of an id."""

BINS = 9
"""Directions of a gradient without its sign, over half a turn."""
CLIP = 0.2
"""No entry of a unit descriptor may exceed this, before it is made a unit again."""

GLOBAL_SIDE, GLOBAL_CELL, GLOBAL_BLOCK = 96, 8, 2  # pixels, pixels, cells
DENSE_SIDE, DENSE_CELL, DENSE_REACH = 96, 4, 2  # pixels, pixels, cells on either side
MASK_SIDE = 64  # pixels
THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def grey_square(picture: Image.Image, side: int) -> np.ndarray:
    """The picture stretched to a square, float32 [side, side] from 0 to 1."""
    small = picture.convert("L").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255


def hog_cells(grey: np.ndarray, cell: int) -> np.ndarray:
    """Histograms float64 [H / cell, W / cell, BINS] of the gradients of grey [H, W].

    Every pixel votes with the length of its gradient, shared linearly between the two nearest
    directions and the four nearest cells; what would go to cells beyond the border is lost.
    Raises `ValueError` where the sides are no multiples of `cell` (pixels).
    """
    height, width = grey.shape
    if height % cell or width % cell:
        raise ValueError(f"{height} x {width} pixels are no whole cells of {cell}")
    padded = np.pad(grey.astype(np.float64), 1, mode="edge")
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    # Direction 0 has its centre at half a bin.
    place = np.mod(np.arctan2(dy, dx), np.pi) / np.pi * BINS - 0.5
    lower = np.floor(place)
    upper_share = place - lower
    length = np.hypot(dx, dy)
    votes = np.zeros((height, width, BINS))
    rows, columns = np.indices((height, width))
    votes[rows, columns, lower.astype(int) % BINS] = length * (1 - upper_share)
    votes[rows, columns, (lower.astype(int) + 1) % BINS] += length * upper_share
    to_rows, to_columns = _cell_weights(height, cell), _cell_weights(width, cell)
    return np.einsum("ah,hwb,cw->acb", to_rows, votes, to_columns, optimize=True)


def hog_blocks(cells: np.ndarray, block: int) -> np.ndarray:
    """Descriptors [h - block + 1, w - block + 1, block * block * BINS] of cells [h, w, BINS].

    Each is a block of neighbouring cells, made a unit, clipped and made a unit again (L2-Hys).
    A block without gradients is zeros.
    """
    height, width = (n - block + 1 for n in cells.shape[:2])
    around = [cells[y : y + height, x : x + width] for y in range(block) for x in range(block)]
    return _unit(np.minimum(_unit(np.concatenate(around, axis=2)), CLIP))


def global_hog(load: Load, ids: Sequence[str]) -> Tensor:
    """One descriptor of each picture, float32 [N, 4356]."""
    descriptors = [
        hog_blocks(hog_cells(grey_square(load(name), GLOBAL_SIDE), GLOBAL_CELL), GLOBAL_BLOCK)
        for name in ids
    ]
    return torch.from_numpy(np.stack(descriptors).reshape(len(ids), -1)).float()


def dense_hog(picture: Image.Image) -> np.ndarray:
    """A descriptor of every cell and those around it: unit vectors [24, 24, 225]."""
    cells = hog_cells(grey_square(picture, DENSE_SIDE), DENSE_CELL)
    reach = (DENSE_REACH, DENSE_REACH)
    return hog_blocks(np.pad(cells, (reach, reach, (0, 0))), 2 * DENSE_REACH + 1)


def copied_positions(pairs: Iterable[PointPair]) -> list[PredictedPair]:
    """Each point of one picture at the same place of the other."""
    return [
        PredictedPair(photo_points=pair.sketch_points, sketch_points=pair.photo_points)
        for pair in pairs
    ]


def hog_matches(load: Load, pairs: Iterable[PointPair]) -> list[PredictedPair]:
    """For each point of one picture the centre of the other's cell that looks most like it there;
    among equal cells the first, row by row."""
    matches = []
    for pair in pairs:
        sketch, photo = dense_hog(load(pair.sketch)), dense_hog(load(pair.photo))
        matches.append(
            PredictedPair(
                photo_points=_matched(sketch, photo, pair.sketch_points),
                sketch_points=_matched(photo, sketch, pair.photo_points),
            )
        )
    return matches


def nearest_centroid(train: Tensor, labels: Tensor, test: Tensor, n_classes: int) -> Tensor:
    """Class scores [M, C] of test descriptors [M, D]: cosine with the mean of each class.

    Args:
        train: descriptors [N, D], with `labels` int64 [N]; a class without any scores -1.
    """
    unit = torch.nn.functional.normalize(train.double(), dim=1)
    sums = torch.zeros(n_classes, train.shape[1], dtype=torch.float64).index_add(0, labels, unit)
    centroids = torch.nn.functional.normalize(sums, dim=1)
    scores = torch.nn.functional.normalize(test.double(), dim=1) @ centroids.T
    return scores.masked_fill(labels.bincount(minlength=n_classes) == 0, -1.0).float()


@dataclass(frozen=True, eq=False)
class MeanMask:
    """Where foreground usually lies, whatever the picture shows."""

    share: np.ndarray
    """How often each place was foreground, float32 [MASK_SIDE, MASK_SIDE]."""
    threshold: float
    """From which share on a pixel is called foreground."""

    def predict(self, height: int, width: int) -> Tensor:
        """The mask for a picture of that size in pixels, bool [H, W]."""
        stretched = Image.fromarray(self.share).resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(stretched) >= self.threshold)


def fit_mean_mask(masks: Iterable[np.ndarray]) -> MeanMask:
    """The mean of training masks bool [H, W] of any sizes.

    The threshold is the one of `THRESHOLDS` with the highest mean IoU on the same masks, the
    lowest among equals. Raises `ValueError` where there is no mask.
    """
    squares = [_mask_square(mask) for mask in masks]
    if not squares:
        raise ValueError("no training mask to take the mean of")
    known = np.stack(squares)
    share = known.mean(0, dtype=np.float32)
    return MeanMask(
        share, max(THRESHOLDS, key=lambda threshold: _mean_iou(share, threshold, known))
    )


def _cell_weights(side: int, cell: int) -> np.ndarray:
    """How much of a pixel's vote goes to each cell along one side: [side / cell, side]."""
    centres = (np.arange(side // cell) + 0.5) * cell
    gaps = np.abs(np.subtract.outer(centres, np.arange(side) + 0.5))
    return np.clip(1 - gaps / cell, 0, None)


def _unit(descriptors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(descriptors, axis=-1, keepdims=True)
    return np.divide(descriptors, lengths, out=np.zeros_like(descriptors), where=lengths > 1e-6)


def _matched(source: np.ndarray, target: np.ndarray, points: Tensor) -> Tensor:
    """Centres [K, 2] of the target's cells most like those at the source's points [K, 2]."""
    height, width = target.shape[:2]
    sides = np.array(source.shape[1::-1])
    cells = np.clip(points.numpy() * sides, 0, sides - 1).astype(int)
    likeness = source[cells[:, 1], cells[:, 0]] @ target.reshape(height * width, -1).T
    y, x = np.divmod(likeness.argmax(1), width)
    return torch.from_numpy((np.stack([x, y], axis=1) + 0.5) / (width, height))


def _mask_square(mask: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    small = picture.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small) >= 128


def _mean_iou(share: np.ndarray, threshold: float, masks: np.ndarray) -> float:
    found = share >= threshold
    both, either = (found & masks).sum((1, 2)), (found | masks).sum((1, 2))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())
