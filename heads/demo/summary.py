"""A demonstration's results as rows, the same in the terminal and in the report."""

from __future__ import annotations

from pathlib import Path

from cache.units import human_bytes, human_seconds
from heads.demo.records import Demonstration, TrainedHead
from heads.demo.words import duration, outcome, times
from heads.evaluation.evaluate import UNTRAINED
from heads.evaluation.table import aligned, percent, with_error

COLUMNS = {
    UNTRAINED: "untrained",
    "SD, statistics": "on SD alone",
    "CLIP, statistics": "on CLIP alone",
    "B-SD+CLIP": "B-SD+CLIP",
    "B-CLIP": "B-CLIP",
    "B-SD": "B-SD",
}
"""What stands beside the trained head, by its name in an evaluation: the same head before its
training and on each part alone, and the store's features as they are."""
HEADINGS = ("", "trained head", *COLUMNS.values(), "no network", "chance")


def score_rows(demonstration: Demonstration) -> list[list[str]]:
    """A row for each task: its main metric in hundredths under each of `HEADINGS`, the trained
    head's with its standard error."""
    return [_score_row(head) for head in demonstration.heads]


def _score_row(head: TrainedHead) -> list[str]:
    evaluation, metric = head.examined.evaluation, head.main_metric
    floors = [evaluation.baselines[name][metric] for name in evaluation.floors]
    return [
        f"{head.task.replace('_', '-')}, {metric}",
        with_error(evaluation.metrics[metric], evaluation.errors.get(metric)),
        *(percent(evaluation.baselines.get(name, {}).get(metric)) for name in COLUMNS),
        percent(max(floors, default=None)),
        percent(evaluation.chance.get(metric)),
    ]


def injection_rows(demonstration: Demonstration) -> list[list[str]]:
    """The injected task's metrics in hundredths, without an injection and with the trained one."""
    effect = demonstration.injection
    return [
        [name, *(percent(value) for value in head.examined.evaluation.metrics.values())]
        for name, head in (
            ("SD's layers, no injection", effect.without),
            ("SD's layers, trained injection", effect.injected),
        )
    ]


def live_instead(demonstration: Demonstration, head: TrainedHead) -> float:
    """Seconds that the networks alone would have taken for the features a training read."""
    return head.n_reads * demonstration.stage1.reading.live_seconds


def text_summary(demonstration: Demonstration, report: Path) -> str:
    """The results and figures for a terminal."""
    stage1, effect = demonstration.stage1, demonstration.injection
    first, reading = stage1.runs[0], stage1.reading
    trained = sum(head.seconds for head in demonstration.heads)
    instead = sum(live_instead(demonstration, head) for head in demonstration.heads)
    speed = f", {first.images_per_second:.1f} images/s" if first.n_computed else ""
    facts = [
        ("stage 1", f"{outcome(first)}, {duration(first.wall)}{speed}"),
        ("five heads", f"trained in {human_seconds(trained)} from the cache; computing what they "
                       f"read would have taken {human_seconds(instead)} more"),
        ("reading", f"{duration(reading.cached_seconds)} an image from the store, "
                    f"{duration(reading.live_seconds)} live: {times(reading.ratio)} faster"),
        ("injection", f"{effect.live_epochs} epochs live in {human_seconds(effect.live_seconds)}, "
                      f"at {len(effect.sites)} sites"),
        ("store", f"{stage1.store_name}, {human_bytes(stage1.store.bytes_on_disk)}"),
        ("report", report.as_posix()),
    ]  # fmt: skip
    metrics = list(effect.without.examined.evaluation.metrics)
    title = (
        f"{stage1.store.n_images:,} images of the {stage1.dataset} world, {stage1.backbone} "
        f"backbone, {human_seconds(demonstration.seconds)} in all"
    )
    if stage1.random_weights:
        title += " (random weights: real sizes and times, features without meaning)"
    blocks = [
        [title],
        aligned([list(HEADINGS), *score_rows(demonstration)]),
        aligned([[effect.without.task, *metrics], *injection_rows(demonstration)]),
        [f"{name:<12} {text}" for name, text in facts],
    ]
    return "\n\n".join("\n".join(block) for block in blocks)
