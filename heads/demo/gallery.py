"""Which pictures of a dataset a report shows, and their feature maps as colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache import FeatureStore
from heads.demo.records import MarkedPicture, PicturePair
from heads.pca import colour_maps
from pipeline.datasets.base import Dataset, Pair


def one_pair_per_category(pairs: Sequence[Pair], readable: Sequence[str]) -> list[Pair]:
    """The first pair of each category of which both images are readable, in order."""
    known = set(readable)
    first: dict[str | None, Pair] = {}
    for pair in pairs:
        if pair.category not in first and {pair.sketch, pair.photo} <= known:
            first[pair.category] = pair
    return list(first.values())


def picture_pair(dataset: Dataset, pair: Pair) -> PicturePair:
    """A pair with its pictures and keypoints, without feature maps."""
    return PicturePair(
        category=pair.category or "",
        sketch=_marked(dataset, pair.sketch, pair.sketch_points, pair.visible),
        photo=_marked(dataset, pair.photo, pair.photo_points, pair.visible),
        maps={},
    )


def mapped_pair(
    dataset: Dataset, pair: Pair, store: FeatureStore, arrays: Sequence[str]
) -> PicturePair:
    """A pair with its feature maps, read from the store, in colours that both share."""
    shown = picture_pair(dataset, pair)
    features = store.read([pair.sketch, pair.photo], arrays)
    maps = {name: colour_maps(list(values.float().numpy())) for name, values in features.items()}
    return replace(shown, maps=maps)


def _marked(
    dataset: Dataset, image_id: str, points: np.ndarray | None, visible: np.ndarray | None
) -> MarkedPicture:
    image = dataset.decode(image_id, dataset.read(image_id))
    points = np.empty((0, 2)) if points is None else points
    visible = np.ones(len(points), bool) if visible is None else visible
    return MarkedPicture(image_id, image, points, visible)
