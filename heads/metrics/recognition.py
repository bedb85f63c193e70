"""Recognition: accuracy and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from heads.metrics.ranking import positions


def accuracy(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """`acc@k`: how often the label int64 [N] is among the k highest scores of [N, C].

    Among equal scores the lower class comes first. Raises `ValueError` for a NaN, a label that is
    no column, and where there is no image.
    """
    shares = correct(scores, labels, ks).double().mean(0).tolist()
    return {f"acc@{k}": share for k, share in zip(ks, shares, strict=True)}


def correct(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """bool [N, K]: whether each image counts as recognised at each of `ks`.

    Arguments and errors as in `accuracy`.
    """
    if not len(labels):
        raise ValueError("no image to recognise")
    found = positions(scores, labels)
    return torch.stack([found < k for k in ks], dim=1)


def confusion_matrix(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """How many images of class `row` were taken for class `column`: int64 [C, C].

    Raises `ValueError` for a class outside 0 .. n_classes - 1.
    """
    for values in (predicted, labels):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < n_classes:
            raise ValueError(f"classes must be 0 to {n_classes - 1}")
    cells = torch.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)
