"""Sketch-based segmentation: for each sketch, a mask for every photo of its category."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from heads.metrics.segmentation import SegmentationMeter, SegmentationScores
from heads.protocols.base import Score, Units
from heads.protocols.class_splits import ClassSplitProtocol, SearchPart, search_part
from pipeline.datasets.base import Annotations, Label


@dataclass(frozen=True)
class SegmentationPart(SearchPart):
    """Sketches, and photos whose foreground is known."""

    masks: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    """Loads a photo's foreground, bool [H, W], for every photo of the gallery."""

    def combinations(self) -> Iterator[tuple[str, str, str]]:
        """Every (sketch, photo, category) to find a mask for, photo by photo."""
        sketches: dict[str, list[str]] = defaultdict(list)
        for sketch, category in zip(self.queries, self.query_categories, strict=True):
            sketches[category].append(sketch)
        for photo, category in zip(self.gallery, self.gallery_categories, strict=True):
            for sketch in sketches[category]:
                yield sketch, photo, category


@dataclass(frozen=True)
class SegmentationProtocol(ClassSplitProtocol[SegmentationPart]):
    """Segmentation of photos of unseen categories. Thresholds come from `train` or `val`."""

    task = "segmentation"
    metrics = ("miou", "pacc")

    def score(self, masks: Iterable[tuple[Tensor, Tensor, str]]) -> Score:
        """Scores of (found, true, category), masks bool [H, W] in the photo's pixels."""
        meter = SegmentationMeter()
        for found, truth, category in masks:
            meter.update(found, truth, category)
        scores = meter.result()
        empty = scores.n_empty
        notes = (f"{empty} masks have no true foreground",) if empty else ()
        return Score(scores.metrics, scores.n_masks, notes=notes, units=_units(scores))

    def chance(self, part: SegmentationPart) -> dict[str, float]:
        """Of tossing a coin for every pixel: half are right, and of a foreground that takes the
        share s of a photo the IoU is s / (1 + s). Loads every mask once."""
        n_sketches = Counter(part.query_categories)
        ious: dict[str, list[float]] = defaultdict(list)
        for photo, category in zip(part.gallery, part.gallery_categories, strict=True):
            if n_sketches[category]:
                share = float(part.masks[photo]().mean())
                ious[category].append(share / (1 + share))
        return {"miou": float(np.mean([np.mean(values) for values in ious.values()])), "pacc": 0.5}

    def _usable(
        self, labels: Mapping[str, Label], annotations: Annotations, notes: list[str]
    ) -> dict[str, Label]:
        """Every sketch, and the photos with a mask."""
        usable = {
            name: label
            for name, label in labels.items()
            if label.domain == "sketch" or name in annotations.masks
        }
        if not any(label.domain == "photo" for label in usable.values()):
            raise self._error(
                "no photo has a mask; set dataset.masks to a folder of them,"
                " <class>/<photo's name>.png"
            )
        n_lost = len(labels) - len(usable)
        if n_lost:
            notes.append(f"{n_lost} photos without a mask left out")
        return usable

    def _part(self, labels: Mapping[str, Label], annotations: Annotations) -> SegmentationPart:
        search = search_part(labels)
        return SegmentationPart(
            search.queries,
            search.query_categories,
            search.sources,
            search.gallery,
            search.gallery_categories,
            {photo: annotations.masks[photo] for photo in search.gallery},
        )


def _units(scores: SegmentationScores) -> Units:
    """The masks with their IoU, of which every category has the same weight, and their share of
    right pixels, of which every pixel has."""
    columns = [torch.stack([ious, scores.right[name]], dim=1) for name, ious in scores.ious.items()]
    weights = [
        torch.stack([torch.full_like(ious, 1 / len(ious)), scores.pixels[name]], dim=1)
        for name, ious in scores.ious.items()
    ]
    labels = np.repeat(np.arange(len(columns)), [len(rows) for rows in columns])
    names = tuple(scores.ious)
    return Units(torch.cat(columns).numpy(), labels, names, torch.cat(weights).numpy())
