"""Writing a store, beside a raw append of the same bytes and what people would use instead.

    python benchmarks/write.py [--images 256] [--rounds 5] [--folder DIR] [--json FILE]

The paper's s3 and s4 at 336 px, made beforehand. Every contender makes what it writes into and ends
with its bytes on the disk: ours and the raw append sync each file of 64 images, the others all
their files. Beside the time
stands the most memory that a writer holds of its own at once, as a share of a shard.
"""

from __future__ import annotations

import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import zarr

from benchmarks.command import bench
from benchmarks.formats import (
    SHARD_SIZE,
    Hdf5,
    Maps,
    SafetensorsFiles,
    Shapes,
    TorchFiles,
    random_images,
    remove,
    shrunk,
    write_store,
)
from benchmarks.timing import Kind, Report, Row, Table, Target, take_turns

Write = Callable[[Path, Shapes, Sequence[Maps]], None]
N_DIFFERENT = 16
"""Images that are made; more are the same ones again."""


def measure(
    n_images: int = 256, rounds: int = 5, shrink: int = 1, folder: Path | None = None
) -> Report:
    """One table: seconds an image, and memory. `shrink` divides the channels."""
    shapes = shrunk(shrink)
    made = list(random_images(shapes, min(N_DIFFERENT, n_images)))
    images = list(islice(cycle(made), n_images))
    wide = [{name: v.astype(np.float32) for name, v in maps.items()} for maps in made]
    wide = list(islice(cycle(wide), n_images))
    given = {name: wide if name == FROM_FLOAT32 else images for name in WRITERS}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        target = Path(place, "written")

        def run(name: str) -> None:
            WRITERS[name][1](target, shapes, given[name])

        seconds = take_turns(
            {name: lambda turn, name=name: run(name) for name in WRITERS},  # type: ignore[misc]
            rounds,
            before=lambda name: remove(target),
        )
        held = {}
        for name in WRITERS:
            remove(target)
            held[name] = peak_bytes(lambda name=name: run(name))  # type: ignore[misc]
    image_bytes = sum(v.nbytes for v in images[0].values())
    shard = min(SHARD_SIZE, n_images) * image_bytes
    rows = [
        Row(
            name,
            kind,
            [s / n_images for s in seconds[name]],
            {"MiB held": held[name] / 2**20, "of a shard": held[name] / shard},
        )
        for name, (kind, _) in WRITERS.items()
    ]
    work = f"an image of 2 layers, {image_bytes / 2**20:.3g} MiB, synced"
    table = Table("writing", work, rows)
    targets = [
        Target("this store, x raw append", 0.8, table.speed("this store")),
        Target("cast from float32, x raw append", 0.8, table.speed(FROM_FLOAT32)),
        Target("held by the writer, of a shard", 0.25, held["this store"] / shard, at_most=True),
    ]
    settings = {"images": n_images, "rounds": rounds, "shrink": shrink}
    return Report("write", settings, [replace(table, targets=targets)])


def peak_bytes(run: Callable[[], None]) -> int:
    """The most memory that Python and numpy held at once beyond what they held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def raw_append(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """The same bytes, one file an array and shard, appended record by record, then synced."""
    folder.mkdir()
    for first in range(0, len(images), SHARD_SIZE):
        files = [
            os.open(folder / f"{i}.{first}", os.O_WRONLY | os.O_CREAT) for i in range(len(shapes))
        ]
        for maps in images[first : first + SHARD_SIZE]:
            for file, values in zip(files, maps.values(), strict=True):
                view = memoryview(values.data).cast("B")
                while view:
                    view = view[os.write(file, view) :]
        for file in files:
            os.fsync(file)
            os.close(file)
    _sync(folder)


def to_store(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """Our writer: finite values checked, checksums, temporaries, commits."""
    write_store(folder, shapes, len(images), iter(images))


def to_zarr_python(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """zarr-python, the same layout, a whole shard at a time as it needs."""
    group = zarr.create_group(folder)
    for name, shape in shapes.items():
        array = group.create_array(
            name,
            shape=(len(images), *shape),
            chunks=(1, *shape),
            shards=(SHARD_SIZE, *shape),
            dtype="float16",
            compressors=None,
        )
        for first in range(0, len(images), SHARD_SIZE):
            part = images[first : first + SHARD_SIZE]
            array[first : first + len(part)] = np.stack([maps[name] for maps in part])
    _sync_all(folder)


def to_torch_files(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """`torch.save`, one file an image."""
    TorchFiles(folder, shapes, len(images)).write(iter(images))
    _sync_all(folder)


def to_safetensors(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """safetensors, one file an image."""
    SafetensorsFiles(folder, shapes, len(images)).write(iter(images))
    _sync_all(folder)


def to_hdf5(folder: Path, shapes: Shapes, images: Sequence[Maps]) -> None:
    """h5py, one chunk an image."""
    Hdf5(folder, shapes, len(images)).write(iter(images))
    _sync_all(folder)


FROM_FLOAT32 = "this store, cast from float32"
WRITERS: dict[str, tuple[Kind, Write]] = {
    "this store": ("ours", to_store),
    FROM_FLOAT32: ("ours", to_store),
    "zarr-python, sharded": ("peer", to_zarr_python),
    "one .pt an image": ("peer", to_torch_files),
    "safetensors an image": ("peer", to_safetensors),
    "h5py, chunked": ("peer", to_hdf5),
    "raw append": ("limit", raw_append),
}


def _sync_all(folder: Path) -> None:
    for path in chain([folder], folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    bench(["write", *sys.argv[1:]])
