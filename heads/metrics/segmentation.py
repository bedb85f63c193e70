"""Segmentation: mean intersection over union of the foreground, and pixel accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SegmentationScores:
    """`miou` and `pacc` under `metrics`, and the mean IoU of each category."""

    metrics: Mapping[str, float]
    by_category: Mapping[str, float]
    ious: Mapping[str, Tensor]
    """float64 [masks] of each category, in the order they were counted in."""
    right: Mapping[str, Tensor]
    """Share of each mask's pixels that are right, in the same order."""
    pixels: Mapping[str, Tensor]
    """Number of each mask's pixels, float64 in the same order."""
    n_masks: int
    n_empty: int
    """Masks whose truth has no foreground."""


def iou(predicted: Tensor, truth: Tensor) -> float:
    """Intersection over union of the foreground of two bool [H, W]; 1 where both are empty."""
    if predicted.shape != truth.shape:
        raise ValueError(f"a mask {list(predicted.shape)} for a truth {list(truth.shape)}")
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


class SegmentationMeter:
    """Takes masks one by one, so that they need not all be in memory.

    `miou` is the mean over categories of the mean IoU of their masks; `pacc` the share of all
    pixels that are right. Nothing found where there is nothing is an IoU of 1, anything found
    there an IoU of 0.
    """

    def __init__(self) -> None:
        self._ious: dict[str, list[float]] = defaultdict(list)
        self._n_right: dict[str, list[int]] = defaultdict(list)
        self._n_pixels: dict[str, list[int]] = defaultdict(list)
        self._n_empty = 0

    def update(self, predicted: Tensor, truth: Tensor, category: str) -> None:
        """Count one mask: bool [H, W] each. Raises `ValueError` for different shapes or types."""
        if predicted.dtype != torch.bool or truth.dtype != torch.bool:
            raise ValueError(f"masks must be bool, not {predicted.dtype} and {truth.dtype}")
        self._ious[category].append(iou(predicted, truth))
        self._n_right[category].append(int((predicted == truth).sum()))
        self._n_pixels[category].append(truth.numel())
        self._n_empty += not truth.any()

    def result(self) -> SegmentationScores:
        """Everything counted so far. Raises `ValueError` before the first mask."""
        n_pixels = sum(sum(counts) for counts in self._n_pixels.values())
        if not n_pixels:
            raise ValueError("no mask to score")
        by_category = {name: sum(values) / len(values) for name, values in self._ious.items()}
        metrics = {
            "miou": sum(by_category.values()) / len(by_category),
            "pacc": sum(sum(counts) for counts in self._n_right.values()) / n_pixels,
        }
        n_masks = sum(len(values) for values in self._ious.values())
        ious, n_right, pixels = (
            {name: torch.tensor(values, dtype=torch.float64) for name, values in lists.items()}
            for lists in (self._ious, self._n_right, self._n_pixels)
        )
        right = {name: counts / pixels[name] for name, counts in n_right.items()}
        return SegmentationScores(metrics, by_category, ious, right, pixels, n_masks, self._n_empty)
