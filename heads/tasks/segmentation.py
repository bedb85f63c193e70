"""Sketch-based segmentation: the sketch's descriptor against every cell of the photo's map."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.floors import Load, fit_mean_mask
from heads.protocols import Score, SegmentationPart, SegmentationProtocol
from heads.tasks.base import (
    Describe,
    Fitted,
    Located,
    Task,
    TaskError,
    in_batches,
    permuted,
    pooled_descriptors,
    unique,
)

N_THRESHOLDS = 64
"""Candidates, evenly spaced quantiles of what is found in the training pairs."""
_N_SAMPLED = 1024
"""Values of one pair among which the candidates are sought."""
N_MEAN_MASKS = 1000
"""Training masks that the mean mask is taken of, at most."""
THRESHOLD = "threshold"
"""Under which name the fitted cosine stands from which on a cell is foreground."""
_PHOTOS_AT_ONCE = 16
_PIXELS_AT_ONCE = 2**24
"""Of all the masks of one photo that are found together."""


class SegmentationPair(NamedTuple):
    """A sketch and a photo of its category."""

    sketch: str
    photo: str


class MaskScores(nn.Module):
    """Cosines to logits: a learnable scale and offset."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, cosines: Tensor) -> Tensor:
        return cosines * self.scale + self.offset


@dataclass(frozen=True)
class Segmentation(Task[SegmentationPart, SegmentationPair]):
    """A cell is foreground where it is similar enough to the sketch as a whole."""

    name = "segmentation"
    monitor = headline = "miou"
    needs_cells = True
    compares_cells = True

    protocol: SegmentationProtocol

    def layers(self, width: int) -> nn.Module:
        return MaskScores()

    def batches(self, generator: torch.Generator) -> list[list[SegmentationPair]]:
        """Every training photo once, each with a sketch of its category drawn anew."""
        pairs = self._pairs(self.parts.train, generator)
        if not pairs:
            raise TaskError(
                f"segmentation by {self.protocol.name}: no training photo with a mask and a sketch"
                " of its category; give dataset.masks for the seen categories"
            )
        return in_batches(permuted(pairs, generator), self.settings.batch_size)

    def images(self, batch: Sequence[SegmentationPair]) -> tuple[str, ...]:
        return unique([i for pair in batch for i in pair])

    def loss(self, batch: Sequence[SegmentationPair], found: Located, layers: nn.Module) -> Tensor:
        """Binary cross-entropy of cells, weighted by the share of each that is the picture's."""
        photos = found.spatial([pair.photo for pair in batch])
        cosines = similarity(found.pooled([pair.sketch for pair in batch]), photos)
        grid = photos.shape[-1]
        cells = [self._cells(pair.photo, grid) for pair in batch]
        truth, weight = (torch.stack(both).to(cosines) for both in zip(*cells, strict=True))
        # A cell that is partly margin holds its foreground as a share of the whole cell.
        share = torch.where(weight > 0, truth / weight.clamp(min=1e-6), 0).clamp(0, 1)
        losses = F.binary_cross_entropy_with_logits(layers(cosines), share, reduction="none")
        return (losses * weight).sum() / weight.sum()

    def weight(self, batch: Sequence[SegmentationPair]) -> float:
        """Sum of the shares of the square that are the photos'."""
        return sum(self.frame.area(pair.photo) for pair in batch)

    @classmethod
    def is_fitted(cls, fitted: Fitted) -> bool:
        return THRESHOLD in fitted.numbers

    def fit(self, describe: Describe, layers: nn.Module | None) -> Fitted:
        """The threshold with the highest mean IoU on training pairs (those of `val` where there
        is no training part), the lowest among equals."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        part = self.parts.train
        pairs = self._pairs(part, generator)
        if not pairs:
            part = self.parts.val
            pairs = self._pairs(part, generator)
        pairs = permuted(pairs, generator)[: self.settings.segmentation.n_threshold_pairs]
        if not pairs:
            raise TaskError(
                f"segmentation by {self.protocol.name}: no training photo with a mask to fix the"
                " threshold on"
            )
        truths = [self.mask(part, pair.photo) for pair in pairs]
        return Fitted({THRESHOLD: best_threshold(self.similarities(pairs, describe), truths)})

    def evaluate(
        self, part: SegmentationPart, describe: Describe, layers: nn.Module | None, fitted: Fitted
    ) -> Score:
        return self.protocol.score(self._masks(part, describe, fitted.numbers[THRESHOLD]))

    def floors(self, load: Load) -> dict[str, Score]:
        train, test = self.parts.train, self.parts.test
        if not train.gallery:
            return {}
        step = -(-len(train.gallery) // N_MEAN_MASKS)
        mean = fit_mean_mask(self.mask(train, photo).numpy() for photo in train.gallery[::step])

        @lru_cache(maxsize=1)  # Combinations come photo by photo.
        def found_and_true(photo: str) -> tuple[Tensor, Tensor]:
            truth = self.mask(test, photo)
            return mean.predict(*truth.shape), truth

        return {
            "mean mask": self.protocol.score(
                (*found_and_true(photo), category) for _, photo, category in test.combinations()
            )
        }

    def similarities(self, pairs: Sequence[SegmentationPair], describe: Describe) -> list[Tensor]:
        """The sketch's cosine with every pixel of the photo, [H, W] for each pair; a pixel is
        foreground from the fitted threshold on."""
        found = []
        for batch in in_batches(pairs, _PHOTOS_AT_ONCE):
            ids = self.images(batch)
            located = Located.of(ids, describe(ids))
            cosines = similarity(
                located.pooled([pair.sketch for pair in batch]),
                located.spatial([pair.photo for pair in batch]),
            ).cpu()
            for pair, cosine in zip(batch, cosines, strict=True):
                found.append(self.frame.on_picture(pair.photo, cosine[None])[0])
        return found

    def _masks(
        self, part: SegmentationPart, describe: Describe, threshold: float
    ) -> Iterator[tuple[Tensor, Tensor, str]]:
        """(found, true, category) for every sketch and photo of one category, photo by photo."""
        sketches = dict(zip(part.queries, pooled_descriptors(describe, part.queries), strict=True))
        by_category: dict[str, list[Tensor]] = defaultdict(list)
        for sketch, category in zip(part.queries, part.query_categories, strict=True):
            by_category[category].append(sketches[sketch])
        photos = [
            (photo, category)
            for photo, category in zip(part.gallery, part.gallery_categories, strict=True)
            if category in by_category
        ]
        for batch in in_batches(photos, _PHOTOS_AT_ONCE):
            maps = describe([photo for photo, _ in batch]).spatial.cpu()
            for (photo, category), photo_map in zip(batch, maps, strict=True):
                truth = self.mask(part, photo)
                queries = torch.stack(by_category[category])
                for some in queries.split(max(1, _PIXELS_AT_ONCE // truth.numel())):
                    cosines = similarity(some, photo_map.expand(len(some), -1, -1, -1))
                    for found in self.frame.on_picture(photo, cosines):
                        yield found >= threshold, truth, category

    def _pairs(self, part: SegmentationPart, generator: torch.Generator) -> list[SegmentationPair]:
        sketches: dict[str, list[str]] = defaultdict(list)
        for sketch, category in zip(part.queries, part.query_categories, strict=True):
            sketches[category].append(sketch)
        pairs = []
        for photo, category in zip(part.gallery, part.gallery_categories, strict=True):
            choices = sketches.get(category)
            if choices:
                chosen = int(torch.randint(len(choices), (), generator=generator))
                pairs.append(SegmentationPair(choices[chosen], photo))
        return pairs

    def _cells(self, photo: str, grid: int) -> tuple[Tensor, Tensor]:
        key = (photo, grid)
        if key not in self._known_cells:
            mask = self.mask(self.parts.train, photo)
            self._known_cells[key] = self.frame.on_grid(photo, mask, grid)
        return self._known_cells[key]

    def mask(self, part: SegmentationPart, photo: str) -> Tensor:
        """A photo's foreground, bool [H, W]. Raises TaskError where it has another size."""
        mask = np.ascontiguousarray(part.masks[photo](), dtype=bool)
        width, height = self.frame.sizes[photo]
        if mask.shape != (height, width):
            raise TaskError(
                f"the mask of {photo} has {' x '.join(map(str, mask.shape[::-1]))} pixels, the "
                f"photo {width} x {height}; give one of the photo's size"
            )
        return torch.from_numpy(mask)

    @cached_property
    def _known_cells(self) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Masks on the grid: a photo's is drawn or read once, not in every epoch."""
        return {}


def similarity(sketches: Tensor, photos: Tensor) -> Tensor:
    """Cosines [B, G, G] of sketches' descriptors [B, P] and photos' maps [B, P, G, G]."""
    return torch.einsum("bp,bphw->bhw", sketches, photos)


def best_threshold(found: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """The cut of similarity maps [H, W] with the highest mean IoU with masks bool [H, W].

    Candidates are quantiles of all values; an image without foreground scores 1 where nothing is
    found in it.
    """
    sample = torch.cat([_thinned(values) for values in found])
    shares = np.linspace(0.01, 0.99, N_THRESHOLDS)
    candidates = torch.from_numpy(np.unique(np.quantile(sample.float().numpy(), shares))).float()
    totals = torch.zeros(len(candidates), dtype=torch.float64)
    for values, truth in zip(found, truths, strict=True):
        n_passed = torch.bucketize(values, candidates, right=True)
        both = _n_above(n_passed[truth], len(candidates))
        either = _n_above(n_passed.flatten(), len(candidates)) + truth.sum() - both
        totals += torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return float(candidates[int(totals.argmax())])


def _thinned(values: Tensor) -> Tensor:
    """About `_N_SAMPLED` values of a map [H, W], as far apart in both directions."""
    step = max(1, math.isqrt(values.numel() // _N_SAMPLED))
    return values[::step, ::step].flatten()


def _n_above(counts: Tensor, n: int) -> Tensor:
    """How many of the counts [K], 0 to n, exceed each of 0 to n - 1: int64 [n]."""
    return counts.bincount(minlength=n + 1).flip(0).cumsum(0).flip(0)[1:]
