"""Which worker is at which shard since when, who takes too long, and what each has done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

SLOWER = 5
"""A shard may take so many times what the slowest took so far ..."""
FLOOR = 600.0
"""... but always so many seconds: a first shard also loads the weights."""
TRIES = 3
"""So many workers may take longer than the user's limit over one shard; it is then not the
workers. A limit that was only guessed doubles on."""


@dataclass(frozen=True)
class Running:
    """A shard in work."""

    number: int
    """Which of the tasks."""
    worker: str
    """Address."""
    since: float
    """Time of the watch's clock."""


@dataclass(frozen=True)
class WorkerShare:
    """What one worker has done in a run."""

    worker: str
    """Its name in dask."""
    host: str
    shards: int
    images: int
    seconds: float
    """Spent on them, without loading the weights."""
    images_per_second: float
    device: str = ""
    """What computed, by its maker's name."""
    batch_size: int = 0


class ShardWatch:
    """Shards in work, and how long they may take.

    Shards are handed out largest first, so what finished ones took is a generous measure. Before
    the first has finished there is none, and without a limit of one's own nothing is overdue.

    Args:
        limit: seconds for a shard; None goes by what shards took so far.
        clock: seconds.
    """

    def __init__(
        self, limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._running: dict[int, Running] = {}
        self._slowest: float | None = None
        self._tries: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Whether no shard is in work."""
        return not self._running

    def started(self, number: int, worker: str) -> None:
        """A worker has begun with a task, or begun again."""
        self._running[number] = Running(number, worker, self._clock())

    def finished(self, number: int, computed: bool) -> None:
        """A task has ended. It measures others only if it had to be computed."""
        running = self._running.pop(number, None)
        if running is not None and computed:
            self._slowest = max(self._slowest or 0, self._clock() - running.since)

    def overdue(self) -> list[tuple[Running, float]]:
        """Tasks that take too long, each with its limit in seconds."""
        now = self._clock()
        limits = ((running, self._limit_of(running.number)) for running in self._running.values())
        return [(r, limit) for r, limit in limits if limit is not None and now - r.since > limit]

    def only_on(self, workers: Collection[str]) -> None:
        """Forget what was in work on any other worker: it is gone."""
        self._running = {n: r for n, r in self._running.items() if r.worker in workers}

    def patience(self, number: int) -> float:
        """Seconds for which to wait for a process outside this run that has claimed a task."""
        return self._limit_of(number) or FLOOR

    def was_given_up(self, number: int) -> bool:
        """Whether a task was taken from a worker, which may still hang with it."""
        return number in self._tries

    def given_up(self, number: int) -> bool:
        """A task is taken from a worker that takes too long. Whether to try it again.

        It has twice the time then: the worker may just be a slow one.
        """
        self._running.pop(number, None)
        self._tries[number] = self._tries.get(number, 0) + 1
        return self._limit is None or self._tries[number] < TRIES

    def _limit_of(self, number: int) -> float | None:
        limit = self._limit
        if limit is None and self._slowest is not None:
            limit = max(FLOOR, SLOWER * self._slowest)
        return None if limit is None else limit * 2 ** self._tries.get(number, 0)


class Shares:
    """Adds up what each worker has done."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], tuple[int, int, float]] = {}
        self._machines: dict[tuple[str, str], tuple[str, int]] = {}

    def add(
        self,
        worker: str,
        host: str,
        images: int,
        seconds: float,
        device: str = "",
        batch_size: int = 0,
    ) -> None:
        """Count one shard."""
        self._machines[worker, host] = (device, batch_size)
        shards, before, spent = self._totals.get((worker, host), (0, 0, 0.0))
        self._totals[worker, host] = (shards + 1, before + images, spent + seconds)

    def all(self) -> list[WorkerShare]:
        """By name and host."""
        return [
            WorkerShare(
                *who,
                shards,
                images,
                round(spent, 3),
                round(images / max(spent, 1e-9), 3),
                *self._machines[who],
            )
            for who, (shards, images, spent) in sorted(self._totals.items())
        ]


def share_table(shares: Sequence[WorkerShare]) -> list[str]:
    """Lines for a terminal, a worker each."""
    rows = [("worker", "host", "shards", "images", "images/s")]
    rows += [
        (s.worker, s.host, f"{s.shards:,}", f"{s.images:,}", f"{s.images_per_second:.3g}")
        for s in shares
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
