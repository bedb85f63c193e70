"""What needs no seeing must not solve the shapes world; what sees shape must be able to."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.shapes_floors import (
    copied_points,
    hog_points,
    pck10,
    pixel_retrieval,
    shape_retrieval,
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copied_positions_fail(seed):
    """The limit promised is 0.15."""
    assert np.mean(list(pck10(copied_points, seed, per_category=8).values())) < 0.12


def test_dense_hog_fails():
    assert np.mean(list(pck10(hog_points, 0, per_category=3).values())) < 0.30


def test_grey_pixels_hardly_beat_chance():
    found, chance = pixel_retrieval(0, per_category=10)
    assert found < chance + 0.08


def test_proportions_tell_instances_apart():
    """Chance is 0.1."""
    assert shape_retrieval(0, per_category=10) > 0.4
