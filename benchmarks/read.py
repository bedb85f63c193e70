"""Random batches from a store, beside a raw memory map and what people would use instead.

    python benchmarks/read.py [--images 96] [--rounds 7] [--folder DIR] [--json FILE]

The same float16 maps (the paper's s3 and s4 at 336 px) in every format, read as shuffled batches
of 16 images x 2 layers into reused buffers. Warm: the files are in the page cache and every reader
has been used. Cold: before each turn the reader is closed, its files are dropped from the page
cache and it is opened anew; what came from the disk is counted.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import bench
from benchmarks.formats import (
    BATCH,
    FORMATS,
    TYPES,
    Batches,
    Format,
    Read,
    Shapes,
    new_buffers,
    random_images,
    shrunk,
)
from benchmarks.timing import Contender, Report, Row, Table, Target, take_turns

FEW = ("this store", "h5py, chunked", "raw memmap")
"""What takes turns alone as well: after ten others have filled caches and page tables, a difference
of some per cent says more about them."""
_IO = Path("/proc/self/io")


def measure(
    n_images: int = 96, rounds: int = 7, shrink: int = 1, folder: Path | None = None
) -> Report:
    """Tables of warm, cold and sequential reading.

    Args:
        n_images: at least 16.
        shrink: channels are divided by it; 1 is the paper's sizes.
        folder: where files go for the time being; None is the system's temporary folder.
    """
    shapes = shrunk(shrink)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        formats = written(Path(name), shapes, n_images)
        tables = [
            _warm(formats, n_images, rounds),
            _cold(formats, n_images, max(3, rounds // 2)),
            *_few([f for f in formats if f.name in FEW], n_images, rounds),
            *_types(Path(name), shapes, n_images, rounds),
        ]
    settings = {"images": n_images, "rounds": rounds, "shrink": shrink}
    return Report("read", settings, tables)


def written(
    folder: Path,
    shapes: Shapes,
    n_images: int,
    kinds: Sequence[type[Format]] = FORMATS,
    dtype: torch.dtype = torch.float16,
) -> list[Format]:
    """The installed ones of some formats with the same maps, to be read as a type."""
    folder.mkdir(exist_ok=True)
    found, buffers = [], new_buffers(shapes, dtype)
    for kind in kinds:
        if kind.installed():
            format_ = kind(folder / (kind.files_of or kind.__name__), shapes, n_images)
            format_.buffers = buffers
            format_.write(random_images(shapes, n_images))
            found.append(format_)
    return found


def epoch(n_images: int, turn: int, shuffled: bool = True) -> Batches:
    """Rows of one pass in whole batches, in an order of the turn's own."""
    order = np.random.default_rng(turn + 10).permutation(n_images)
    rows = (order if shuffled else np.arange(n_images)).tolist()
    return [rows[i : i + BATCH] for i in range(0, n_images - BATCH + 1, BATCH)]


def _warm(formats: Sequence[Format], n_images: int, rounds: int) -> Table:
    readers = {f.name: f.open() for f in formats}
    seconds = _per_batch(readers, n_images, rounds)
    table = _table("random batches, warm", formats, seconds)
    targets = [
        Target("with checksums, x memmap", 0.4, table.speed("this store, checksums on")),
        Target("x zarr-python", 5, table.speed("this store", "zarr-python")),
        Target("x one .pt an image", 3, table.speed("this store", "one .pt an image")),
    ]
    return replace(table, targets=targets)


def _cold(formats: Sequence[Format], n_images: int, rounds: int) -> Table:
    seconds, from_disk = _cold_seconds(formats, n_images, rounds)
    facts = {name: {"MiB from disk": round(n / 2**20)} for name, n in from_disk.items()}
    return _table("random batches, cold", formats, seconds, facts)


def _cold_seconds(
    formats: Sequence[Format], n_images: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a batch by format and round, and bytes that came from the disk in the last one."""
    by_name = {f.name: f for f in formats}
    # Only what is on the disk can be dropped from memory.
    os.sync()
    readers: dict[str, Read] = {}
    from_disk: dict[str, int] = {}

    def close_and_evict(name: str) -> None:
        readers.clear()
        gc.collect()
        evict(by_name[name].files)
        readers[name] = by_name[name].open()

    def contender(name: str) -> Contender:
        def read(turn: int) -> None:
            before = bytes_from_disk()
            readers[name](epoch(n_images, turn))
            from_disk[name] = bytes_from_disk() - before

        return read

    turns = {name: contender(name) for name in by_name}
    seconds = take_turns(turns, rounds, warm_up=0, before=close_and_evict)
    n_batches = len(epoch(n_images, 0))
    return {name: [s / n_batches for s in times] for name, times in seconds.items()}, from_disk


def _few(formats: Sequence[Format], n_images: int, rounds: int) -> Iterator[Table]:
    """Random warm, random cold and sequential reading of few formats."""
    readers = {f.name: f.open() for f in formats}
    warm = _per_batch(readers, n_images, rounds)
    scan = _per_batch(readers, n_images, rounds, shuffled=False)
    # What is mapped cannot be dropped from memory.
    readers.clear()
    cold, _ = _cold_seconds(formats, n_images, max(3, rounds // 2))
    for title, seconds, bound in (
        ("random batches, warm, few in turns", warm, 0.95),
        ("random batches, cold, few in turns", cold, 0.9),
        ("sequential scan, warm", scan, 0.85),
    ):
        table = _table(title, formats, seconds)
        targets = [Target("this store, x memmap", bound, table.speed("this store"))]
        yield replace(table, targets=targets)


def _types(folder: Path, shapes: Shapes, n_images: int, rounds: int) -> Iterator[Table]:
    """float16 and int8 as a head wants them, in float32, warm and cold."""
    formats = written(folder / "as-float32", shapes, n_images, TYPES, torch.float32)
    facts = {f.name: {"MiB on disk": round(_bytes(f) / 2**20)} for f in formats}
    readers = {f.name: f.open() for f in formats}
    warm = _per_batch(readers, n_images, rounds)
    readers.clear()
    cold, _ = _cold_seconds(formats, n_images, max(3, rounds // 2))
    yield _table("random batches as float32, warm", formats, warm, facts)
    yield _table("random batches as float32, cold", formats, cold, facts)


def _bytes(format_: Format) -> int:
    return sum(file.stat().st_size for file in format_.files)


def _per_batch(
    readers: Mapping[str, Read], n_images: int, rounds: int, shuffled: bool = True
) -> dict[str, list[float]]:
    """Seconds a batch by reader and round."""

    def contender(read: Read) -> Contender:
        return lambda turn: read(epoch(n_images, turn, shuffled))

    turns = {name: contender(read) for name, read in readers.items()}
    n_batches = len(epoch(n_images, 0))
    found = take_turns(turns, rounds)
    return {name: [s / n_batches for s in times] for name, times in found.items()}


def _table(
    title: str,
    formats: Sequence[Format],
    seconds: Mapping[str, Sequence[float]],
    facts: Mapping[str, Mapping[str, int]] | None = None,
) -> Table:
    rows = [
        Row(f.name, f.kind, seconds[f.name], (facts or {}).get(f.name, {}), f.note) for f in formats
    ]
    if len(formats) > len(FEW):
        rows += [Row(f.name, f.kind, note="not installed") for f in FORMATS if not f.installed()]
    n_bytes = sum(2 * BATCH * int(np.prod(s)) for s in formats[0].shapes.values())
    return Table(title, f"a batch of {BATCH} images x 2 layers, {n_bytes / 2**20:.3g} MiB", rows)


def evict(files: Sequence[Path]) -> None:
    """Drop files from the page cache; they must be synced, and nobody may have them mapped."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def bytes_from_disk() -> int:
    """What this process has read from the disk so far; 0 where the system does not tell."""
    if not _IO.is_file():
        return 0
    return next(int(x.split()[1]) for x in _IO.read_text().splitlines() if "read_bytes" in x)


if __name__ == "__main__":
    bench(["read", *sys.argv[1:]])
