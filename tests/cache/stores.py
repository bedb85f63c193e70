"""Small stores with known contents, for the tests of this folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from cache import ArraySpec, FeatureStore, ImageRecord, Recipe, StoreWriter

RECIPE = Recipe({"unet": "ab12", "seed": 0, "preprocessing": {"pad": "edge", "size": 96}})

S3 = ArraySpec("sd/t195/s3", (3, 4, 5), "float16")
LATENT = ArraySpec("vae/latent", (2, 3, 3), "float32")
QUANTISED = ArraySpec("sd/t195/s4", (2, 4, 4), "int8")
POOLED = ArraySpec("clip/pooled", (7,), "float32")
ARRAYS = (S3, LATENT, QUANTISED, POOLED)


def image_records(n_images: int) -> list[ImageRecord]:
    """Records of images 0 to n-1; some without a size."""
    return [
        ImageRecord(
            id=f"class {row % 3}/{row}.png",
            sha256=hashlib.sha256(str(row).encode()).hexdigest(),
            width=None if row % 5 == 4 else 10 + row,
            height=None if row % 5 == 4 else 20 + row,
        )
        for row in range(n_images)
    ]


def values(row: int, spec: ArraySpec) -> np.ndarray:
    """What the tests store for a row: a function of row and array alone, float32."""
    seed = int.from_bytes(hashlib.sha256(f"{row}:{spec.name}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(spec.shape).astype(np.float32)


def fill(writer: StoreWriter, quarantined: Collection[int] = ()) -> None:
    """Compute all that is pending; rows in ``quarantined`` are unreadable."""
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                if row in quarantined:
                    shard.quarantine(row, "cannot be decoded")
                else:
                    shard.put(row, {name: values(row, writer.arrays[name]) for name in task.arrays})
            shard.commit(timings={"compute": 0.5})


def write(
    path: Path,
    n_images: int,
    arrays: Sequence[ArraySpec] = ARRAYS,
    shard_size: int = 4,
    quarantined: Collection[int] = (),
) -> None:
    """Make or grow a store and compute everything that is missing."""
    fill(StoreWriter.open(path, RECIPE, image_records(n_images), arrays, shard_size), quarantined)


def assert_holds(store: FeatureStore, row: int, spec: ArraySpec) -> None:
    """The store gives back what was put, within the precision of its dtype."""
    (read,) = store.read([store.ids[row]], [spec.name], check=True)[spec.name].float().numpy()
    expected = values(row, spec)
    if spec.dtype == "int8":
        step = np.abs(expected).max(axis=(1, 2), keepdims=True) / 127
        assert (np.abs(read - expected) <= 0.5001 * step).all()
    else:
        np.testing.assert_array_equal(read, expected.astype(spec.dtype).astype(np.float32))


def contents(path: Path, below: str = "") -> dict[str, bytes]:
    """Every file of a store but its lock, by relative path."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for folder, _, names in os.walk(path / below)
        for file in (Path(folder, name) for name in names)
        if file.name != ".lock"
    }


def array_contents(path: Path) -> dict[str, bytes]:
    """Every file of a store but its commits, which hold timings."""
    return {name: data for name, data in contents(path).items() if not name.startswith("commits/")}
