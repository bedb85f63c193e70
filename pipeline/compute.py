"""The pipeline itself: read, compute and write, each at its own pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from cache import ShardTask, TaskWriter
from pipeline.job import Job
from pipeline.latents import LatentBatch, load_latents, store_of_latents
from pipeline.loader import RowBatch, SquareBatch, load_squares
from pipeline.sink import FeatureBatch, ShardSink


@dataclass
class Progress:
    """What a run has done so far; times in seconds.

    `read` is time spent waiting for decoded images, `compute` in the networks, `write` waiting
    for the disk: together they say what the machine waits for.
    """

    n_images: int
    n_shards: int
    done: int = 0
    unreadable: int = 0
    shards: int = 0
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    def add(self, other: Progress) -> None:
        """Count what another run has done as this one's."""
        for name in ("done", "unreadable", "shards", "read", "compute", "write"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def shares(self) -> str:
        """Where the time went, as `read 4% compute 93% write 3%`."""
        total = max(self.read + self.compute + self.write, 1e-9)
        parts = (("read", self.read), ("compute", self.compute), ("write", self.write))
        return " ".join(f"{name} {100 * value / total:.0f}%" for name, value in parts)


Listener = Callable[[Progress], None]
"""Told how far a run has come."""


def compute_tasks(
    job: Job,
    writer: TaskWriter,
    tasks: Sequence[ShardTask],
    workers: int,
    listener: Listener | None = None,
    in_threads: bool = False,
) -> Progress:
    """Compute and commit these tasks in this process.

    Args:
        workers: processes that decode pictures; 0 decodes in this one.
        listener: called after every batch.
        in_threads: decode in so many threads instead of processes.

    Raises DatasetError, StoreError or ExtractionError; what is committed is kept.
    """
    progress = Progress(sum(len(task.rows) for task in tasks), len(tasks))
    if not tasks:
        return progress
    images = writer.images
    extractor = job.extractor
    # Closed even where an error's traceback keeps this frame alive: decoding processes would be.
    inputs = closing(_inputs(job, writer, tasks, workers, in_threads))
    with inputs as batches, ShardSink(writer, tasks) as sink:
        last = time.perf_counter()
        for batch in batches:
            read = time.perf_counter()
            features: dict[str, np.ndarray] = {}
            if batch.rows:
                sha256s = [images[row].sha256 for row in batch.rows]
                arrays = tasks[batch.key].arrays
                if isinstance(batch, LatentBatch):
                    features = extractor.from_latents(batch.latents, sha256s, arrays)
                else:
                    features = extractor(batch.squares, sha256s, arrays)
            computed = time.perf_counter()
            timings = {"read": batch.seconds, "compute": computed - read}
            sink.put(FeatureBatch(batch.key, batch.rows, features, batch.unreadable, timings))
            written = time.perf_counter()
            progress.read += read - last
            progress.compute += computed - read
            progress.write += written - computed
            progress.done += len(batch.rows) + len(batch.unreadable)
            progress.unreadable += len(batch.unreadable)
            progress.shards = sink.committed
            if listener is not None:
                listener(progress)
            last = time.perf_counter()
    progress.write += time.perf_counter() - last
    progress.shards = sink.committed
    return progress


def _inputs(
    job: Job, writer: TaskWriter, tasks: Sequence[ShardTask], workers: int, in_threads: bool
) -> Generator[SquareBatch | LatentBatch]:
    """Decoded pictures, or stored latents where these are enough."""
    batches = list(_batches(tasks, job.extractor.batch_size))
    store = store_of_latents(writer.path, tasks) if job.extractor.takes_latents else None
    if store is not None:
        return load_latents(store, batches)
    return load_squares(
        job.dataset,
        writer.images,
        batches,
        job.config.backbone.resolution,
        job.config.extraction.pad,
        min(workers, len(batches)),
        in_threads,
    )


def _batches(tasks: Sequence[ShardTask], batch_size: int) -> Iterator[RowBatch]:
    """Rows of each task in batches: a batch never crosses shards, so its numbers are repeatable."""
    for key, task in enumerate(tasks):
        rows = list(task.rows)
        for start in range(0, len(rows), batch_size):
            yield RowBatch(key, rows[start : start + batch_size])
