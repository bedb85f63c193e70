"""mIoU and pixel accuracy: against scikit-learn, and by hand for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from heads.metrics import SegmentationMeter, iou


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_scores_are_means_of_scikit_learns(masks, seed):
    rng = np.random.default_rng(seed)
    meter = SegmentationMeter()
    ious: dict[str, list[float]] = {}
    all_found, all_true = [], []
    for category, density in masks:
        shape = rng.integers(1, 6, 2)
        found, truth = rng.random(shape) < 0.5, rng.random(shape) < density
        meter.update(torch.from_numpy(found), torch.from_numpy(truth), str(category))
        either = found.any() or truth.any()
        expected = jaccard_score(truth.ravel(), found.ravel(), zero_division=0) if either else 1.0
        ious.setdefault(str(category), []).append(expected)
        all_found.append(found.ravel())
        all_true.append(truth.ravel())
    scores = meter.result()
    assert scores.by_category == {
        name: pytest.approx(np.mean(values)) for name, values in ious.items()
    }
    assert scores.metrics["miou"] == pytest.approx(np.mean([np.mean(v) for v in ious.values()]))
    for name, values in ious.items():
        assert scores.ious[name].tolist() == pytest.approx(values)
    expected = accuracy_score(np.concatenate(all_true), np.concatenate(all_found))
    assert scores.metrics["pacc"] == pytest.approx(expected)
    assert scores.n_masks == len(masks)
    assert scores.n_empty == sum(not truth.any() for truth in all_true)


def test_empty_masks():
    nothing, something = torch.zeros(2, 2, dtype=torch.bool), torch.eye(2, dtype=torch.bool)
    assert iou(nothing, nothing) == 1.0
    assert iou(something, nothing) == 0.0
    assert iou(nothing, something) == 0.0


def test_what_cannot_be_counted_is_refused():
    meter = SegmentationMeter()
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="no mask to score"):
        meter.result()
    with pytest.raises(ValueError, match="must be bool"):
        meter.update(mask.float(), mask, "cat")
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        meter.update(torch.ones(2, 3, dtype=torch.bool), mask, "cat")
