"""Pairs of the test part with the points that the run finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from heads.explain.choosing import CANDIDATES, best_to_worst, named, spread
from heads.explain.opened import Explained
from heads.plots.records import Match
from heads.protocols import PointPair, PredictedPair
from heads.tasks.correspondence import Correspondence

PERCENT = 10
"""A point counts as right within so many hundredths of the photo's size: PCK@10."""


def find_matches(explained: Explained, n: int, ids: Sequence[str] = ()) -> list[Match]:
    """At most `n` pairs from sketch to photo, best first; with `ids` pairs that have one of these
    images.

    Points that cannot be seen in both pictures are left out. Raises ExplainError for a run of
    another task or an unknown id, and OSError, DatasetError or ImageError for a picture.
    """
    task = explained.experiment.task
    if not isinstance(task, Correspondence):
        raise explained.other_task("matches")
    pairs: Sequence[PointPair] = task.parts.test.pairs
    if ids:
        candidates = named(pairs, lambda pair: (pair.sketch, pair.photo), ids)[:n]
    else:
        candidates = spread(pairs, lambda pair: pair.category, n * CANDIDATES)
    predicted = task.predict(candidates, explained.describe)
    found = list(zip(candidates, predicted, strict=True))
    rights = [
        task.protocol.right(pair.photo_points, points.photo_points, PERCENT)[pair.visible]
        for pair, points in found
    ]
    matched = list(zip(found, rights, strict=True))
    chosen = best_to_worst(matched, [float(right.double().mean()) for right in rights], n)
    return [_match(explained, *both, right) for both, right in chosen]


def _match(explained: Explained, pair: PointPair, predicted: PredictedPair, right: Tensor) -> Match:
    sketch, photo = explained.picture(pair.sketch), explained.picture(pair.photo)

    def pixels(points: Tensor, size: tuple[int, int]) -> np.ndarray:
        return points[pair.visible].numpy() * np.array(size)

    return Match(
        sketch=sketch,
        photo=photo,
        sketch_points=pixels(pair.sketch_points, sketch.image.size),
        found=pixels(predicted.photo_points, photo.image.size),
        truth=pixels(pair.photo_points, photo.image.size),
        right=right.numpy(),
    )
