"""Writing features behind the accelerator's back: one thread, a short queue, whole shards."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from cache import NonFiniteError, ShardTask, TaskWriter

QUEUE_LENGTH = 3
"""Batches that may wait for the disk: enough to smooth over an fsync, bounded in memory."""


N_SHOWN = 20
"""Images with features that are not finite that an error names besides the first."""


@dataclass(frozen=True)
class FeatureBatch:
    """Computed rows of one task: arrays [B, ...] by name, and rows that have no features.

    `timings` are seconds by name; those of a shard's batches add up in its commit.
    """

    task: int
    rows: Sequence[int]
    arrays: dict[str, np.ndarray]
    unreadable: dict[int, str]
    timings: dict[str, float] = field(default_factory=dict)


class ShardSink:
    """Streams feature batches into shards in a background thread and commits each shard.

    Tasks must arrive one after the other, rows ascending. Use as a context manager: leaving it
    normally waits for the last commit; leaving it with an exception drops the unfinished shard,
    whose temporaries are removed. An error in the thread is raised at the next `put`.
    """

    def __init__(
        self,
        writer: TaskWriter,
        tasks: Sequence[ShardTask],
        machine: Mapping[str, Any] | None = None,
        committed: Callable[[int, bool], None] = lambda number, is_ours: None,
    ) -> None:
        """`machine` is recorded in each commit. `committed` is called in the thread with the
        number of each task that is there, and whether this process put it there."""
        self._writer = writer
        self._tasks = tasks
        self._machine = machine
        self._committed = committed
        self._queue: queue.Queue[FeatureBatch | None] = queue.Queue(QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)

    def put(self, batch: FeatureBatch) -> None:
        """Hand a batch over; waits while the queue is full. Raises what the thread raised."""
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(batch, timeout=0.1)
                return
            except queue.Full:
                continue

    def __enter__(self) -> ShardSink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._cancelled.set()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            batch = self._queue.get()
            while batch is not None:
                batch = self._write_task(batch)
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error

    def _write_task(self, batch: FeatureBatch) -> FeatureBatch | None:
        """Write one shard, starting with its first batch; returns the next task's first batch."""
        task = self._tasks[batch.task]
        remaining = len(task.rows)
        timings: dict[str, float] = {}
        with self._writer.shard(task) as shard:
            while True:
                start = time.perf_counter()
                for row in sorted([*batch.rows, *batch.unreadable]):
                    if row in batch.unreadable:
                        shard.quarantine(row, batch.unreadable[row])
                    else:
                        index = batch.rows.index(row)
                        try:
                            shard.put(row, {name: a[index] for name, a in batch.arrays.items()})
                        except NonFiniteError as error:
                            raise self._with_the_others(error, row, batch) from None
                    remaining -= 1
                spent = {**batch.timings, "write": time.perf_counter() - start}
                for name, seconds in spent.items():
                    timings[name] = timings.get(name, 0.0) + seconds
                if not remaining:
                    break
                more = self._queue.get()
                if more is None or self._cancelled.is_set():
                    raise _Cancelled
                batch = more
            rounded = {name: round(s, 4) for name, s in timings.items()}
            is_ours = shard.commit(timings=rounded, computed_by=self._machine)
        self._committed(batch.task, is_ours)
        following = self._queue.get()
        return None if self._cancelled.is_set() else following

    def _with_the_others(
        self, error: NonFiniteError, first: int, batch: FeatureBatch
    ) -> NonFiniteError:
        """The error of a batch's first bad row, with the other images that are like it."""
        others = []
        for index, row in enumerate(batch.rows):
            stored = (
                values[index].astype("float16" if self._is_float16(name) else "float32")
                for name, values in batch.arrays.items()
            )
            with np.errstate(over="ignore"):
                if row != first and not all(np.isfinite(values).all() for values in stored):
                    others.append(self._writer.images[row].id)
        if not others:
            return error
        shown = ", ".join(others[:N_SHOWN])
        more = f" and {len(others) - N_SHOWN} more" if len(others) > N_SHOWN else ""
        return NonFiniteError(f"{error}; likewise {shown}{more}")

    def _is_float16(self, array: str) -> bool:
        return self._writer.arrays[array].dtype == "float16"


class _Cancelled(Exception):
    """The main thread gave up: leave the shard uncommitted."""
