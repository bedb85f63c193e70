"""Sketch-photo correspondence: which pairs are trained on, and which points are counted.

As PSC6K's own evaluation and the released code do, both directions are counted: the photo's points
found for those of the sketch, and the sketch's points found for those of the photo.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heads.metrics.correspondence import errors, pck, within
from heads.protocols.base import Change, Images, Parts, Protocol, Score, Units, some
from heads.protocols.chance import disc_share
from heads.protocols.partition import VAL_SHARE, held_back
from pipeline.datasets.base import Annotations, Pair


@dataclass(frozen=True, eq=False)
class PointPair:
    """A sketch and a photo with corresponding points float64 [K, 2].

    Points are (x, y) in fractions of an image's width and height, from its upper left corner:
    the square frame in which PSC6K gives its points and measures its errors. `visible` is bool
    [K]; rows of points that are not visible are 0.
    """

    sketch: str
    photo: str
    category: str | None
    sketch_points: Tensor
    photo_points: Tensor
    visible: Tensor


@dataclass(frozen=True, eq=False)
class PredictedPair:
    """What was found for a `PointPair`, float64 [K, 2] in the same fractions."""

    photo_points: Tensor
    """For the sketch's points."""
    sketch_points: Tensor
    """For the photo's points."""


@dataclass(frozen=True)
class CorrespondencePart:
    """Pairs with at least one visible point."""

    pairs: tuple[PointPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(i for pair in self.pairs for i in (pair.sketch, pair.photo)))


_BOTH_DIRECTIONS = (
    "PCK is the mean of sketch to photo and photo to sketch, and training learns both; "
    "version 1 counted and trained sketch to photo alone"
)


@dataclass(frozen=True)
class CorrespondenceProtocol(Protocol[CorrespondencePart]):
    """PCK, mean over both directions; errors are measured in the square frame of the target."""

    task = "correspondence"
    metrics = ("pck@5", "pck@10", "pck@15")

    strict: bool = False
    """Count errors below alpha of the size; else those that equal it too."""
    seed: int = 0
    """Of the validation pairs, where the dataset has none of its own."""

    @property
    def variants(self) -> dict[str, str]:
        return {"threshold": "<" if self.strict else "<="}

    @property
    def changes(self) -> tuple[Change, ...]:
        return (Change(_BOTH_DIRECTIONS, self.metrics),)

    def score(self, part: CorrespondencePart, predicted: Sequence[PredictedPair]) -> Score:
        """Scores of one prediction per pair, each direction's own beside them."""
        visible = [pair.visible for pair in part.pairs]
        to_photo = pck(
            [found.photo_points for found in predicted],
            [pair.photo_points for pair in part.pairs],
            visible,
            strict=self.strict,
        )
        to_sketch = pck(
            [found.sketch_points for found in predicted],
            [pair.sketch_points for pair in part.pairs],
            visible,
            strict=self.strict,
        )
        metrics: dict[str, float] = {}
        beside: dict[str, float] = {}
        for name in to_photo.metrics:
            both = to_photo.metrics[name], to_sketch.metrics[name]
            metrics[name] = sum(both) / 2
            beside |= zip((f"{name} sketch to photo", f"{name} photo to sketch"), both, strict=True)
        values = (to_photo.values + to_sketch.values) / 2
        names = [pair.category or "" for pair in part.pairs if pair.visible.any()]
        categories, labels = np.unique(names, return_inverse=True)
        units = Units(values.numpy(), labels, tuple(categories.tolist()))
        return Score(metrics, to_photo.n_pairs, beside, units=units)

    def right(self, truth: Tensor, predicted: Tensor, percent: float) -> Tensor:
        """bool [K]: which points [K, 2] are found, as PCK@`percent` counts them."""
        return within(errors(predicted, truth), percent, strict=self.strict)

    def chance(self, part: CorrespondencePart) -> dict[str, float]:
        """Of a place anywhere in the target: the share of its area within reach of the point."""
        targets = [
            points[pair.visible].numpy()
            for pair in part.pairs
            for points in (pair.photo_points, pair.sketch_points)
        ]
        ends = np.cumsum([len(points) for points in targets])[:-1]
        levels = {}
        for percent in (5, 10, 15):
            shares = np.split(disc_share(np.concatenate(targets), percent / 100), ends)
            levels[f"pck@{percent}"] = float(np.mean([share.mean() for share in shares]))
        return levels

    def apply(self, annotations: Annotations, images: Images) -> Parts[CorrespondencePart]:
        pairs = [
            pair for pair in annotations.pairs if pair.sketch in images and pair.photo in images
        ]
        usable = [(pair, points) for pair in pairs if (points := _points(pair, images))]
        if not usable:
            raise self._error(
                f"none of the {len(pairs)} pairs among {len(images)} images has points; it needs"
                " annotated pairs, such as psc6k's tables or shapes"
            )
        notes = []
        if len(usable) < len(pairs):
            notes.append(f"{len(pairs) - len(usable)} pairs without a visible point left out")
        usable.sort(key=lambda both: (both[0].photo, both[0].sketch))
        parts, complete = self._divided([pair for pair, _ in usable], notes)
        points_of = {id(pair): points for pair, points in usable}
        train, val, test = (
            CorrespondencePart(tuple(points_of[id(pair)] for pair in part)) for part in parts
        )
        return Parts(train, val, test, tuple(notes), complete)

    @abstractmethod
    def _divided(
        self, pairs: Sequence[Pair], notes: list[str]
    ) -> tuple[tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]], bool]:
        """Train, val and test of pairs sorted by photo, and whether that is all there should be."""


@dataclass(frozen=True)
class OwnPairs(CorrespondenceProtocol):
    """The dataset's own parts. Without validation pairs, a seeded tenth of the training photos."""

    n_expected: int | None = None
    """Test pairs of the whole benchmark."""
    excluded: frozenset[str] = frozenset()
    """Categories of another version of the dataset, which has a protocol of its own."""

    def _divided(
        self, pairs: Sequence[Pair], notes: list[str]
    ) -> tuple[tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]], bool]:
        excluded = self.excluded.intersection(pair.category for pair in pairs if pair.category)
        if excluded:
            raise self._error(
                f"there are pairs of {some(list(excluded))}, which another protocol is about;"
                " leave train.protocol out to use the dataset's own"
            )
        train, val, test = (
            [pair for pair in pairs if pair.split == split] for split in ("train", "val", "test")
        )
        if not test:
            raise self._error(
                f"none of the {len(pairs)} annotated pairs is a test pair"
                f" (they are {_splits(pairs)}); psc6k's are in test_pairs_ps.csv"
            )
        if train and not val:
            chosen = held_back({pair.photo: pair.category for pair in train}, VAL_SHARE, self.seed)
            val = [pair for pair in train if pair.photo in chosen]
            train = [pair for pair in train if pair.photo not in chosen]
        if not train:
            notes.append("no annotated training pairs")
        complete = self.n_expected in (None, len(test))
        if not complete:
            notes.append(f"{len(test):,} of {self.n_expected:,} test pairs")
        return (train, val, test), complete


@dataclass(frozen=True)
class ReleasedPairs(CorrespondenceProtocol):
    """What the released code does: it trains on annotated *test* pairs.

    Per category the first 30 by photo path are trained on and the next 20 evaluated. There is no
    validation part. Numbers are not comparable with the benchmark's own.
    """

    strict: bool = True
    n_train: int = 30
    n_test: int = 20
    n_categories: int = 125

    def _divided(
        self, pairs: Sequence[Pair], notes: list[str]
    ) -> tuple[tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]], bool]:
        by_category: dict[str | None, list[Pair]] = defaultdict(list)
        for pair in pairs:
            if pair.split == "test":
                by_category[pair.category].append(pair)
        train, test = [], []
        for members in by_category.values():
            train += members[: self.n_train]
            test += members[self.n_train : self.n_train + self.n_test]
        if not test:
            raise self._error(
                f"no category has more than the {self.n_train} annotated test pairs to train on"
                f" (the {len(pairs)} pairs are {_splits(pairs)});"
                " psc6k-official evaluates all test pairs"
            )
        complete = len(test) == self.n_test * self.n_categories
        if not complete:
            notes.append(f"{len(test):,} of {self.n_test * self.n_categories:,} pairs to evaluate")
        return (train, [], test), complete


def _splits(pairs: Collection[Pair]) -> str:
    counts = Counter(pair.split or "without a split" for pair in pairs)
    return ", ".join(f"{n} {split}" for split, n in sorted(counts.items()))


def _points(pair: Pair, images: Images) -> PointPair | None:
    """The pair in fractions of its images; None where no point is known in both."""
    if pair.sketch_points is None or pair.photo_points is None:
        return None
    ours = pair.sketch_points / np.array(images[pair.sketch])
    theirs = pair.photo_points / np.array(images[pair.photo])
    seen = np.isfinite(ours).all(1) & np.isfinite(theirs).all(1)
    if pair.visible is not None:
        seen &= pair.visible
    if not seen.any():
        return None
    ours, theirs = np.where(seen[:, None], ours, 0.0), np.where(seen[:, None], theirs, 0.0)
    return PointPair(
        pair.sketch,
        pair.photo,
        pair.category,
        torch.from_numpy(ours),
        torch.from_numpy(theirs),
        torch.from_numpy(seen),
    )
