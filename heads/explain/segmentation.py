"""Sketches and photos of the test part with the masks that the run finds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from heads.explain.choosing import CANDIDATES, best_to_worst, named, spread
from heads.explain.opened import Explained
from heads.metrics.segmentation import iou
from heads.plots.records import Mask
from heads.protocols import SegmentationPart
from heads.tasks.segmentation import THRESHOLD, Segmentation, SegmentationPair


def find_masks(explained: Explained, n: int, ids: Sequence[str] = ()) -> list[Mask]:
    """At most `n` sketches with a photo of their category, best first; with `ids` combinations
    that have one of these images.

    Raises ExplainError for a run of another task or an unknown id, and OSError, DatasetError or
    ImageError for a picture.
    """
    task = explained.experiment.task
    if not isinstance(task, Segmentation):
        raise explained.other_task("masks")
    part: SegmentationPart = task.parts.test
    if ids:
        every = list(part.combinations())
        combinations = named(every, lambda both: both[:2], ids)[:n]
    else:
        combinations = spread(_one_each(part), lambda both: both[2], n * CANDIDATES)
    pairs = [SegmentationPair(sketch, photo) for sketch, photo, _ in combinations]
    threshold = explained.fitted.numbers[THRESHOLD]
    found = [values >= threshold for values in task.similarities(pairs, explained.describe)]
    truths = [task.mask(part, pair.photo) for pair in pairs]
    scores = [iou(ours, truth) for ours, truth in zip(found, truths, strict=True)]
    return [
        Mask(
            sketch=explained.picture(pairs[i].sketch),
            photo=explained.picture(pairs[i].photo),
            found=found[i].numpy(),
            truth=truths[i].numpy(),
            iou=scores[i],
        )
        for i in best_to_worst(range(len(pairs)), scores, n)
    ]


def _one_each(part: SegmentationPart) -> list[tuple[str, str, str]]:
    """Every photo once, each with another sketch of its category while there are some."""
    sketches: dict[str, list[str]] = defaultdict(list)
    for sketch, category in zip(part.queries, part.query_categories, strict=True):
        sketches[category].append(sketch)
    n_seen: Counter[str] = Counter()
    chosen = []
    for photo, category in zip(part.gallery, part.gallery_categories, strict=True):
        own = sketches.get(category)
        if own:
            chosen.append((own[n_seen[category] % len(own)], photo, category))
            n_seen[category] += 1
    return chosen
