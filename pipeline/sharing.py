"""Several processes on one store: each computes what no other one computes or has computed.

In a local store a process claims a shard before it decodes the first picture of it, and a claim
ends with its process, however that ends: no clock, no heartbeat. Object storage has no such locks:
there each process takes the shards in an order of its own and looks again before each whether it
is committed. Either way a race costs time and nothing else, since both write equal bytes.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock

from cache import Claim, ShardTask, StoreWriter
from cache.units import human_seconds
from pipeline.compute import Listener, Progress, compute_tasks
from pipeline.inputs.collection import Hashed
from pipeline.job import Job
from pipeline.workers.watch import FLOOR, SLOWER

POLL_SECONDS = 0.5
"""Between two looks at shards that other processes have claimed."""


class TaskClaims:
    """Which of some tasks are this process's to compute; told one by one, as late as possible."""

    def __init__(self, writer: StoreWriter, tasks: Sequence[ShardTask], heed: bool = True) -> None:
        """With ``heed`` off, claims of other processes are ignored."""
        self._writer = writer
        self._tasks = tasks
        self._uses_claims = heed and writer.has_claims
        self._held: dict[int, Claim] = {}
        self._users: Counter[int] = Counter()
        self._lock = Lock()
        self.busy: list[ShardTask] = []
        """Tasks that another process has claimed."""
        self.committed: list[ShardTask] = []
        """Tasks that another process has committed."""

    def take(self, number: int) -> bool:
        """Whether to compute a task: it is neither claimed nor committed by another process."""
        task = self._tasks[number]
        with self._lock:
            if self._uses_claims and not self._claim(task.shard):
                self.busy.append(task)
                return False
        if self._writer.is_committed(task):
            self.committed.append(task)
            self.release(number)
            return False
        return True

    def release(self, number: int) -> None:
        """A task has been committed, or will not be."""
        shard = self._tasks[number].shard
        with self._lock:
            self._users[shard] -= 1
            if not self._users[shard] and shard in self._held:
                self._held.pop(shard).release()

    def release_all(self) -> None:
        """Give up what is left, after an error say."""
        with self._lock:
            for claim in self._held.values():
                claim.release()
            self._held.clear()

    def _claim(self, shard: int) -> bool:
        # New rows and new arrays of one shard are two tasks, under one claim.
        if shard not in self._held:
            claim = self._writer.claim(shard)
            if claim is None:
                return False
            self._held[shard] = claim
        self._users[shard] += 1
        return True


def compute_shared(
    job: Job,
    writer: StoreWriter,
    tasks: Sequence[ShardTask],
    workers: int,
    listener: Listener | None = None,
    hashed: Hashed | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Progress:
    """Compute and commit these tasks together with other processes; returns when all are there.

    Tasks that other processes have claimed come last, when they are committed or their process is
    gone. One that commits nothing for long (5 times what a task took here, at least 10 minutes) is
    waited for no more.

    Args:
        workers: processes that decode pictures; 0 decodes in this one.
        listener: called after every batch.
        hashed: files whose hash this process knows at first hand.
        log: told in one line that other processes are waited for.

    Raises DatasetError, StoreError or ExtractionError; what is committed is kept.
    """
    progress = Progress.of(tasks)
    remaining = list(tasks)
    if not writer.has_claims:
        random.SystemRandom().shuffle(remaining)
    waiting_since: float | None = None
    heed = True
    while remaining:
        claims = TaskClaims(writer, remaining, heed)
        before = progress.n_tasks
        try:
            compute_tasks(
                job,
                writer,
                remaining,
                workers,
                listener,
                progress=progress,
                claims=claims,
                hashed=hashed,
            )
        finally:
            claims.release_all()
        for task in claims.committed:
            progress.done += len(task.rows)
            progress.count(task, is_ours=False)
        if claims.committed and listener is not None:
            listener(progress)
        remaining = claims.busy
        if not remaining:
            break
        now = time.monotonic()
        if waiting_since is None:
            log(f"waiting for other processes, which compute {len(remaining)} pieces of work")
        if waiting_since is None or claims.committed or progress.n_tasks > before:
            waiting_since = now
        patience = _patience(progress)
        if now - waiting_since > patience:
            log(
                f"other processes have committed nothing for {human_seconds(patience)}; computing "
                "their pieces of work here too"
            )
            heed = False
        else:
            time.sleep(POLL_SECONDS)
    return progress


def _patience(progress: Progress) -> float:
    """Seconds for which other processes may commit nothing."""
    busy = progress.read + progress.compute + progress.write
    return max(FLOOR, SLOWER * busy / max(progress.n_tasks, 1))
