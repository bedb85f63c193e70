"""A small part of a dataset that is still of use: what `limit` means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from pipeline.datasets.base import Label


def balanced_subset(labels: Mapping[str, Label], limit: int) -> list[str]:
    """`limit` of the ids in `labels`, chosen evenly over categories, in the order of `labels`.

    Categories take turns in sorted order. At each turn a category gives one photo together with
    the first sketch drawn from it; when those are used up, a further photo or sketch, in turn
    where both are left. So a small limit keeps sketch-photo pairs and touches every category, and
    a larger one holds all that a smaller one does.
    """
    by_category: dict[str, list[str]] = defaultdict(list)
    for image_id, label in labels.items():
        by_category[label.category or ""].append(image_id)
    queues = [_units(by_category[name], labels) for name in sorted(by_category)]
    chosen: list[str] = []
    while queues and len(chosen) < limit:
        units = [next(queue, None) for queue in queues]
        chosen += [image_id for unit in units if unit for image_id in unit]
        queues = [queue for queue, unit in zip(queues, units, strict=True) if unit]
    kept = set(chosen[:limit])
    return [image_id for image_id in labels if image_id in kept]


def _units(ids: list[str], labels: Mapping[str, Label]) -> Iterator[list[str]]:
    """One category's images in the order in which they are given away."""
    own = set(ids)
    first_sketch: dict[str, str] = {}
    for image_id in ids:
        source = labels[image_id].source
        if source in own:
            first_sketch.setdefault(source, image_id)
    yield from ([photo, sketch] for photo, sketch in first_sketch.items())
    paired = {*first_sketch, *first_sketch.values()}
    rest = [image_id for image_id in ids if image_id not in paired]
    sketches = [image_id for image_id in rest if labels[image_id].domain == "sketch"]
    others = [image_id for image_id in rest if labels[image_id].domain != "sketch"]
    for turn in zip_longest(others, sketches):
        yield from ([image_id] for image_id in turn if image_id is not None)
