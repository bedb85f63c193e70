"""Precompute beside its parts, each alone on the same images.

    python benchmarks/precompute.py [CONFIG] [--images 384] [--rounds 3] [--json FILE]

The parts are reading with decoding and preprocessing, the bare batched forward of the networks on
decoded squares, and a raw write of the same bytes. Where they share cores, as on a CPU, the whole
can at best take their sum; beside a GPU it can at best take the slowest. The other way to do it is
image by image: decode, forward a batch of one, `torch.save`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import bench
from benchmarks.formats import remove
from benchmarks.timing import Fact, Report, Row, Table, Target, take_turns
from cache import StoreWriter
from cache.format.layout import DEFAULT_SHARD_SIZE
from configs import Config, load_config
from pipeline.compute import compute_tasks
from pipeline.cost import measure_cost
from pipeline.extraction.extract import BaseExtractor, Computing
from pipeline.inputs.collection import Collection, scan
from pipeline.inputs.loader import RowBatch, auto_workers, load_squares
from pipeline.job import Job, load_job
from pipeline.networks.backbone import DTYPES

PARTS = ("read, decode, preprocess", "bare forward, batched", "raw write of the same bytes")
WHOLE = "precompute"
ONE_BY_ONE = "image by image, torch.save"


def measure(config: Config, rounds: int = 3, folder: Path | None = None) -> Report:
    """One table: seconds an image. The configuration says images, networks, ensemble, batch."""
    job = load_job(config)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        work = _Work(job, Path(place))
        contenders = {
            PARTS[0]: lambda turn: work.read(),
            PARTS[1]: lambda turn: work.forward(),
            PARTS[2]: lambda turn: work.write(),
            WHOLE: lambda turn: work.whole(),
            ONE_BY_ONE: lambda turn: work.one_by_one(),
        }
        found = take_turns(contenders, rounds, before=lambda name: work.clear())
    n = len(work.rows)
    seconds = {name: [s / n for s in times] for name, times in found.items()}
    parts = list(zip(*(seconds[name] for name in PARTS), strict=True))
    shared = job.extractor.device.type == "cpu"
    limit = [sum(times) if shared else max(times) for times in parts]
    flops = measure_cost(config.backbone, config.extraction).total
    peak = peak_flops_per_second(job.extractor.device, DTYPES[config.extraction.precision])

    def speeds(name: str) -> dict[str, Fact]:
        each = float(np.median(seconds[name]))
        reached = flops / each
        return {
            "images/s": 1 / each,
            "GFLOP an image": flops / 1e9,
            "GFLOP/s": reached / 1e9,
            "of peak": f"{100 * reached / peak:.0f} %",
        }

    rows = [
        *(
            Row(name, "limit", seconds[name], speeds(name) if name == PARTS[1] else {})
            for name in PARTS
        ),
        Row(WHOLE, "ours", seconds[WHOLE], speeds(WHOLE)),
        Row(ONE_BY_ONE, "peer", seconds[ONE_BY_ONE]),
    ]
    # First, so that ratios refer to it.
    rows.insert(0, Row("sum of the parts" if shared else "slowest part", "limit", limit))
    title = f"precompute, {config.backbone.label} on {job.extractor.device}"
    table = Table(title, f"an image, of {n}, batches of {job.extractor.batch_size}", rows)
    bound = 1.10 if shared else 1.05
    what = f"precompute / {rows[0].name}"
    targets = [Target(what, bound, 1 / table.speed(WHOLE), at_most=True)]
    settings: dict[str, Fact] = {"images": n, "rounds": rounds, "backbone": config.backbone.label}
    notes = [f"peak: {peak / 1e9:,.0f} GFLOP/s, a product of large matrices in the same type"]
    return Report("precompute", settings, [replace(table, targets=targets, notes=notes)])


def peak_flops_per_second(device: torch.device, dtype: torch.dtype, runs: int = 8) -> float:
    """What the device reaches on the best work there is for it: a product of large matrices."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def product(turn: int) -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds: list[float] = take_turns({"product": product}, runs)["product"]
    return 2 * side**3 / min(seconds)


def configured(name: str, n_images: int, overrides: Sequence[str]) -> Config:
    """A configuration of so many images of the procedural world, or of its own dataset."""
    config = load_config(name, overrides)
    if config.dataset.name != "shapes":
        return load_config(name, [*overrides, f"dataset.limit={n_images}"])
    return load_config(name, [*overrides, f"dataset.size={n_images}"])


class _Work:
    """The images, decoded and computed once, and each part as a function."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.folder = folder / "store"
        self.collection: Collection = scan(job.dataset)
        self.rows = list(range(len(self.collection.images)))
        workers = job.config.extraction.workers
        self.workers = auto_workers(job.extractor.device) if workers == "auto" else workers
        self.sha256s = [image.sha256 for image in self.collection.images]
        self.arrays = [spec.name for spec in job.specs]
        self.squares = np.concatenate([batch.squares for batch in self._decoded(self.workers)])
        self.record = {
            array.name: np.zeros(array.shape, array.numpy_dtype)
            for spec in job.specs
            for array in spec.zarr_arrays
        }

    def clear(self) -> None:
        """Remove what the last turn wrote."""
        remove(self.folder)

    def read(self) -> None:
        """Read, decode and preprocess, as precompute does."""
        for _ in self._decoded(self.workers):
            pass

    def forward(self) -> None:
        """The networks alone, on squares that are there; on a GPU they never wait either."""
        extractor: BaseExtractor = self.job.extractor
        under_way: deque[Computing] = deque()
        for batch in self._batches():
            rows = slice(batch.rows[0], batch.rows[-1] + 1)
            under_way.append(extractor.start(self.squares[rows], self.sha256s[rows], self.arrays))
            if len(under_way) > extractor.n_ahead:
                under_way.popleft().arrays()
        for computing in under_way:
            computing.arrays()

    def write(self) -> None:
        """As many bytes as the store takes, one file an array and shard, each synced."""
        self.folder.mkdir()
        for first in range(0, len(self.rows), DEFAULT_SHARD_SIZE):
            n = len(self.rows[first : first + DEFAULT_SHARD_SIZE])
            for number, record in enumerate(self.record.values()):
                with (self.folder / f"{number}.{first}").open("wb") as file:
                    for _ in range(n):
                        file.write(record.tobytes())
                    file.flush()
                    os.fsync(file.fileno())

    def whole(self) -> None:
        """What `sketchfusion precompute` does once weights are loaded and images are hashed."""
        job = self.job
        writer = StoreWriter.open(self.folder, job.recipe, self.collection.images, job.specs)
        compute_tasks(job, writer, writer.pending(), self.workers)

    def one_by_one(self) -> None:
        """The plain loop: no batches, nothing ahead or behind, a pickle an image."""
        self.folder.mkdir()
        dtypes = {spec.name: spec.zarr_arrays[0].numpy_dtype for spec in self.job.specs}
        for row, batch in enumerate(self._decoded(0, size=1)):
            found: dict[str, Any] = self.job.extractor(
                batch.squares, self.sha256s[row : row + 1], self.arrays
            )
            maps = {n: torch.from_numpy(v[0].astype(dtypes[n])) for n, v in found.items()}
            torch.save(maps, self.folder / f"{row}.pt")

    def _batches(self, size: int | None = None) -> list[RowBatch]:
        size = size or self.job.extractor.batch_size
        starts = range(0, len(self.rows), size)
        return [RowBatch(0, self.rows[start : start + size]) for start in starts]

    def _decoded(self, workers: int, size: int | None = None) -> Any:
        config = self.job.config
        return load_squares(
            self.job.dataset,
            self.collection.images,
            self._batches(size),
            config.backbone.resolution,
            config.extraction.pad,
            workers,
            clip_input=config.extraction.clip_input,
        )


if __name__ == "__main__":
    bench(["precompute", *sys.argv[1:]])
