"""The pipeline itself: read, compute and write, each at its own pace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from cache import ImageRecord, ShardTask, TaskWriter
from pipeline.extraction.extract import BaseExtractor, Computed, Computing
from pipeline.inputs.latents import LatentBatch, load_latents, store_of_latents
from pipeline.inputs.loader import RowBatch, SquareBatch, load_squares
from pipeline.job import Job
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
    use_latents: bool = True,
) -> Progress:
    """Compute and commit these tasks in this process.

    Args:
        workers: processes that decode pictures; 0 decodes in this one.
        listener: called after every batch.
        in_threads: decode in so many threads instead of processes.
        use_latents: start from stored latents instead of pictures where these are enough.

    Raises DatasetError, StoreError or ExtractionError; what is committed is kept.
    """
    progress = Progress(sum(len(task.rows) for task in tasks), len(tasks))
    if not tasks:
        return progress
    # Closed even where an error's traceback keeps this frame alive: decoding processes would be.
    inputs = closing(_inputs(job, writer, tasks, workers, in_threads, use_latents))
    with inputs as batches, ShardSink(writer, tasks) as sink:
        last = time.perf_counter()
        for features in _computed(job, writer, tasks, batches, progress):
            computed = time.perf_counter()
            sink.put(features)
            last = time.perf_counter()
            progress.write += last - computed
            progress.done += len(features.rows) + len(features.unreadable)
            progress.unreadable += len(features.unreadable)
            progress.shards = sink.committed
            if listener is not None:
                listener(progress)
    progress.write += time.perf_counter() - last
    progress.shards = sink.committed
    return progress


def _computed(
    job: Job,
    writer: TaskWriter,
    tasks: Sequence[ShardTask],
    batches: Iterator[SquareBatch | LatentBatch],
    progress: Progress,
) -> Iterator[FeatureBatch]:
    """Features of the batches, in order.

    A device that works beside this process has the next batch before the features of one are
    taken from it: it computes while they are copied and handed on.
    """
    under_way: deque[tuple[SquareBatch | LatentBatch, Computing, float]] = deque()

    def take() -> FeatureBatch:
        batch, computing, seconds = under_way.popleft()
        start = time.perf_counter()
        arrays = computing.arrays()
        waited = time.perf_counter() - start
        progress.compute += waited
        timings = {"read": batch.seconds, "compute": seconds + waited}
        return FeatureBatch(batch.key, batch.rows, arrays, batch.unreadable, timings)

    before = time.perf_counter()
    for batch in batches:
        read = time.perf_counter()
        computing = _start(job.extractor, batch, writer.images, tasks[batch.key].arrays)
        started = time.perf_counter()
        progress.read += read - before
        progress.compute += started - read
        under_way.append((batch, computing, started - read))
        while len(under_way) > job.extractor.n_ahead:
            yield take()
        before = time.perf_counter()
    while under_way:
        yield take()


def _start(
    extractor: BaseExtractor,
    batch: SquareBatch | LatentBatch,
    images: Sequence[ImageRecord],
    arrays: Sequence[str],
) -> Computing:
    if not batch.rows:
        return Computed({})
    sha256s = [images[row].sha256 for row in batch.rows]
    if isinstance(batch, LatentBatch):
        return extractor.start_from_latents(batch.latents, sha256s, arrays)
    return extractor.start(batch.squares, sha256s, arrays)


def _inputs(
    job: Job,
    writer: TaskWriter,
    tasks: Sequence[ShardTask],
    workers: int,
    in_threads: bool,
    use_latents: bool,
) -> Generator[SquareBatch | LatentBatch]:
    """Decoded pictures, or stored latents where these are enough."""
    batches = list(_batches(tasks, job.extractor.batch_size))
    use_latents = use_latents and job.extractor.takes_latents
    store = store_of_latents(writer.path, tasks) if use_latents else None
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
        job.config.extraction.clip_input,
    )


def _batches(tasks: Sequence[ShardTask], batch_size: int) -> Iterator[RowBatch]:
    """Rows of each task in batches: a batch never crosses shards, so its numbers are repeatable."""
    for key, task in enumerate(tasks):
        rows = list(task.rows)
        for start in range(0, len(rows), batch_size):
            yield RowBatch(key, rows[start : start + batch_size])
