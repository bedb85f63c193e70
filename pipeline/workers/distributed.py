"""Shards on a dask.distributed cluster: each worker keeps one backbone and takes whole shards.

Nothing but configurations and shard numbers travels: workers read pictures from, and commit
shards to, folders that all of them see. Commits are files, so a worker that dies or hangs loses
its unfinished shard and nothing else; dask gives that shard to another, also to one that joined
later. The process that hands out the shards loads no networks: a worker tells it the digests.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from dask.distributed import Client, Future, KilledWorker
from dask.typing import Key

from cache import ShardTask, StoreWriter
from cache.units import human_seconds
from configs import Config
from pipeline.compute import Listener, Progress
from pipeline.inputs.collection import Hashed
from pipeline.job import open_configured
from pipeline.workers.cluster import Cluster, ClusterError, connected, workers_of
from pipeline.workers.watch import TRIES, Running, ShardWatch, Shares, WorkerShare
from pipeline.workers.worker import (
    Busy,
    Described,
    Failure,
    Outcome,
    Result,
    Source,
    compute_shard,
    describe,
)

RETRIES = 2
"""How often dask tries a shard again after an error that has no line for the user."""
RETRY_DELAYS = (2.0, 15.0)
"""Seconds before a shard is tried again after a fault of a disk, mount or network."""
BUSY_DELAY = 1.0
"""Seconds before a shard is looked at again that a process outside this run computes."""
TICK = 1.0
"""Seconds between two looks at who takes too long."""
GIVE_UP = 30.0
"""Seconds that a worker which takes too long has for ending."""

Log = Callable[[str], None]


@contextmanager
def cluster_computer(
    cluster: Cluster, config: Config, listener: Listener | None, log: Log
) -> Iterator[ClusterComputer]:
    """What computes shards on a cluster, to which it is connected while the block runs.

    Raises ClusterError if there is no scheduler, and what the first worker meets that loads the
    networks: BackboneError, DatasetError or InjectionError.
    """
    dataset = open_configured(config)  # Before workers start, or load anything.
    with connected(cluster, log) as client:
        source = Source(config.model_dump_json(), uuid.uuid4().hex)
        log(f"loading backbone {config.backbone.label} on a worker")
        # All workers load at once. What one of them meets, it meets again at its first shard.
        loading = [
            client.submit(describe, source, workers=[address], pure=False)
            for address in workers_of(client)
        ]
        described = _described(client, source, log)
        yield ClusterComputer(cluster, client, source, dataset, described, listener, log)
        del loading


class ClusterComputer:
    """A cluster whose workers hold the networks of one configuration."""

    def __init__(
        self,
        cluster: Cluster,
        client: Client,
        source: Source,
        dataset: Any,
        described: Described,
        listener: Listener | None,
        log: Log,
    ) -> None:
        """Use `cluster_computer`."""
        self._cluster = cluster
        self._client = client
        self._source = source
        self._described = described
        self._listener = listener
        self._log = log
        self.dataset = dataset
        self.recipe, self.specs = described.recipe, described.specs
        self.batch_size = int(described.provenance["batch_size"])

    def provenance(self) -> dict[str, Any]:
        """That of the worker that was the first to load the networks."""
        return self._described.provenance

    def compute(
        self, writer: StoreWriter, tasks: Sequence[ShardTask], hashed: Hashed
    ) -> tuple[Progress, list[WorkerShare]]:
        """Have these tasks computed, largest first; returns when all are committed.

        In the progress, `read`, `compute` and `write` are sums over the workers, which hash
        pictures themselves. A shard that takes far longer than others did (`ShardWatch`) is taken
        from its worker, which is restarted.

        Raises:
            ClusterError: a shard that kills or blocks every worker.
            BackboneError, DatasetError, InjectionError, StoreError, ExtractionError: what a
                worker met; among them RecipeMismatch if a worker has other weights.
        """
        progress = Progress.of(tasks)
        shares = Shares()
        if not tasks:
            return progress, []
        order = sorted(tasks, key=lambda task: -len(task.rows) * len(task.arrays))
        run = _Run(self._client, self._cluster, self._log, order)
        run.submit(self._source, str(writer.path.resolve()))
        while not run.finished:
            result = run.next_result()
            progress.add(result.progress)
            if result.computed:
                spent = result.progress
                shares.add(
                    result.worker,
                    result.host,
                    len(spent.committed),
                    spent.read + spent.compute + spent.write,
                    result.machine["device_name"],
                    result.machine["batch_size"],
                )
            if self._listener is not None:
                self._listener(progress)
        return progress, shares.all()


def _described(client: Client, source: Source, log: Log) -> Described:
    """What a worker's networks compute; waits for a worker if there is none."""
    future = client.submit(describe, source, pure=False)
    said = False
    while not future.done():
        if not said and not workers_of(client):
            log("no workers at present; waiting for one to join")
            said = True
        time.sleep(0.05)
    found = _result(future, "loading the networks")
    if isinstance(found, Failure):
        raise found.error
    assert isinstance(found, Described)
    return found


def _result(future: Future, what: str) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"{error.last_worker.address}: {what} killed {error.allowed_failures} workers "
            "in a row (out of memory?); set extraction.batch_size lower"
        ) from None
    except CancelledError:
        raise ClusterError(
            "lost the scheduler; finished shards are kept, start it and the same command again"
        ) from None


class _Run:
    """The tasks of one run on their way through the cluster."""

    def __init__(
        self, client: Client, cluster: Cluster, log: Log, tasks: Sequence[ShardTask]
    ) -> None:
        self._client = client
        self._log = log
        self._tasks = tasks
        self._watch = ShardWatch(cluster.shard_limit)
        self._topic = f"sketchfusion-{uuid.uuid4().hex}"
        self._options: dict[str, Any] = {"topic": self._topic, "pure": False, "retries": RETRIES}
        self._done: queue.Queue[Future] = queue.Queue()
        self._starts: queue.Queue[tuple[int, str]] = queue.Queue()
        self._next_look = time.monotonic() + TICK
        self._alone = False
        self._number_of: dict[Key, int] = {}
        self._waiting: dict[int, Future] = {}
        """Tasks under way. A result that was taken is let go, or dask would compute it again when
        the worker that holds it dies."""
        self._later: dict[int, tuple[float, str]] = {}
        """Tasks to send again: when, and the address of a worker to avoid."""
        self._failures: Counter[int] = Counter()
        self._busy_since: dict[int, float] = {}

    @property
    def finished(self) -> bool:
        """Whether every task has a result that was taken."""
        return not self._waiting and not self._later

    def submit(self, source: Source, store: str) -> None:
        """Give all tasks to the scheduler, which hands them out in this order."""
        self._client.subscribe_topic(
            self._topic, lambda event: self._starts.put((event[1]["task"], event[1]["worker"]))
        )
        self._options |= {"source": source, "store": store}
        numbers = range(len(self._tasks))
        futures = self._client.map(compute_shard, self._tasks, numbers, **self._options)
        for number, future in enumerate(futures):
            self._expect(number, future)

    def next_result(self) -> Result:
        """Wait for any task's result; raises what it ended with."""
        while True:
            if time.monotonic() >= self._next_look:
                self._look_around()
                self._next_look = time.monotonic() + TICK
            self._send_again()
            try:
                future = self._done.get(timeout=TICK if not self._later else TICK / 10)
            except queue.Empty:
                continue
            self._note_starts()
            if not future.done():  # Its worker died with the result: dask computes it again.
                future.add_done_callback(self._done.put)
                continue
            outcome: Outcome = _result(future, "a shard")
            number = self._number_of[future.key]
            del self._waiting[number]
            self._watch.finished(number, outcome.computed)
            if isinstance(outcome, Result):
                return outcome
            if isinstance(outcome, Busy):
                self._busy_since.setdefault(number, time.monotonic())
                self._later[number] = (time.monotonic() + BUSY_DELAY, "")
            else:
                self._try_again(number, outcome)

    def _expect(self, number: int, future: Future) -> None:
        self._number_of[future.key] = number
        self._waiting[number] = future
        future.add_done_callback(self._done.put)

    def _try_again(self, number: int, failure: Failure) -> None:
        """Have a shard tried again after a fault that may pass; raise any other."""
        tries = self._failures[number] = self._failures[number] + 1
        if not failure.may_pass:
            raise failure.error
        if tries > len(RETRY_DELAYS):
            raise type(failure.error)(
                f"{failure.error} ({tries} tries, the last on worker {failure.worker})"
            )
        delay = RETRY_DELAYS[tries - 1]
        reason = str(failure.error).partition(";")[0]
        self._log(
            f"shard {self._tasks[number].shard} on worker {failure.worker}: {reason}; trying "
            f"again in {human_seconds(delay)}"
        )
        self._later[number] = (time.monotonic() + delay, failure.address)

    def _send_again(self) -> None:
        now = time.monotonic()
        for number, (due, address) in list(self._later.items()):
            if due > now:
                continue
            del self._later[number]
            # A worker whose mount fails fails fast, and would be free for every next try.
            others = [worker for worker in workers_of(self._client) if worker != address]
            future = self._client.submit(
                compute_shard,
                self._tasks[number],
                number,
                heed=self._heeds_claims(number),
                workers=others if address and others else None,
                allow_other_workers=bool(address and others),
                **self._options,
            )
            self._expect(number, future)

    def _heeds_claims(self, number: int) -> bool:
        """Not those of a worker that hangs, or of a process that was waited for long enough."""
        waited = time.monotonic() - self._busy_since.get(number, time.monotonic())
        return not self._watch.was_given_up(number) and waited < self._watch.patience(number)

    def _note_starts(self) -> None:
        """A start is told later than it was, and may be of a task that has ended since."""
        while not self._starts.empty():
            number, worker = self._starts.get()
            future = self._waiting.get(number)
            if future is not None and not future.done():
                self._watch.started(number, worker)

    def _look_around(self) -> None:
        """Take shards from workers that hang; say once that there is no worker."""
        self._note_starts()
        known = workers_of(self._client)
        self._watch.only_on(known)
        # One at a time: while a worker is restarted, others may end.
        for running, limit in self._watch.overdue()[:1]:
            self._give_to_another(running, limit, known[running.worker])
        alone = self._watch.idle and not known
        if alone and not self._alone:
            self._log("no workers at present; waiting for one to join")
        self._alone = alone

    def _give_to_another(self, running: Running, limit: float, worker: Mapping[str, Any]) -> None:
        """Restart a worker, so that dask gives its shard to another."""
        task = self._tasks[running.number]
        shard = f"shard {task.shard} takes more than {human_seconds(limit)}"
        if not self._watch.given_up(running.number):
            raise ClusterError(
                f"{shard}, and did so on {TRIES} workers: can its pictures be read? Give it more "
                "time with --shard-limit; finished shards are kept"
            )
        self._log(f"{shard} on {running.worker}, which may hang; it goes to another worker")
        if worker["nanny"] is None:
            self._client.retire_workers([running.worker], close_workers=True)
        else:
            self._client.restart_workers([running.worker], GIVE_UP, raise_for_error=False)
