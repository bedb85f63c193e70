"""Measurements on a small store with known contents."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cache import ArraySpec, FeatureStore
from heads.demo.measure import Compute, compare_with_zarr, data_files, measure_reading
from tests.heads.stores import write_store

N_IMAGES = 10
SPECS = [
    ArraySpec("sd/t1/s3", (6, 4, 4), "float16"),
    ArraySpec("sd/t1/s4", (6, 2, 2), "int8"),
    ArraySpec("clip/pooled", (5,), "float32"),
]


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.standard_normal((N_IMAGES, *spec.shape)).astype(np.float32) for spec in SPECS
    }


@pytest.fixture
def store(tmp_path: Path, values: dict[str, np.ndarray]) -> Path:
    write_store(tmp_path / "store", SPECS, values)
    return tmp_path / "store"


def test_reading_is_compared_on_the_same_images(store: Path, values: dict[str, np.ndarray]) -> None:
    opened = FeatureStore.open(store)
    names = ["sd/t1/s3", "clip/pooled"]
    batches = []

    def prepare(ids: Sequence[str]) -> Compute:
        batches.append(list(ids))
        rows = [opened.ids.index(image_id) for image_id in ids]

        def compute() -> dict[str, np.ndarray]:
            time.sleep(0.02)
            return {name: values[name][rows] for name in names}

        return compute

    reading = measure_reading(opened, names, prepare, batch_size=4, n_batches=3)
    assert len(batches) == 1 + 3
    assert all(len(set(batch)) == 4 for batch in batches)
    assert reading.bytes_per_image == 6 * 4 * 4 * 2 + 5 * 4
    assert 0 < reading.largest_difference < 2**-11  # float16 rounds by half a unit at most
    assert reading.live_seconds >= 0.02 / 4
    assert reading.ratio == pytest.approx(reading.live_seconds / reading.cached_seconds)


def test_a_wrong_value_shows_as_a_difference(store: Path, values: dict[str, np.ndarray]) -> None:
    opened = FeatureStore.open(store)

    def prepare(ids: Sequence[str]) -> Compute:
        rows = [opened.ids.index(image_id) for image_id in ids]
        wrong = values["clip/pooled"][rows].copy()
        wrong[0, 0] += np.abs(wrong).max()
        return lambda: {"clip/pooled": wrong}

    reading = measure_reading(opened, ["clip/pooled"], prepare, batch_size=99, n_batches=1)
    assert reading.batch_size == N_IMAGES
    assert reading.largest_difference > 0.3


def test_plain_zarr_gives_the_same_rows_of_every_type(store: Path) -> None:
    check = compare_with_zarr(store, n_rows=6)
    assert (check.n_arrays, check.n_rows, check.n_equal) == (3, 18, 18)


def test_a_rewritten_file_is_noticed(store: Path) -> None:
    before = data_files(store)
    assert len(before) == 3 + 3 + 3 + 1  # three shards of two maps and a scale, one chunk
    assert data_files(store) == before
    touched = next(iter(before))
    os.utime(store / touched, ns=(0, 0))
    after = data_files(store)
    assert [name for name in before if after[name] != before[name]] == [touched]
