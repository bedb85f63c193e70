"""The pipeline itself: read, compute and write, each at its own pace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from cache import ImageRecord, ShardTask, TaskWriter
from pipeline.extraction.extract import BaseExtractor, Computed, Computing
from pipeline.inputs.collection import Hashed
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
    """Rows of all tasks; a row that is in two tasks counts twice."""
    n_shards: int
    done: int = 0
    """Rows that need no more work."""
    n_tasks: int = 0
    """Tasks committed by this run."""
    committed: set[int] = field(default_factory=set)
    """Rows of these tasks."""
    elsewhere: set[int] = field(default_factory=set)
    """Rows of the tasks that other processes have committed meanwhile."""
    committed_shards: set[int] = field(default_factory=set)
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, tasks: Sequence[ShardTask]) -> Progress:
        """The beginning of some tasks."""
        return cls(sum(len(task.rows) for task in tasks), len(tasks))

    @property
    def shards(self) -> int:
        """Shards in which this run has committed anything."""
        return len(self.committed_shards)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    def add(self, other: Progress) -> None:
        """Count what another run has done as this one's."""
        for name in ("done", "n_tasks", "read", "compute", "write"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.committed |= other.committed
        self.elsewhere |= other.elsewhere
        self.committed_shards |= other.committed_shards

    def count(self, task: ShardTask, is_ours: bool) -> None:
        """Count a task that is committed, by this run or by another process."""
        if is_ours:
            self.n_tasks += 1
            self.committed |= set(task.rows)
            self.committed_shards.add(task.shard)
        else:
            self.elsewhere |= set(task.rows)

    def shares(self) -> str:
        """Where the time went, as `read 4% compute 93% write 3%`."""
        total = max(self.read + self.compute + self.write, 1e-9)
        parts = (("read", self.read), ("compute", self.compute), ("write", self.write))
        return " ".join(f"{name} {100 * value / total:.0f}%" for name, value in parts)


Listener = Callable[[Progress], None]
"""Told how far a run has come."""


class Claims(Protocol):
    """Says which tasks are this process's to compute; see `pipeline.sharing.TaskClaims`."""

    def take(self, number: int) -> bool:
        """Whether to compute a task; called right before its first batch is read."""

    def release(self, number: int) -> None:
        """A task that was taken is committed."""


def compute_tasks(
    job: Job,
    writer: TaskWriter,
    tasks: Sequence[ShardTask],
    workers: int,
    listener: Listener | None = None,
    in_threads: bool = False,
    use_latents: bool = True,
    progress: Progress | None = None,
    claims: Claims | None = None,
    hashed: Hashed | None = None,
) -> Progress:
    """Compute and commit these tasks in this process.

    Args:
        workers: processes that decode pictures; 0 decodes in this one.
        listener: called after every batch.
        in_threads: decode in so many threads instead of processes.
        use_latents: start from stored latents instead of pictures if these are enough.
        progress: the run that these tasks belong to, to be counted on; None begins one.
        claims: leave out the tasks that it does not give; None computes all.
        hashed: files whose hash this process knows at first hand.

    Raises DatasetError, StoreError or ExtractionError; what is committed is kept.
    """
    progress = progress or Progress.of(tasks)
    batches = list(_batches(tasks, job.extractor.batch_size))
    order = _claimed(batches, claims) if claims else iter(range(len(batches)))
    first = next(order, None)
    if first is None:  # Before decoding processes are started for nothing.
        return progress

    def committed(number: int, is_ours: bool) -> None:
        progress.count(tasks[number], is_ours)
        if claims is not None:
            claims.release(number)

    def load() -> Generator[SquareBatch | LatentBatch]:
        """Decoded pictures, or stored latents if these are enough."""
        rest = chain([first], order)
        store = None
        if use_latents and job.extractor.takes_latents:
            store = store_of_latents(writer.path, tasks)
        if store is not None:
            return load_latents(store, (batches[number] for number in rest))
        return load_squares(
            job.dataset,
            writer.images,
            batches,
            job.config.backbone.resolution,
            job.config.extraction.pad,
            min(workers, len(batches)),
            in_threads,
            rest,
            hashed,
            job.config.extraction.clip_input,
        )

    # Closed even if an error's traceback keeps this frame alive: decoding processes would be.
    sink = ShardSink(writer, tasks, job.machine(), committed)
    with closing(load()) as loaded, sink:
        last = time.perf_counter()
        for features in _computed(job, writer, tasks, loaded, progress):
            computed = time.perf_counter()
            sink.put(features)
            last = time.perf_counter()
            progress.write += last - computed
            progress.done += len(features.rows) + len(features.unreadable)
            if listener is not None:
                listener(progress)
    progress.write += time.perf_counter() - last
    return progress


def _claimed(batches: Sequence[RowBatch], claims: Claims) -> Iterator[int]:
    """Numbers of the batches of the tasks that `claims` gives."""
    task, is_ours = -1, False
    for number, batch in enumerate(batches):
        if batch.key != task:
            task, is_ours = batch.key, claims.take(batch.key)
        if is_ours:
            yield number


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


def _batches(tasks: Sequence[ShardTask], batch_size: int) -> Iterator[RowBatch]:
    """Rows of each task in batches: a batch never crosses shards, so its numbers are repeatable."""
    for key, task in enumerate(tasks):
        rows = list(task.rows)
        for start in range(0, len(rows), batch_size):
            yield RowBatch(key, rows[start : start + batch_size])
