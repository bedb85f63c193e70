"""What the run takes the sketches of its test part for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heads.explain.choosing import CANDIDATES, best_to_worst, named, spread
from heads.explain.opened import Explained
from heads.metrics.ranking import rank_similarity
from heads.metrics.recognition import confusion_matrix
from heads.plots.records import Guess
from heads.tasks.recognition import Recognition

N_CLASSES = 3
"""Classes that are told of a sketch."""


@dataclass(frozen=True)
class Confusion:
    """How many images of class `row` were taken for class `column`: int64 [C, C]."""

    classes: tuple[str, ...]
    counts: np.ndarray


def find_confusion(explained: Explained) -> Confusion:
    """What the whole test part was taken for. Raises ExplainError for a run of another task."""
    task = _recognition(explained, "confusion matrix")
    part = task.parts.test
    best = torch.cat(list(rank_similarity(_scores(explained, task, part.ids), 1)))[:, 0]
    counts = confusion_matrix(best, part.labels, len(part.classes))
    return Confusion(part.classes, counts.numpy())


def find_guesses(explained: Explained, n: int, ids: Sequence[str] = ()) -> list[Guess]:
    """At most `n` sketches with their likeliest classes, best first; with `ids` these.

    Raises ExplainError for a run of another task or an unknown id, and OSError, DatasetError or
    ImageError for a picture.
    """
    task = _recognition(explained, "classes")
    part = task.parts.test
    rows: Sequence[int] = range(len(part))
    if ids:
        rows = named(rows, lambda row: (part.ids[row],), ids)[:n]
    else:
        rows = spread(rows, lambda row: part.categories[row], n * CANDIDATES)
    shares = _scores(explained, task, [part.ids[row] for row in rows]).double().softmax(1)
    of_truth = shares.gather(1, part.labels[list(rows)][:, None])[:, 0]
    chosen = best_to_worst(range(len(rows)), of_truth.tolist(), n)
    order = torch.cat(list(rank_similarity(shares[chosen], N_CLASSES)))
    return [
        Guess(
            explained.picture(part.ids[rows[i]]),
            tuple((part.classes[label], float(shares[i, label])) for label in best),
            part.categories[rows[i]],
        )
        for i, best in zip(chosen, order.tolist(), strict=True)
    ]


def _recognition(explained: Explained, what: str) -> Recognition:
    task = explained.experiment.task
    if not isinstance(task, Recognition):
        raise explained.other_task(what)
    return task


def _scores(explained: Explained, task: Recognition, ids: Sequence[str]) -> Tensor:
    layers = explained.experiment.learner.layers
    return task.scores(explained.describe.pooled(ids), layers, explained.fitted)
