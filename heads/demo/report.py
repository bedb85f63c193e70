"""The report of a demonstration: its figures and pictures as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from cache.units import human_bytes, human_seconds
from heads.demo.figures import plan_section, savings_section, store_section, time_section
from heads.demo.records import Demonstration, Stage1
from heads.demo.results import (
    injection_section,
    overview_section,
    own_pictures_section,
    task_sections,
    training_section,
)
from heads.demo.words import duration, expected, outcome
from heads.demo.world import features_section, world_section
from heads.report.markup import Html, join, tag
from heads.report.page import Section, commands, facts, render_page, table, tiles
from heads.training.checkpoint import write_text


def write_report(path: Path, demonstration: Demonstration) -> None:
    """Write the page; its folder is made if need be. Raises OSError."""
    stage1 = demonstration.stage1
    sections = [
        world_section(stage1),
        features_section(stage1),
        overview_section(demonstration),
        *task_sections(demonstration),
        injection_section(demonstration),
        *([] if demonstration.own is None else [own_pictures_section(demonstration.own)]),
        savings_section(demonstration),
        training_section(demonstration),
        _steps(demonstration),
        plan_section(stage1),
        time_section(stage1),
        store_section(stage1),
        _your_pictures(stage1),
        _machine(demonstration),
    ]
    page = render_page(
        "SketchFusion: the demonstration",
        _header(demonstration),
        sections,
        Html("Made by <code>sketchfusion demo</code>. Everything on this page is in this file."),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _header(demonstration: Demonstration) -> Html:
    stage1 = demonstration.stage1
    store = stage1.store
    lead = (
        f"{store.n_images:,} sketches and photos of the {stage1.dataset} world went once through "
        f"the frozen networks of the {stage1.backbone} backbone, Stable Diffusion's VAE and UNet "
        "and CLIP's image tower in small. Five heads were then trained on the one store that came "
        "of it, and an injection of CLIP into the UNet, live."
    )
    scores = {head.task: head for head in demonstration.heads}

    def score(task: str) -> str:
        head = scores[task]
        return f"{100 * head.examined.evaluation.metrics[head.main_metric]:.1f}"

    trained = sum(head.seconds for head in demonstration.heads)
    figures = [
        (score("correspondence"), "of 100 points found within a tenth of the picture's size"),
        (score("retrieval"), "mean average precision for categories never trained on"),
        (score("recognition"), "of 100 sketches recognised"),
        (score("segmentation"), "IoU of masks found by a sketch, in hundredths"),
        (human_seconds(trained), "to train five heads from the store"),
        (f"{stage1.reading.ratio:,.0f} x", "faster from the store than through the networks"),
    ]
    return join(
        tag("p", "SketchFusion · the demonstration", class_="overline"),
        tag("h1", "Sketches understood by features computed once"),
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


def _steps(demonstration: Demonstration) -> Section:
    stage1, effect = demonstration.stage1, demonstration.injection
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
        *(
            (
                f"Train: {head.task.replace('_', '-')}",
                f"{head.epochs} epochs from the store",
                duration(head.seconds),
            )
            for head in demonstration.heads
        ),
        (
            "Train the injection",
            f"{effect.live_epochs} epochs live, a new store with it, and "
            f"{effect.injected.epochs} epochs from there",
            duration(effect.cycle_seconds),
        ),
        (
            "Everything",
            "with evaluation, baselines, floors and this report",
            duration(demonstration.seconds),
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


def _your_pictures(stage1: Stage1) -> Section:
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


def _machine(demonstration: Demonstration) -> Section:
    body = join(
        tag("p", "Times and rates on this page hold for this machine on this day."),
        facts([("date", demonstration.made), *demonstration.machine.items()]),
    )
    return Section("Machine and versions", body)
