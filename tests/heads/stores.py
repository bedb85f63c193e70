"""Small stores and records for the tests of stage 2."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cache import ArraySpec, ImageRecord, Recipe, StoreWriter


def write_store(
    path: Path, specs: list[ArraySpec], values: dict[str, np.ndarray], shard_size: int = 4
) -> list[str]:
    """Write a store with float32 rows [N, ...] of each array; returns the ids."""
    n_images = len(values[specs[0].name])
    images = [
        ImageRecord(f"{i:03d}.png", hashlib.sha256(str(i).encode()).hexdigest(), 8, 8)
        for i in range(n_images)
    ]
    writer = StoreWriter.open(path, Recipe({"test": 1}), images, specs, shard_size)
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                shard.put(row, {name: values[name][row] for name in task.arrays})
            shard.commit(timings={})
    return [image.id for image in images]
