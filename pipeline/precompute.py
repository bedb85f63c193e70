"""Stage 1 as one function: from a configuration to a store, resumable at any point.

    report = precompute(load_config("demo"), Path("stores/demo"))

Pictures are read and decoded ahead, computed in batches, and written behind; each shard is
committed when all its rows are there, and what is committed is never done again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cache import FeatureStore, Recipe, StorePath, StoreWriter
from cache.units import human_seconds, printable
from configs import Config
from pipeline.compute import Listener, compute_tasks
from pipeline.datasets.base import Dataset
from pipeline.inputs.collection import Collection, scan
from pipeline.inputs.loader import auto_workers
from pipeline.job import load_job
from pipeline.workers.watch import WorkerShare, share_table

if TYPE_CHECKING:
    from pipeline.workers.cluster import Cluster


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
    n_computed: int
    n_shards_committed: int
    n_shards_pending: int
    quarantined: dict[str, str]
    skipped: list[tuple[str, str]]
    seconds: float
    read_seconds: float
    compute_seconds: float
    write_seconds: float
    batch_size: int
    workers: list[WorkerShare] = field(default_factory=list)
    """What each dask worker did; empty where the work was done in this process."""

    def as_text(self) -> str:
        """What was done and what was left out, for a terminal."""
        lines = [
            f"{self.store}: {self.n_computed:,} images computed in {human_seconds(self.seconds)} "
            f"(read {human_seconds(self.read_seconds)}, "
            f"compute {human_seconds(self.compute_seconds)}, "
            f"write {human_seconds(self.write_seconds)})",
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


def precompute(
    config: Config,
    out: StorePath | None = None,
    part: Part = WHOLE,
    cluster: Cluster | None = None,
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> PrecomputeReport:
    """Compute every missing shard of the store that `config` describes.

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
    log(f"loading backbone {config.backbone.label}")
    job = load_job(config if cluster is None else _on_cpu(config))
    log(f"hashing {len(job.dataset.ids):,} images")
    collection = scan(job.dataset)
    log(f"{len(collection.images):,} images, {len(collection.skipped):,} other files left out")
    for note in job.dataset.notes:
        log(printable(note))

    out = out or default_store(config, job.recipe)
    writer = StoreWriter.open(
        out,
        job.recipe,
        collection.images,
        job.specs,
        shard_size=config.extraction.shard_size,
        provenance=job.provenance(),
    )
    fingerprint = writer.recipe.fingerprint
    if fingerprint != job.recipe.fingerprint:
        log(f"{out} names the same networks by older digests; it goes on under its fingerprint")
    tasks = [task for task in writer.pending() if part.owns(task.shard)]
    log(f"store {out} ({fingerprint[:12]}): pieces of work to do: {len(tasks)}")
    shares: list[WorkerShare] = []
    if cluster is None:
        workers = config.extraction.workers
        if workers == "auto":
            workers = auto_workers(job.extractor.device)
        progress = compute_tasks(job, writer, tasks, workers, listener)
    else:
        # dask takes a second to import, for nothing where it is not used.
        from pipeline.workers.distributed import compute_on_cluster

        progress, shares = compute_on_cluster(cluster, config, out, tasks, listener, log)
    return PrecomputeReport(
        store=out,
        fingerprint=fingerprint,
        n_images=len(writer.images),
        n_computed=progress.done,
        n_shards_committed=progress.shards,
        n_shards_pending=len(writer.pending()),
        quarantined=_quarantined(FeatureStore.open(out), collection, job.dataset),
        skipped=[(item.path, item.reason) for item in collection.skipped],
        seconds=progress.seconds,
        read_seconds=progress.read,
        compute_seconds=progress.compute,
        write_seconds=progress.write,
        batch_size=job.extractor.batch_size,
        workers=shares,
    )


def _quarantined(store: FeatureStore, collection: Collection, dataset: Dataset) -> dict[str, str]:
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


def _on_cpu(config: Config) -> Config:
    """For the process that only hands out shards: it needs digests, not an accelerator."""
    extraction = config.extraction.model_copy(update={"device": "cpu"})
    return config.model_copy(update={"extraction": extraction})
