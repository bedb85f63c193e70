"""Shards on a dask.distributed cluster: each worker keeps one backbone and takes whole shards.

Nothing but configurations and shard numbers travels: workers read pictures from, and commit
shards to, folders that all of them see. Commits are files, so a worker that dies or hangs loses
its unfinished shard and nothing else; dask gives that shard to another, also to one that joined
later.
"""

from __future__ import annotations

import gc
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import torch
from dask.distributed import Client, Future, KilledWorker, get_worker
from dask.typing import Key

from cache import FeatureStore, RemotePath, ShardTask, StoreError, StorePath, StoreWriter
from cache.units import human_seconds
from configs import Config
from pipeline.compute import Listener, Progress, compute_tasks
from pipeline.datasets.base import DatasetError
from pipeline.extraction.extract import ExtractionError
from pipeline.inputs.loader import auto_workers
from pipeline.job import Job, load_job
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.injection import InjectionError
from pipeline.workers.cluster import Cluster, ClusterError, connected, device_of_worker, workers_of
from pipeline.workers.watch import TRIES, Running, ShardWatch, Shares, WorkerShare

USER_ERRORS = (BackboneError, DatasetError, ExtractionError, InjectionError, StoreError)
"""What trying again on another worker cannot mend."""
RETRIES = 2
"""How often a shard is tried again after any other error, an OSError of a flaky mount say."""
TICK = 1.0
"""Seconds between two looks at who takes too long."""
GIVE_UP = 30.0
"""Seconds that a worker which takes too long has for ending."""


@dataclass(frozen=True)
class _Result:
    """What a worker did with one shard."""

    progress: Progress
    worker: str
    host: str
    computed: bool
    """Not if somebody had committed it since."""


def compute_on_cluster(
    cluster: Cluster,
    config: Config,
    store: StorePath,
    tasks: Sequence[ShardTask],
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Progress, list[WorkerShare]]:
    """Have these tasks of a store computed, largest first; returns when all are committed.

    In the progress, `read`, `compute` and `write` are sums over the workers. A shard that takes
    far longer than others did (`ShardWatch`) is taken from its worker, which is restarted.

    Raises:
        ClusterError: no scheduler there, or a shard that kills or blocks every worker.
        BackboneError, DatasetError, InjectionError, StoreError, ExtractionError: what a worker
            met; among them RecipeMismatch, where a worker has other weights.
    """
    progress = Progress(sum(len(task.rows) for task in tasks), len(tasks))
    shares = Shares()
    if not tasks:
        return progress, []
    if isinstance(store, RemotePath) and store.protocol == "memory":
        raise ClusterError(f"{store}: other processes do not see it; write to a place they see")
    order = sorted(tasks, key=lambda task: -len(task.rows) * len(task.arrays))
    with connected(cluster, log) as client:
        run = _Run(client, cluster, log, order)
        run.submit(config.model_dump_json(), str(store.resolve()))
        while run.waiting:
            result = run.next_result()
            progress.add(result.progress)
            if result.computed:
                spent = result.progress
                seconds = spent.read + spent.compute + spent.write
                shares.add(result.worker, result.host, spent.done, seconds)
            if listener is not None:
                listener(progress)
    return progress, shares.all()


class _Run:
    """The tasks of one run on their way through the cluster."""

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        log: Callable[[str], None],
        tasks: Sequence[ShardTask],
    ) -> None:
        self._client = client
        self._log = log
        self._tasks = tasks
        self._watch = ShardWatch(cluster.shard_limit)
        self._topic = f"sketchfusion-{uuid.uuid4().hex}"
        self._done: queue.Queue[Future] = queue.Queue()
        self._starts: queue.Queue[tuple[int, str]] = queue.Queue()
        self._next_look = time.monotonic() + TICK
        self._alone = False
        self._number_of: dict[Key, int] = {}
        self.waiting: dict[int, Future] = {}
        """Tasks without a result. A result that was taken is let go, or dask would compute it
        again when the worker that holds it dies."""

    def submit(self, config_json: str, store: str) -> None:
        """Give all tasks to the scheduler, which hands them out in this order."""
        self._client.subscribe_topic(
            self._topic, lambda event: self._starts.put((event[1]["task"], event[1]["worker"]))
        )
        futures = self._client.map(
            _compute_shard,
            self._tasks,
            range(len(self._tasks)),
            topic=self._topic,
            config_json=config_json,
            store=store,
            pure=False,
            retries=RETRIES,
        )
        for number, future in enumerate(futures):
            self._number_of[future.key] = number
            self.waiting[number] = future
            future.add_done_callback(self._done.put)

    def next_result(self) -> _Result:
        """Wait for any task's result; raises what it ended with."""
        while True:
            if time.monotonic() >= self._next_look:
                self._look_around()
                self._next_look = time.monotonic() + TICK
            try:
                future = self._done.get(timeout=TICK)
            except queue.Empty:
                continue
            self._note_starts()
            if not future.done():  # Its worker died with the result: dask computes it again.
                future.add_done_callback(self._done.put)
                continue
            result = self._result(future)
            number = self._number_of[future.key]
            del self.waiting[number]
            self._watch.finished(number, result.computed)
            return result

    def _result(self, future: Future) -> _Result:
        try:
            result = future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"{error.last_worker.address}: a shard killed {error.allowed_failures} workers "
                "in a row (out of memory?); set extraction.batch_size lower"
            ) from None
        except CancelledError:
            raise ClusterError(
                "lost the scheduler; finished shards are kept, start it and the same command again"
            ) from None
        if isinstance(result, Exception):
            raise result
        return result

    def _note_starts(self) -> None:
        """A start is told later than it was, and may be of a task that has ended since."""
        while not self._starts.empty():
            number, worker = self._starts.get()
            future = self.waiting.get(number)
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


_ONE_AT_A_TIME = threading.Lock()
"""A worker with several threads that joins later must not share its backbone between them."""


def _compute_shard(
    task: ShardTask, number: int, topic: str, config_json: str, store: str
) -> _Result | Exception:
    """What a worker runs. A user's error is returned: raised, dask would try it again."""
    worker = get_worker()
    with _ONE_AT_A_TIME:
        worker.log_event(topic, {"task": number, "worker": worker.address})
        try:
            job, writer = _resident(config_json, store)
            computed = not writer.is_committed(task)
            if computed:
                progress = compute_tasks(job, writer, [task], _decoders(job), in_threads=True)
            else:
                progress = Progress(len(task.rows), 1, done=len(task.rows), shards=1)
        except USER_ERRORS as error:
            return error
    return _Result(progress, str(worker.name), socket.gethostname(), computed)


def _decoders(job: Job) -> int:
    """Threads that decode beside the accelerator: dask lets its workers start no processes."""
    workers = job.config.extraction.workers
    if workers != "auto":
        return workers
    # Beside a CPU there is nothing to gain: each core has a worker of its own.
    device = job.extractor.device
    return 0 if device.type == "cpu" else auto_workers(device)


_kept: dict[tuple[str, str], tuple[Job, StoreWriter]] = {}


def _resident(config_json: str, store: str) -> tuple[Job, StoreWriter]:
    """The worker's networks and its view of the store, loaded once and kept."""
    key = (config_json, store)
    if key not in _kept:
        # Before others are loaded: a card may not have room for two backbones.
        _kept.clear()
        gc.collect()
        _kept[key] = _load(config_json, store)
    return _kept[key]


def _load(config_json: str, store: str) -> tuple[Job, StoreWriter]:
    config = Config.model_validate_json(config_json)
    name, n_devices = get_worker().name, torch.cuda.device_count()
    device = device_of_worker(config.extraction.device, name, n_devices)
    extraction = config.extraction.model_copy(update={"device": device})
    job = load_job(config.model_copy(update={"extraction": extraction}))
    images = FeatureStore.open(store, job.recipe).images
    return job, StoreWriter.open(store, job.recipe, images, job.specs)
