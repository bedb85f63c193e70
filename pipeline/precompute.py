"""Stage 1 as one function: from a configuration to a store, resumable at any point.

    report = precompute(load_config("demo"), Path("stores/demo"))

Pictures are read and decoded ahead, computed in batches, and written behind; each shard is
committed when all its rows are there, and what is committed is never done again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cache import (
    ArraySpec,
    FeatureStore,
    HashIndex,
    Recipe,
    RemotePath,
    ShardTask,
    StoreError,
    StorePath,
    StoreWriter,
)
from cache.units import human_seconds, printable
from configs import Config
from pipeline.compute import Listener, Progress
from pipeline.datasets.base import Dataset
from pipeline.inputs.collection import Collection as ImageCollection
from pipeline.inputs.collection import Hashed, scan
from pipeline.inputs.loader import auto_workers
from pipeline.job import load_job
from pipeline.sharing import compute_shared
from pipeline.workers.watch import WorkerShare, share_table

if TYPE_CHECKING:
    from pipeline.workers.cluster import Cluster


Log = Callable[[str], None]

N_SKIPPED_SHOWN = 10
"""Files left out that a report names."""


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 1: shards are dealt out in turn."""

    index: int = 1
    count: int = 1

    def owns(self, shard: int) -> bool:
        """Whether this part computes shard number `shard`."""
        return shard % self.count == self.index - 1


WHOLE = Part()
"""All shards."""


@dataclass(frozen=True)
class PrecomputeReport:
    """The result of one run. Seconds cover the extraction, not the loading of weights."""

    store: StorePath
    fingerprint: str
    n_images: int
    """All images of the store. The next four add up to those of this run's part."""
    n_computed: int
    """Images of which this run has computed and committed features."""
    n_already_there: int
    """Images that had all their features before."""
    n_by_others: int
    """Images that other processes have committed meanwhile."""
    n_quarantined: int
    """Images that could not be computed, by this run, another or an earlier one."""
    n_shards_committed: int
    """Shards in which this run has committed anything."""
    n_shards_pending: int
    quarantined: dict[str, str]
    skipped: list[tuple[str, str]]
    seconds: float
    read_seconds: float
    compute_seconds: float
    write_seconds: float
    batch_size: int
    """Images; on a cluster that of the first worker. Each commit has its own."""
    workers: list[WorkerShare] = field(default_factory=list)
    """What each dask worker did; empty where the work was done in this process."""

    def as_text(self) -> str:
        """What was done and what was left out, for a terminal."""
        lines = [
            f"{self.store}: {self.n_computed:,} images computed in {human_seconds(self.seconds)} "
            f"(read {human_seconds(self.read_seconds)}, "
            f"compute {human_seconds(self.compute_seconds)}, "
            f"write {human_seconds(self.write_seconds)})",
            *self._other_counts(),
            f"fingerprint {self.fingerprint}",
        ]
        left_out = [f"quarantined {image_id}: {why}" for image_id, why in self.quarantined.items()]
        left_out += [f"left out {path}: {why}" for path, why in self.skipped[:N_SKIPPED_SHOWN]]
        lines += map(printable, left_out)
        if len(self.skipped) > N_SKIPPED_SHOWN:
            lines.append(f"left out {len(self.skipped) - N_SKIPPED_SHOWN} more files")
        if self.n_shards_pending:
            lines.append(f"left for other parts: {self.n_shards_pending} pieces of work")
        if self.workers:
            lines += share_table(self.workers)
        return "\n".join(lines)

    def _other_counts(self) -> list[str]:
        counts = (
            (self.n_already_there, "there already"),
            (self.n_by_others, "committed by other processes meanwhile"),
            (self.n_quarantined, "quarantined"),
        )
        found = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        return [f"besides: {found}"] if found else []


class Computer(Protocol):
    """What computes the shards of a configuration: this process, or a cluster's workers."""

    dataset: Dataset
    recipe: Recipe
    specs: Sequence[ArraySpec]
    batch_size: int

    def provenance(self) -> dict[str, Any]:
        """What is recorded of a store that is made now."""

    def compute(
        self, writer: StoreWriter, tasks: Sequence[ShardTask], hashed: Hashed
    ) -> tuple[Progress, list[WorkerShare]]:
        """Compute and commit tasks; `hashed` are files that this process has hashed."""


class _ThisProcess:
    """Computes with networks that are loaded here."""

    def __init__(self, config: Config, listener: Listener | None, log: Log) -> None:
        log(f"loading backbone {config.backbone.label}")
        self._job = load_job(config)
        self._listener = listener
        self._log = log
        self.dataset = self._job.dataset
        self.recipe, self.specs = self._job.recipe, self._job.specs
        self.batch_size = self._job.extractor.batch_size

    def provenance(self) -> dict[str, Any]:
        return self._job.provenance()

    def compute(
        self, writer: StoreWriter, tasks: Sequence[ShardTask], hashed: Hashed
    ) -> tuple[Progress, list[WorkerShare]]:
        workers = self._job.config.extraction.workers
        if workers == "auto":
            workers = auto_workers(self._job.extractor.device)
        progress = compute_shared(
            self._job, writer, tasks, workers, self._listener, hashed, self._log
        )
        return progress, []


@contextmanager
def _computer(
    config: Config, cluster: Cluster | None, listener: Listener | None, log: Log
) -> Iterator[Computer]:
    if cluster is None:
        yield _ThisProcess(config, listener, log)
        return
    # dask takes a second to import, for nothing if it is not used.
    from pipeline.workers.distributed import cluster_computer

    with cluster_computer(cluster, config, listener, log) as computer:
        yield computer


def precompute(
    config: Config,
    out: StorePath | None = None,
    part: Part = WHOLE,
    cluster: Cluster | None = None,
    listener: Listener | None = None,
    log: Log = lambda line: None,
) -> PrecomputeReport:
    """Compute every missing shard of the store that `config` describes.

    Other processes may work on the same store: shards that they compute are left to them.

    Args:
        out: the store; None names it after the dataset and the recipe.
        part: which shards are this process's, for job arrays.
        cluster: dask workers that compute the shards; None computes them in this process.
        listener: told about progress.
        log: told about each step in one line.

    Raises:
        BackboneError, DatasetError, InjectionError, StoreError, ExtractionError, ClusterError: each
            with one line saying what is wrong and what to do. Committed shards are kept.
    """
    if cluster is not None and isinstance(out, RemotePath) and out.protocol == "memory":
        raise StoreError(f"{out}: other processes do not see it; write to a place they see")
    with _computer(config, cluster, listener, log) as computer:
        out = out or default_store(config, computer.recipe)
        log(f"hashing {len(computer.dataset.ids):,} images")
        collection = scan(computer.dataset, index=HashIndex.beside(out), log=log)
        log(f"{len(collection.images):,} images, {len(collection.skipped):,} other files left out")
        for note in computer.dataset.notes:
            log(printable(note))
        writer = StoreWriter.open(
            out,
            computer.recipe,
            collection.images,
            computer.specs,
            shard_size=config.extraction.shard_size,
            provenance=computer.provenance(),
        )
        fingerprint = writer.recipe.fingerprint
        if fingerprint != computer.recipe.fingerprint:
            log(f"{out} names the same networks by older digests; it goes on under its fingerprint")
        tasks = [task for task in writer.pending() if part.owns(task.shard)]
        log(f"store {out} ({fingerprint[:12]}): pieces of work to do: {len(tasks)}")
        progress, shares = computer.compute(writer, tasks, collection.hashed)
        quarantined = _quarantined(FeatureStore.open(out), collection, computer.dataset)
    counts = _Counts(writer, part, tasks, progress, quarantined.keys())
    return PrecomputeReport(
        store=out,
        fingerprint=fingerprint,
        n_images=len(writer.images),
        n_computed=counts.computed,
        n_already_there=counts.already_there,
        n_by_others=counts.by_others,
        n_quarantined=counts.quarantined,
        n_shards_committed=progress.shards,
        n_shards_pending=len(writer.pending()),
        quarantined=quarantined,
        skipped=[(item.path, item.reason) for item in collection.skipped],
        seconds=progress.seconds,
        read_seconds=progress.read,
        compute_seconds=progress.compute,
        write_seconds=progress.write,
        batch_size=computer.batch_size,
        workers=shares,
    )


class _Counts:
    """Who made the images of one run's part; each image counts once."""

    def __init__(
        self,
        writer: StoreWriter,
        part: Part,
        tasks: Sequence[ShardTask],
        progress: Progress,
        quarantined: Collection[str],
    ) -> None:
        to_do = {row for task in tasks for row in task.rows}
        rows = to_do.union(writer.requested_rows(part.owns))
        bad = {row for row in rows if writer.images[row].id in quarantined}
        self.quarantined = len(bad)
        self.computed = len(progress.committed - bad)
        self.by_others = len(progress.elsewhere - progress.committed - bad)
        self.already_there = len(rows - to_do - bad)


def _quarantined(
    store: FeatureStore, collection: ImageCollection, dataset: Dataset
) -> dict[str, str]:
    """Image id to reason, and whether that has passed: the store keeps the image out either way."""
    reasons = dict(store.quarantined)
    if not reasons:
        return reasons
    found = {image.id: image.sha256 for image in collection.images}
    for image in store.images:
        if image.id not in reasons or image.id not in found:
            continue
        if found[image.id] != image.sha256:
            reasons[image.id] += "; its file has changed since: a new store takes it"
        elif dataset.picture(image.id) is not None:
            reasons[image.id] += "; this version reads it: a new store takes it"
    return reasons


def default_store(config: Config, recipe: Recipe) -> Path:
    """Where a store goes if no place is given: it is named after its images and its recipe.

    A store that an earlier version made of this recipe, under another fingerprint, goes on.
    """
    places = [
        Path("stores") / f"{config.dataset.name}-{spelled.fingerprint[:12]}"
        for spelled in recipe.spellings()
    ]
    return next((place for place in places if place.exists()), places[0])
