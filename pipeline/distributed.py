"""Shards on a dask.distributed cluster: each worker keeps one backbone and takes whole shards.

Nothing but configurations and shard numbers travels: workers read pictures from, and commit
shards to, folders that all of them see. Commits are files, so a worker that dies loses its
unfinished shard and nothing else; dask gives that shard to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from dask.distributed import Client, KilledWorker, LocalCluster, as_completed

from cache import FeatureStore, RemotePath, ShardTask, StoreError, StorePath, StoreWriter
from configs import Config
from pipeline.checkpoints import BackboneError
from pipeline.compute import Listener, Progress, compute_tasks
from pipeline.datasets.base import DatasetError
from pipeline.extract import ExtractionError
from pipeline.injection import InjectionError
from pipeline.job import Job, load_job

USER_ERRORS = (BackboneError, DatasetError, ExtractionError, InjectionError, StoreError)
"""What trying again on another worker cannot mend."""
RETRIES = 2
"""How often a shard is tried again after any other error, an OSError of a flaky mount say."""


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or that loses its workers."""


@dataclass(frozen=True)
class Cluster:
    """Which workers: an existing scheduler's, or so many processes on this machine."""

    scheduler: str | None = None
    """Address as `tcp://host:8786`."""
    n_workers: int = 1
    """Processes to start here where no scheduler is named."""


def compute_on_cluster(
    cluster: Cluster,
    config: Config,
    store: StorePath,
    tasks: Sequence[ShardTask],
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Progress:
    """Have these tasks of a store computed, largest first; returns when all are committed.

    In the result, `read`, `compute` and `write` are sums over the workers.

    Raises:
        ClusterError: no scheduler there, or a shard that keeps killing its workers.
        BackboneError, DatasetError, InjectionError, StoreError, ExtractionError: what a worker
            met; among them RecipeMismatch, where a worker has other weights.
    """
    progress = Progress(sum(len(task.rows) for task in tasks), len(tasks))
    if not tasks:
        return progress
    if isinstance(store, RemotePath) and store.protocol == "memory":
        raise ClusterError(f"{store}: other processes do not see it; write to a place they see")
    text, place = config.model_dump_json(), str(store.resolve())
    order = sorted(tasks, key=lambda task: -len(task.rows) * len(task.arrays))
    with _client(cluster) as client:
        log(f"{len(client.scheduler_info()['workers'])} workers, {client.scheduler.address}")
        futures = client.map(
            _compute_shard, order, config_json=text, store=place, pure=False, retries=RETRIES
        )
        for future in as_completed(futures):
            try:
                result = future.result()
            except KilledWorker as error:
                raise ClusterError(
                    f"{error.last_worker.address}: a shard killed {error.allowed_failures} workers "
                    "in a row (out of memory?); set extraction.batch_size lower"
                ) from None
            if isinstance(result, Exception):
                raise result
            progress.add(result)
            if listener is not None:
                listener(progress)
    return progress


@contextmanager
def _client(cluster: Cluster) -> Iterator[Client]:
    """A client of the cluster; one that was started here ends with it."""
    if cluster.scheduler is not None:
        try:
            client = Client(cluster.scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"--scheduler {cluster.scheduler}: no scheduler answers there ({error}); "
                "start one with `dask scheduler`, or use --workers N"
            ) from None
        with client:
            yield client
        return
    # Threads share one backbone's device badly; processes also survive each other.
    local = LocalCluster(
        n_workers=cluster.n_workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    )
    with local, Client(local) as client:
        yield client


def _compute_shard(task: ShardTask, config_json: str, store: str) -> Progress | Exception:
    """What a worker runs. A user's error is returned: raised, dask would try it again."""
    try:
        job, writer = _resident(config_json, store)
        if writer.is_committed(task):
            return Progress(len(task.rows), 1, done=len(task.rows), shards=1)
        return compute_tasks(job, writer, [task], workers=0)
    except USER_ERRORS as error:
        return error


@lru_cache(maxsize=1)
def _resident(config_json: str, store: str) -> tuple[Job, StoreWriter]:
    """The worker's networks and its view of the store, loaded once and kept."""
    job = load_job(Config.model_validate_json(config_json))
    images = FeatureStore.open(store, job.recipe).images
    return job, StoreWriter.open(store, job.recipe, images, job.specs)
