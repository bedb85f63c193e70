"""The report of a demonstration: its figures and pictures as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from cache.units import human_bytes
from heads.report.figures import plan_section, savings_section, store_section, time_section
from heads.report.markup import Html, join, tag
from heads.report.page import Section, commands, facts, render_page, table, tiles
from heads.report.records import Stage1
from heads.report.words import duration, expected, outcome
from heads.report.world import features_section, world_section


def write_report(path: Path, stage1: Stage1) -> None:
    """Write the page; its folder is made if need be. Raises OSError."""
    sections = [
        _steps(stage1),
        world_section(stage1),
        features_section(stage1),
        plan_section(stage1),
        time_section(stage1),
        savings_section(stage1),
        store_section(stage1),
        _own_pictures(stage1),
        _machine(stage1),
    ]
    page = render_page(
        "SketchFusion: stage 1, features computed once",
        _header(stage1),
        sections,
        Html("Made by <code>sketchfusion demo</code>. Everything on this page is in this file."),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _header(stage1: Stage1) -> Html:
    first, again = stage1.runs[:2]
    store = stage1.store
    n_arrays = len(store.arrays)
    lead = (
        f"{store.n_images:,} images of the {stage1.dataset} world went once through the frozen "
        f"networks of the {stage1.backbone} backbone: VAE and UNet of Stable Diffusion's kind, "
        f"and CLIP's image tower. What they computed is in a store of {n_arrays} arrays that any "
        "Zarr reader opens, and that whatever comes after reads instead of computing it again."
    )
    speed, where = first.images_per_second, "in the first run, from picture to disk"
    if not first.n_computed:
        speed, where = 1 / stage1.reading.live_seconds, "through the networks"
    figures = [
        (f"{store.n_images:,}", "images in the store"),
        (f"{speed:.1f}/s", f"images per second {where}"),
        (human_bytes(store.bytes_on_disk / max(store.n_images, 1)), "on disk per image"),
        (duration(again.wall), f"same command again: {again.n_computed:,} images computed"),
        (f"{stage1.reading.ratio:,.0f} x", "faster from the store than through the networks"),
        ("sound", "every checksum compared"),
    ]
    return join(
        tag("p", "SketchFusion · stage 1", class_="overline"),
        tag("h1", "Features computed once"),
        tag("p", lead, class_="lead"),
        _weights_note(stage1) if stage1.random_weights else "",
        tiles(figures),
    )


def _weights_note(stage1: Stage1) -> Html:
    return tag(
        "p",
        tag("strong", "These networks have not learned anything. "),
        f"The {stage1.backbone} backbone has the layout of Stable Diffusion 2 and CLIP, but its "
        "weights are random numbers from a fixed seed. Steps, shapes, sizes, times and checks on "
        "this page are real; the features carry no meaning yet, and nothing here says how well "
        "any task is solved.",
        class_="note",
    )


def _steps(stage1: Stage1) -> Section:
    first, again, grown = stage1.runs
    planned, reading, check = stage1.planned, stage1.reading, stage1.zarr
    rows = [
        ("Plan", expected(planned), ""),
        ("Precompute", outcome(first), duration(first.wall)),
        ("The same command again", outcome(again), duration(again.wall)),
        (
            "One timestep more",
            f"{outcome(grown)}; {stage1.n_untouched_files:,} of "
            f"{stage1.n_earlier_files:,} earlier files untouched",
            duration(grown.wall),
        ),
        (
            "Verify",
            f"sound: {stage1.verified.n_shards:,} shards, "
            f"{human_bytes(stage1.verified.bytes_checked)} compared with their checksums",
            duration(stage1.verify_seconds),
        ),
        (
            "Read back",
            f"{reading.n_batches} random batches of {reading.batch_size}: "
            f"{duration(reading.cached_seconds)} an image, "
            f"{duration(reading.live_seconds)} if computed live",
            "",
        ),
        (
            "Open with plain zarr-python",
            f"{check.n_equal} of {check.n_rows} rows from {check.n_arrays} arrays equal what the "
            "store's own reader gives",
            "",
        ),
    ]
    body = join(
        tag(
            "p",
            "In this order, by one command. Times are from start to end of a step, loading the "
            "networks and listing the images included.",
        ),
        _went_on(stage1) if not first.n_computed else "",
        table(("step", "outcome", "time"), rows, numbers=(2,)),
    )
    return Section("What was done", body)


def _went_on(stage1: Stage1) -> Html:
    return tag(
        "p",
        "The store was there already, from an earlier demonstration, so nothing was computed. "
        "Remove ",
        tag("code", stage1.store_name),
        " and run the demonstration again to see these steps at work.",
        class_="note",
    )


def _own_pictures(stage1: Stage1) -> Section:
    body = join(
        tag(
            "p",
            "A folder of pictures, with or without a sub-folder for each class. The same command "
            "goes on where it was stopped, and takes up pictures that were added.",
        ),
        commands(
            "sketchfusion plan demo --set dataset=folder --set dataset.root=PICTURES",
            "sketchfusion precompute demo --out stores/mine \\",
            "    --set dataset=folder --set dataset.root=PICTURES",
            "sketchfusion cache verify stores/mine",
        ),
        tag(
            "p",
            "With the published weights of Stable Diffusion 2.1 and CLIP (several gigabytes, and "
            "better on a GPU):",
        ),
        commands(
            "sketchfusion precompute demo --out stores/mine-sd21 \\",
            "    --set dataset=folder --set dataset.root=PICTURES \\",
            "    --set backbone=sd21-clip-l336 --set extraction.timesteps=195",
        ),
        tag("p", "In Python, and with nothing but zarr-python:"),
        commands(
            "from cache import FeatureStore",
            f"store = FeatureStore.open({stage1.store_name!r})",
            f'maps = store.read(store.ids[:8], ["sd/t{stage1.timestep}/s4", "clip/tokens"])',
            "",
            "import zarr",
            f'group = zarr.open_group({stage1.store_name!r}, mode="r")',
            f'first = group["sd/t{stage1.timestep}/s4"][0]',
        ),
    )
    return Section("Your own pictures", body)


def _machine(stage1: Stage1) -> Section:
    body = join(
        tag("p", "Times and rates on this page hold for this machine on this day."),
        facts([("date", stage1.made), *stage1.machine.items()]),
    )
    return Section("Machine and versions", body)
