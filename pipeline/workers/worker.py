"""What runs on a dask worker: it keeps one backbone, and computes the shards it is given."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dask.distributed import get_worker

from cache import ArraySpec, FeatureStore, Recipe, ShardTask, StoreError, StoreWriter
from cache.errors import is_transient
from configs import Config
from pipeline.compute import Progress, compute_tasks
from pipeline.datasets.base import DatasetError
from pipeline.extraction.extract import ExtractionError
from pipeline.inputs.loader import auto_workers
from pipeline.job import Job, load_job
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.injection import InjectionError
from pipeline.sharing import TaskClaims
from pipeline.workers.cluster import device_of_worker

USER_ERRORS = (BackboneError, DatasetError, ExtractionError, InjectionError, StoreError)
"""Errors with a line for the user. They travel as results: raised, dask would try again."""


@dataclass(frozen=True)
class Source:
    """What a worker loads its networks from."""

    config_json: str
    run: str
    """Of another run the same paths may hold other weights."""


@dataclass(frozen=True)
class Described:
    """What the process that hands out shards has to know of the networks."""

    recipe: Recipe
    specs: Sequence[ArraySpec]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a worker did with one shard."""

    progress: Progress
    worker: str
    host: str
    machine: dict[str, Any]

    @property
    def computed(self) -> bool:
        """Whether it has computed anything: not if the shard had been committed since."""
        return bool(self.progress.n_tasks)


@dataclass(frozen=True)
class Busy:
    """A process outside this run computes the shard."""

    computed = False


@dataclass(frozen=True)
class Failure:
    """A shard that could not be computed."""

    error: Exception
    may_pass: bool
    """Whether trying again, here or elsewhere, may help."""
    address: str
    worker: str

    computed = False


Outcome = Result | Busy | Failure

_ONE_AT_A_TIME = threading.Lock()
"""A worker with several threads that joins later must not share its backbone between them."""


def describe(source: Source) -> Described | Failure:
    """Load the networks and say what they compute."""
    try:
        with _ONE_AT_A_TIME:
            job = _resident(source)
    except USER_ERRORS as error:
        return _failure(error)
    return Described(job.recipe, job.specs, job.provenance())


def compute_shard(
    task: ShardTask, number: int, topic: str, source: Source, store: str, heed: bool = True
) -> Outcome:
    """Compute and commit a task, unless another process has or, with `heed`, is doing so."""
    worker = get_worker()
    with _ONE_AT_A_TIME:
        worker.log_event(topic, {"task": number, "worker": worker.address})
        try:
            job = _resident(source)
            writer = _writer(job, source, store)
            claims = TaskClaims(writer, [task], heed)
            try:
                progress = compute_tasks(
                    job, writer, [task], _decoders(job), in_threads=True, claims=claims
                )
            finally:
                claims.release_all()
        except USER_ERRORS as error:
            return _failure(error)
    if claims.busy:
        return Busy()
    if claims.committed:
        progress.done += len(task.rows)
        progress.count(task, is_ours=False)
    return Result(progress, str(worker.name), socket.gethostname(), job.machine())


def _failure(error: Exception) -> Failure:
    worker = get_worker()
    # A file that is not there may be a mount that is not there, on this worker.
    may_pass = is_transient(error) or isinstance(error.__cause__, FileNotFoundError)
    return Failure(error, may_pass, worker.address, str(worker.name))


def _decoders(job: Job) -> int:
    """Threads that decode beside the accelerator: dask lets its workers start no processes."""
    workers = job.config.extraction.workers
    if workers != "auto":
        return workers
    # Beside a CPU there is nothing to gain: each core has a worker of its own.
    device = job.extractor.device
    return 0 if device.type == "cpu" else auto_workers(device)


_jobs: dict[Source, Job] = {}
_writers: dict[tuple[Source, str], StoreWriter] = {}


def _resident(source: Source) -> Job:
    """The worker's networks, loaded once for each run and kept."""
    if source not in _jobs:
        # Before others are loaded: a card may not have room for two backbones.
        _jobs.clear()
        _writers.clear()
        gc.collect()
        config = Config.model_validate_json(source.config_json)
        name, n_devices = get_worker().name, torch.cuda.device_count()
        device = device_of_worker(config.extraction.device, name, n_devices)
        extraction = config.extraction.model_copy(update={"device": device})
        _jobs[source] = load_job(config.model_copy(update={"extraction": extraction}))
    return _jobs[source]


def _writer(job: Job, source: Source, store: str) -> StoreWriter:
    """The worker's view of the store. RecipeMismatch if its weights are not the run's."""
    key = (source, store)
    if key not in _writers:
        images = FeatureStore.open(store, job.recipe).images
        _writers[key] = StoreWriter.open(store, job.recipe, images, job.specs)
    return _writers[key]
