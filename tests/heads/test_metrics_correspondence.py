"""PCK: against loops over pairs and points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.metrics import pck


@st.composite
def pairs(draw):
    """Points on a grid of whole pixels, so that errors meet thresholds exactly; some unseen."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    return [
        (
            torch.from_numpy(rng.integers(0, 40, (k, 2)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, 40, (k, 2)).astype(np.float32)),
            torch.from_numpy(rng.random(k) < draw(st.sampled_from([0.0, 0.6, 1.0]))),
        )
        for k in sizes
    ]


@pytest.mark.parametrize("strict", [False, True])
@given(case=pairs(), size=st.sampled_from([20.0, 100.0]))
@settings(max_examples=80, deadline=None)
def test_pck_is_as_written_out(strict, case, size):
    rates = {5: [], 10: [], 15: []}
    n_excluded = 0
    for predicted, truth, visible in case:
        errors = [
            ((p[0] - t[0]) ** 2 + (p[1] - t[1]) ** 2) ** 0.5
            for p, t, v in zip(predicted.tolist(), truth.tolist(), visible.tolist(), strict=True)
            if v
        ]
        if not errors:
            n_excluded += 1
            continue
        for percent, found in rates.items():
            limit = percent / 100 * size
            found.append(np.mean([e < limit if strict else e <= limit for e in errors]))
    columns = list(zip(*case, strict=True))
    if not rates[5]:
        with pytest.raises(ValueError, match="no pair has a visible point"):
            pck(*columns, size=size, strict=strict)
        return
    scores = pck(*columns, size=size, strict=strict)
    assert scores.metrics == {
        f"pck@{percent}": pytest.approx(np.mean(found)) for percent, found in rates.items()
    }
    assert (scores.n_pairs, scores.n_excluded) == (len(case) - n_excluded, n_excluded)


def test_an_error_of_just_the_threshold_decides_the_variant():
    truth = torch.zeros(1, 4, 2)
    predicted = torch.tensor([[[10.0, 0.0], [6.0, 8.0], [0.0, 9.9], [0.0, 10.1]]])
    seen = torch.ones(1, 4, dtype=torch.bool)
    assert pck(predicted, truth, seen, 100).metrics["pck@10"] == 0.75
    assert pck(predicted, truth, seen, 100, strict=True).metrics["pck@10"] == 0.25


def test_every_pair_counts_the_same_however_many_points_it_has():
    truth = [torch.zeros(1, 2), torch.zeros(4, 2)]
    predicted = [torch.zeros(1, 2), torch.ones(4, 2)]
    seen = [torch.ones(1, dtype=torch.bool), torch.ones(4, dtype=torch.bool)]
    assert pck(predicted, truth, seen).metrics["pck@5"] == 0.5


def test_points_that_are_not_visible_may_be_anything():
    truth = torch.tensor([[[0.0, 0.0], [float("nan"), 0.0]]])
    seen = torch.tensor([[True, False]])
    assert pck(torch.zeros(1, 2, 2), truth, seen).metrics["pck@5"] == 1.0
    with pytest.raises(ValueError, match="pair 0: a visible point is not a number"):
        pck(torch.zeros(1, 2, 2), truth, ~seen)


def test_shapes_that_do_not_fit_are_refused():
    seen = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="pair 0"):
        pck(torch.zeros(1, 3, 2), torch.zeros(1, 2, 2), seen)
