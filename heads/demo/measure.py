"""Measurements on a finished store: how fast it reads, and whether others read the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import zarr

from cache import FeatureStore
from heads.demo.records import Reading, ZarrCheck

SEED = 0
"""Of the images drawn for measurements."""

Compute = Callable[[], Mapping[str, np.ndarray]]
"""Computes the arrays [B, ...] of one batch, by name."""
Prepare = Callable[[Sequence[str]], Compute]
"""From a batch's image ids to what computes its arrays."""


def measure_reading(
    store: FeatureStore,
    arrays: Sequence[str],
    prepare: Prepare,
    batch_size: int = 16,
    n_batches: int = 8,
) -> Reading:
    """Time random batches from the store, and the same batches computed.

    Args:
        prepare: called with a batch's ids outside the measured time; returns what computes them.

    Raises StoreError where an image of the store cannot be read.
    """
    ids = store.readable(arrays)
    rng = np.random.default_rng(SEED)
    batch_size = min(batch_size, len(ids))
    cached, live, difference = [], [], 0.0
    # The first batch warms both up and is not counted.
    for number in range(n_batches + 1):
        batch = [ids[i] for i in rng.choice(len(ids), batch_size, replace=False)]
        compute = prepare(batch)
        start = time.perf_counter()
        stored = store.read(batch, arrays)
        read = time.perf_counter()
        computed = compute()
        done = time.perf_counter()
        if number:
            cached.append(read - start)
            live.append(done - read)
        difference = max(
            difference, *(_difference(stored[name].numpy(), computed[name]) for name in arrays)
        )
    return Reading(
        arrays=tuple(arrays),
        batch_size=batch_size,
        n_batches=n_batches,
        bytes_per_image=sum(stored[name][0].nbytes for name in arrays),
        cached_seconds=statistics.median(cached) / batch_size,
        live_seconds=statistics.median(live) / batch_size,
        largest_difference=difference,
    )


def compare_with_zarr(path: Path, n_rows: int = 8) -> ZarrCheck:
    """Read random rows of every array with zarr-python and with the store's own reader."""
    store = FeatureStore.open(path)
    rows = {image_id: row for row, image_id in enumerate(store.ids)}
    rng = np.random.default_rng(SEED)
    compared = equal = 0
    for name in store.arrays:
        ids = store.readable([name])
        for i in rng.choice(len(ids), min(n_rows, len(ids)), replace=False):
            own = store.read([ids[i]], [name])[name][0].numpy()
            compared += 1
            equal += np.array_equal(own, _plain_row(path, name, rows[ids[i]]))
    return ZarrCheck(n_rows=compared, n_equal=equal, n_arrays=len(store.arrays))


def data_files(path: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in nanoseconds of every chunk or shard file of a store."""
    return {
        file.relative_to(path).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(path.rglob("c.*"))
    }


def _plain_row(path: Path, name: str, row: int) -> np.ndarray:
    """One row as plain zarr-python gives it; int8 times its scale."""
    values = np.asarray(zarr.open_array(path / name, mode="r")[row])
    if values.dtype == np.int8:
        scale = np.asarray(zarr.open_array(path / f"{name}_scale", mode="r")[row])
        return values * scale[:, None, None]
    return values


def _difference(stored: np.ndarray, computed: np.ndarray) -> float:
    """Largest distance between two arrays as a share of the largest magnitude."""
    distance = np.abs(stored.astype(np.float32) - computed).max()
    return float(distance / max(float(np.abs(computed).max()), 1e-12))
