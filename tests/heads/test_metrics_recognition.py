"""Accuracy and confusion: against scikit-learn, and by hand where scores tie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import top_k_accuracy_score

from heads.metrics import accuracy, confusion_matrix

EXAMPLES = settings(max_examples=60, deadline=None)


@given(st.integers(1, 20), st.integers(3, 8), st.integers(0, 2**31))
@EXAMPLES
def test_accuracy_is_scikit_learns_without_ties(n_images, n_classes, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_images * n_classes).reshape(n_images, n_classes) / 7
    labels = rng.integers(0, n_classes, n_images)
    ours = accuracy(torch.from_numpy(scores), torch.from_numpy(labels), ks=(1, 2))
    for k in (1, 2):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=range(n_classes))
        assert ours[f"acc@{k}"] == pytest.approx(expected)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31))
@EXAMPLES
def test_among_equal_scores_the_lower_class_comes_first(n_images, n_classes, k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (n_images, n_classes)).astype(np.float32)
    labels = rng.integers(0, n_classes, n_images)
    right = [
        label in sorted(range(n_classes), key=lambda c, row=row: (-row[c], c))[:k]
        for row, label in zip(scores, labels, strict=True)
    ]
    ours = accuracy(torch.from_numpy(scores), torch.from_numpy(labels), ks=(k,))
    assert ours == {f"acc@{k}": pytest.approx(np.mean(right))}


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="no image"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN"):
        accuracy(torch.full((1, 3), float("nan")), torch.zeros(1, dtype=torch.int64))


@given(st.integers(0, 30), st.integers(2, 6), st.integers(0, 2**31))
@EXAMPLES
def test_confusion_is_scikit_learns(n_images, n_classes, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, n_classes, (2, n_images))
    ours = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), n_classes)
    if n_images:
        expected = sklearn_confusion(labels, predicted, labels=range(n_classes))
        assert ours.tolist() == expected.tolist()
    assert int(ours.sum()) == n_images


def test_a_class_out_of_range_is_refused():
    with pytest.raises(ValueError, match="classes must be 0 to 1"):
        confusion_matrix(torch.tensor([2]), torch.tensor([0]), 2)
