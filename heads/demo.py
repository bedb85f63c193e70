"""The demonstration: stage 1 on a small procedural world, measured, checked and shown.

The one place besides the live source where `heads` calls `pipeline`: it runs both stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
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
from cache.units import human_bytes
from configs import Config, load_config
from heads.gallery import mapped_pair, one_pair_per_category, picture_pair, spread_out
from heads.machine import describe_machine
from heads.measure import Compute, Prepare, compare_with_zarr, data_files, measure_reading
from heads.report import write_report
from heads.report.records import Planned, Run, Stage1
from heads.report.words import duration, expected, outcome, times
from pipeline.arrays import CLIP_TOKENS, layer_array
from pipeline.backbone import load_backbone
from pipeline.compute import Listener
from pipeline.extract import Extractor, auto_batch_size
from pipeline.job import open_configured
from pipeline.loader import RowBatch, load_squares
from pipeline.plan import make_plan
from pipeline.precompute import precompute

ADDED_TIMESTEP = 400
"""The timestep by which the demonstration lets its store grow."""
N_EXAMPLES = 6
"""Pairs whose feature maps are shown."""

Log = Callable[[str], None]


def run_demo(out: Path, listener: Listener, log: Log, overrides: Sequence[str] = ()) -> str:
    """Run the demonstration into `out` and return its figures as text.

    `out/store` is the store, `out/report.html` the report. Run again, it goes on with what is
    there and says so.

    Args:
        listener: told about the progress of each precompute.
        log: told about each step in one line.
        overrides: `a.b=c` settings on top of the `demo` preset.

    Raises:
        ConfigError, DatasetError, StoreError, OSError: with one line that says what to do.
    """
    demo = _Demo(load_config("demo", overrides), out / "store", listener, log)
    log("1/5 plan")
    planned = demo.plan()
    log(f"    {expected(planned)}")
    log("2/5 precompute, then the same command again")
    first = demo.run("First run")
    again = demo.run("The same command again")
    log(f"3/5 one timestep more: {ADDED_TIMESTEP}")
    before = data_files(demo.store_path)
    grown = demo.run("One timestep more", added_timestep=ADDED_TIMESTEP)
    after = data_files(demo.store_path)
    log("4/5 verify")
    verified, verify_seconds = demo.verify()
    log("5/5 read back and report")
    dataset = open_configured(demo.config)
    store = FeatureStore.open(demo.store_path)
    timestep, shown = demo.shown_arrays()
    pairs = one_pair_per_category(dataset.annotations.pairs, store.readable(shown))
    stage1 = Stage1(
        dataset=demo.config.dataset.name,
        backbone=demo.config.backbone.label,
        random_weights=demo.config.backbone.weights == "random",
        store_name=demo.store_path.as_posix(),
        planned=planned,
        runs=(first, again, grown),
        n_untouched_files=sum(after.get(name) == state for name, state in before.items()),
        n_earlier_files=len(before),
        store=describe_store(demo.store_path),
        verified=verified,
        verify_seconds=verify_seconds,
        reading=measure_reading(store, shown, _live(demo.config, store, shown)),
        zarr=compare_with_zarr(demo.store_path),
        timestep=timestep,
        sheet=tuple(picture_pair(dataset, pair) for pair in pairs),
        examples=tuple(
            mapped_pair(dataset, pair, store, shown) for pair in spread_out(pairs, N_EXAMPLES)
        ),
        machine=describe_machine(),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    report_path = out / "report.html"
    write_report(report_path, stage1)
    return _summary(stage1, report_path)


@dataclass(frozen=True)
class _Demo:
    """The steps on the store; each returns what it found."""

    config: Config
    store_path: Path
    listener: Listener
    log: Log

    def plan(self) -> Planned:
        plan = make_plan(self.config, self.store_path)
        if not plan.fits:
            raise StoreError(
                f"{plan.place} has {human_bytes(plan.bytes_free)} free but the demo needs "
                f"{human_bytes(plan.bytes_needed)}; choose another disk with --out"
            )
        return Planned(
            n_to_do=plan.n_to_do,
            bytes_needed=plan.bytes_needed,
            seconds=plan.seconds,
            flops={"VAE": plan.cost.vae, "CLIP": plan.cost.clip, "UNet": plan.cost.unet},
            unet_passes=plan.cost.passes,
            device=plan.device,
        )

    def run(self, title: str, added_timestep: int | None = None) -> Run:
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
        run = Run(
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
        self.log(f"    {outcome(run)}, {duration(wall)}")
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

    def shown_arrays(self) -> tuple[int, list[str]]:
        """The last timestep of the first run, and its maps from coarse to fine, then CLIP's."""
        extraction = self.config.extraction
        timestep = extraction.timesteps[-1]
        layers = [layer_array(timestep, layer) for layer in reversed(extraction.layers)]
        return timestep, [*layers, CLIP_TOKENS]

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


def _summary(stage1: Stage1, report_path: Path) -> str:
    """The figures as a short table for a terminal."""
    first, again, grown = stage1.runs
    speed = f", {first.images_per_second:.1f} images/s" if first.n_computed else ""
    reading, check = stage1.reading, stage1.zarr
    lines = [
        ("planned", expected(stage1.planned)),
        ("first run", f"{outcome(first)}, {duration(first.wall)}{speed}"),
        ("same again", f"{outcome(again)}, {duration(again.wall)}"),
        (f"t = {ADDED_TIMESTEP}", f"{outcome(grown)}, {duration(grown.wall)}"),
        ("", f"{stage1.n_untouched_files} of {stage1.n_earlier_files} earlier files untouched"),
        ("verified", f"sound, {human_bytes(stage1.verified.bytes_checked)} of records checked"),
        ("reading", f"{duration(reading.cached_seconds)} an image from the store, "
                    f"{duration(reading.live_seconds)} live: {times(reading.ratio)} faster"),
        ("zarr-python", f"{check.n_equal} of {check.n_rows} rows equal"),
        ("store", f"{stage1.store_name}, {human_bytes(stage1.store.bytes_on_disk)}"),
        ("report", report_path.as_posix()),
    ]  # fmt: skip
    title = f"Stage 1 on {stage1.store.n_images:,} images, {stage1.backbone} backbone"
    if stage1.random_weights:
        title += " (random weights: real sizes and times, features without meaning)"
    return "\n".join([title, *(f"  {name:<12} {text}" for name, text in lines)])
