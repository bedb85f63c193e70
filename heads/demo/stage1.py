"""The demonstration's first stage: plan, precompute, again, grow, verify, read back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import (
    FeatureStore,
    NotAStore,
    StoreDescription,
    StoreError,
    VerifyReport,
    describe_store,
    verify_store,
)
from configs import Config
from heads.demo.gallery import mapped_pair, one_pair_per_category, picture_pair
from heads.demo.measure import Compute, Prepare, compare_with_zarr, data_files, measure_reading
from heads.demo.records import Planned, Precomputed, Stage1
from heads.demo.words import duration, expected, outcome
from heads.explain.choosing import evenly
from heads.training.experiment import Log
from pipeline.compute import Listener
from pipeline.extraction.arrays import CLIP_TOKENS, layer_array
from pipeline.extraction.extract import Extractor, auto_batch_size
from pipeline.inputs.loader import RowBatch, load_squares
from pipeline.job import open_configured
from pipeline.networks.backbone import load_backbone
from pipeline.plan import make_plan
from pipeline.precompute import precompute

ADDED_TIMESTEP = 400
"""The timestep by which the demonstration lets its store grow."""
N_EXAMPLES = 6
"""Pairs whose feature maps are shown."""


def run_stage1(config: Config, store_path: Path, listener: Listener, log: Log) -> Stage1:
    """Precompute the configured images into a store, and find out what that gave.

    Args:
        listener: told about the progress of each precompute.
        log: told about each step in one line.

    Raises:
        DatasetError, StoreError, OSError: with one line that says what to do.
    """
    steps = _Steps(config, store_path, listener, log)
    planned = steps.plan()
    log(f"    plan: {expected(planned)}")
    first = steps.run("First run")
    again = steps.run("The same command again")
    before = data_files(store_path)
    grown = steps.run("One timestep more", added_timestep=ADDED_TIMESTEP)
    after = data_files(store_path)
    verified, verify_seconds = steps.verify()
    log(f"    verified: every checksum compared, {duration(verify_seconds)}")
    dataset = open_configured(config)
    store = FeatureStore.open(store_path)
    shown = shown_arrays(config)
    pairs = one_pair_per_category(dataset.annotations.pairs, store.readable(shown))
    return Stage1(
        dataset=config.dataset.name,
        backbone=config.backbone.label,
        random_weights=config.backbone.weights == "random",
        store_name=store_path.as_posix(),
        planned=planned,
        runs=(first, again, grown),
        n_untouched_files=sum(after.get(name) == state for name, state in before.items()),
        n_earlier_files=len(before),
        store=describe_store(store_path),
        verified=verified,
        verify_seconds=verify_seconds,
        reading=measure_reading(store, shown, _live(config, store, shown)),
        zarr=compare_with_zarr(store_path),
        timestep=config.extraction.timesteps[-1],
        sheet=tuple(picture_pair(dataset, pair) for pair in pairs),
        examples=tuple(
            mapped_pair(dataset, pair, store, shown) for pair in evenly(pairs, N_EXAMPLES)
        ),
    )


def shown_arrays(config: Config) -> list[str]:
    """The maps of the configuration's last timestep from coarse to fine, then CLIP's."""
    extraction = config.extraction
    layers = [layer_array(extraction.timesteps[-1], name) for name in reversed(extraction.layers)]
    return [*layers, CLIP_TOKENS]


@dataclass(frozen=True)
class _Steps:
    """The steps on the store; each returns what it found."""

    config: Config
    store_path: Path
    listener: Listener
    log: Log

    def plan(self) -> Planned:
        plan = make_plan(self.config, self.store_path)
        if plan.shortage is not None:
            raise StoreError(f"{plan.shortage}; choose another disk with --out")
        return Planned(
            n_to_do=plan.n_to_do,
            bytes_needed=plan.bytes_needed,
            seconds=plan.seconds,
            flops={"VAE": plan.cost.vae, "CLIP": plan.cost.clip, "UNet": plan.cost.unet},
            unet_passes=plan.cost.passes,
            device=plan.device,
        )

    def run(self, title: str, added_timestep: int | None = None) -> Precomputed:
        """One precompute, timed from start to end, and what it added to the disk."""
        config = self.config
        if added_timestep is not None:
            extraction = config.extraction
            timesteps = tuple(sorted({*extraction.timesteps, added_timestep}))
            extraction = extraction.model_copy(update={"timesteps": timesteps})
            config = config.model_copy(update={"extraction": extraction})
        before = self._describe()
        start = time.perf_counter()
        report = precompute(config, self.store_path, listener=self.listener)
        wall = time.perf_counter() - start
        after = describe_store(self.store_path)
        run = Precomputed(
            title=title,
            n_computed=report.n_computed,
            arrays=tuple(
                name
                for name, array in after.arrays.items()
                if before is None
                or name not in before.arrays
                or array.n_images > before.arrays[name].n_images
            ),
            wall=wall,
            seconds=report.seconds,
            read=report.read_seconds,
            compute=report.compute_seconds,
            write=report.write_seconds,
            bytes_written=after.bytes_on_disk - (before.bytes_on_disk if before else 0),
        )
        self.log(f"    {title.lower()}: {outcome(run)}, {duration(wall)}")
        return run

    def verify(self) -> tuple[VerifyReport, float]:
        """Every checksum, and the seconds that took. Raises StoreError for a damaged store."""
        start = time.perf_counter()
        verified = verify_store(self.store_path)
        seconds = time.perf_counter() - start
        if not verified.sound:
            problem = verified.problems[0]
            raise StoreError(
                f"{self.store_path}: damaged ({problem.where}: {problem.what}); remove the folder "
                "and run the demo again"
            )
        return verified, seconds

    def _describe(self) -> StoreDescription | None:
        try:
            return describe_store(self.store_path)
        except NotAStore:
            return None


def _live(config: Config, store: FeatureStore, arrays: Sequence[str]) -> Prepare:
    """What computes arrays of images anew; reading and decoding are no part of the measurement."""
    extraction, resolution = config.extraction, config.backbone.resolution
    dataset = open_configured(config)
    backbone = load_backbone(config.backbone, extraction.device, extraction.precision)
    batch_size = auto_batch_size(backbone.device, resolution)
    extractor = Extractor(backbone, extraction, None, batch_size)
    records = {record.id: record for record in store.images}

    def prepare(ids: Sequence[str]) -> Compute:
        images = [records[image_id] for image_id in ids]
        rows = [RowBatch(0, range(len(images)))]
        (batch,) = load_squares(dataset, images, rows, resolution, extraction.pad, workers=0)
        return lambda: extractor(batch.squares, [image.sha256 for image in images], arrays)

    return prepare
