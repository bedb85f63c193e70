"""Stage 1 as one function: from a configuration to a store, resumable at any point.

    report = precompute(load_config("demo"), Path("stores/demo"))

Images are read and decoded in worker processes, computed in batches, and written by a thread;
each shard is committed when all its rows are there, and what is committed is never done again.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import FeatureStore, ShardTask, StoreWriter
from configs import Config
from pipeline.arrays import array_specs, feature_geometry, make_recipe
from pipeline.backbone import Backbone, load_backbone
from pipeline.collection import Collection, scan
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset
from pipeline.extract import Extractor, auto_batch_size
from pipeline.injection import load_injection
from pipeline.latents import LatentBatch, latents_suffice, load_latents
from pipeline.loader import RowBatch, SquareBatch, auto_workers, load_squares
from pipeline.sink import FeatureBatch, ShardSink


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


@dataclass
class Progress:
    """What a run has done so far; times in seconds.

    `read` is time spent waiting for decoded images, `compute` in the networks, `write` waiting
    for the disk: together they say what the machine waits for.
    """

    n_images: int
    n_shards: int
    done: int = 0
    unreadable: int = 0
    shards: int = 0
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def images_per_second(self) -> float:
        """Rate since the start."""
        return self.done / max(time.perf_counter() - self.started, 1e-9)

    def shares(self) -> str:
        """Where the time went, as `read 4% compute 93% write 3%`."""
        total = max(self.read + self.compute + self.write, 1e-9)
        parts = (("read", self.read), ("compute", self.compute), ("write", self.write))
        return " ".join(f"{name} {100 * value / total:.0f}%" for name, value in parts)


@dataclass(frozen=True)
class PrecomputeReport:
    """The result of one run. Seconds cover the extraction, not the loading of weights."""

    store: Path
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


Listener = Callable[[Progress], None]
"""Called after every batch."""


def precompute(
    config: Config,
    out: Path | None = None,
    part: Part = WHOLE,
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> PrecomputeReport:
    """Compute every missing shard of the store that `config` describes.

    Args:
        out: the store's folder; None names it after the dataset and the recipe.
        part: which shards are this process's, for job arrays.
        listener: told about progress.
        log: told about each step in one line.

    Raises:
        BackboneError, DatasetError, InjectionError, StoreError, ExtractionError: each with one
        line saying what is wrong and what to do. Committed shards are kept.
    """
    dataset = open_configured(config)
    extraction = config.extraction
    log(f"loading backbone {config.backbone.name or config.backbone.sd.source}")
    backbone = load_backbone(config.backbone, extraction.device, extraction.precision)
    backbone.check_timesteps(extraction.timesteps)
    injection = None
    if extraction.injection is not None:
        injection = load_injection(extraction.injection, backbone.clip.width, backbone.channels)
    collection = scan(dataset)
    log(f"{len(collection.images)} images, {len(collection.skipped)} other files left out")

    geometry = feature_geometry(
        backbone.unet,
        backbone.vae,
        config.backbone.resolution,
        backbone.clip.tokens,
        backbone.clip.embedding,
    )
    recipe = make_recipe(
        backbone.digests,
        config.backbone.resolution,
        extraction,
        injection.digest() if injection else None,
    )
    out = out or default_store(config, recipe.fingerprint)
    batch_size = extraction.batch_size
    if batch_size == "auto":
        batch_size = auto_batch_size(backbone.device, config.backbone.resolution)
    writer = StoreWriter.open(
        out,
        recipe,
        collection.images,
        array_specs(geometry, extraction),
        shard_size=extraction.shard_size,
        provenance=_provenance(config, backbone, batch_size),
    )
    tasks = [task for task in writer.pending() if part.owns(task.shard)]
    log(f"store {out} ({recipe.fingerprint[:12]}): {len(tasks)} pieces of work to do")
    extractor = Extractor(backbone, extraction, injection, batch_size)
    workers = extraction.workers
    if workers == "auto":
        workers = auto_workers(backbone.device)
    progress = _run(config, dataset, writer, tasks, extractor, workers, listener)
    return _report(out, recipe.fingerprint, writer, collection, progress, extractor.batch_size)


def open_configured(config: Config) -> Dataset:
    """The dataset a configuration names. Raises DatasetError."""
    dataset = config.dataset
    return open_dataset(dataset.name, dataset.root, dataset.limit, **dataset.options())


def default_store(config: Config, fingerprint: str) -> Path:
    """Where a store goes when no place is given: named after its images and its recipe."""
    return Path("stores") / f"{config.dataset.name}-{fingerprint[:12]}"


def _run(
    config: Config,
    dataset: Dataset,
    writer: StoreWriter,
    tasks: Sequence[ShardTask],
    extractor: Extractor,
    workers: int,
    listener: Listener | None,
) -> Progress:
    """The pipeline itself: read, compute, write, each at its own pace."""
    progress = Progress(sum(len(task.rows) for task in tasks), len(tasks))
    if not tasks:
        return progress
    images = writer.images
    inputs = _inputs(config, dataset, writer, tasks, extractor, workers)
    with ShardSink(writer, tasks) as sink:
        last = time.perf_counter()
        for batch in inputs:
            read = time.perf_counter()
            features: dict[str, np.ndarray] = {}
            if batch.rows:
                sha256s = [images[row].sha256 for row in batch.rows]
                arrays = tasks[batch.key].arrays
                if isinstance(batch, LatentBatch):
                    features = extractor.from_latents(batch.latents, sha256s, arrays)
                else:
                    features = extractor(batch.squares, sha256s, arrays)
            computed = time.perf_counter()
            timings = {"read": batch.seconds, "compute": computed - read}
            sink.put(FeatureBatch(batch.key, batch.rows, features, batch.unreadable, timings))
            written = time.perf_counter()
            progress.read += read - last
            progress.compute += computed - read
            progress.write += written - computed
            progress.done += len(batch.rows) + len(batch.unreadable)
            progress.unreadable += len(batch.unreadable)
            progress.shards = sink.committed
            if listener is not None:
                listener(progress)
            last = time.perf_counter()
    progress.write += time.perf_counter() - last
    progress.shards = sink.committed
    return progress


def _inputs(
    config: Config,
    dataset: Dataset,
    writer: StoreWriter,
    tasks: Sequence[ShardTask],
    extractor: Extractor,
    workers: int,
) -> Iterator[SquareBatch | LatentBatch]:
    """Decoded pictures, or stored latents where these are enough."""
    batches = list(_batches(tasks, extractor.batch_size))
    store = FeatureStore.open(writer.path)
    if latents_suffice(store, tasks, injected=extractor.injection is not None):
        return load_latents(store, batches)
    return load_squares(
        dataset,
        writer.images,
        batches,
        config.backbone.resolution,
        config.extraction.pad,
        min(workers, len(batches)),
    )


def _batches(tasks: Sequence[ShardTask], batch_size: int) -> Iterator[RowBatch]:
    """Rows of each task in batches: a batch never crosses shards, so its numbers are repeatable."""
    for key, task in enumerate(tasks):
        rows = list(task.rows)
        for start in range(0, len(rows), batch_size):
            yield RowBatch(key, rows[start : start + batch_size])


def _provenance(config: Config, backbone: Backbone, batch_size: int) -> dict[str, Any]:
    """What made the store but changes no number; it is recorded beside the recipe."""
    import diffusers
    import open_clip

    return {
        "backbone": config.backbone.model_dump(mode="json"),
        "dataset": config.dataset.name,
        "device": str(backbone.device),
        "batch_size": batch_size,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "open_clip": open_clip.__version__,
    }


def _report(
    out: Path,
    fingerprint: str,
    writer: StoreWriter,
    collection: Collection,
    progress: Progress,
    batch_size: int,
) -> PrecomputeReport:
    return PrecomputeReport(
        store=out,
        fingerprint=fingerprint,
        n_images=len(writer.images),
        n_computed=progress.done,
        n_shards_committed=progress.shards,
        n_shards_pending=len(writer.pending()),
        quarantined=FeatureStore.open(out).quarantined,
        skipped=[(item.path, item.reason) for item in collection.skipped],
        seconds=time.perf_counter() - progress.started,
        read_seconds=progress.read,
        compute_seconds=progress.compute,
        write_seconds=progress.write,
        batch_size=batch_size,
    )
