"""The report's results: what the heads find, what the injection changes, the user's pictures."""

from __future__ import annotations

from cache.units import human_seconds
from heads.demo.records import Demonstration, OwnPictures, TrainedHead
from heads.demo.summary import HEADINGS, injection_rows, score_rows
from heads.plots import curves_figure, maps_figure, retrieval_figure
from heads.report.examples import confusion_section, example_figures
from heads.report.markup import Html, join, tag
from heads.report.page import Section, facts, table
from heads.report.plots import drawing, photograph
from heads.report.results import METRICS, TITLES, results_table


def overview_section(demonstration: Demonstration) -> Section:
    """One line for each task, beside what nothing was trained for."""
    rows = score_rows(demonstration)
    body = join(
        tag(
            "p",
            "Every head read the same store. Its main metric on the test part in hundredths, "
            "beside the same head before its training and on each part alone, the store's features "
            "as they are, the best floor that needs no network, and guessing. Both retrieval tasks "
            "and segmentation are tested on categories that were in no training. The pictures "
            "below are spread over the categories by a fixed rule and then taken at equal "
            "distances from the best to the worst: neither the "
            "finest nor the poorest alone.",
        ),
        table(HEADINGS, [_with_bold_head(row) for row in rows], numbers=range(1, len(HEADINGS))),
        tag(
            "p",
            "What SD's layers know of a picture as a whole is in how their channels vary over the "
            "cells, which the mean of B-SD deletes. The built-in UNet learned to match keypoints, "
            "so B-SD is strong in correspondence.",
            class_="soft",
        ),
        tag(
            "p",
            "± is a standard error, from resampling the tested categories. What a head is ahead "
            "of each row by, and whether that can be told from chance, is in its own table below.",
            class_="soft",
        ),
    )
    return Section("Five heads, one store", body)


def task_sections(demonstration: Demonstration) -> list[Section]:
    """For each task its table and pictures of right and wrong results."""
    return [_task_section(head) for head in demonstration.heads]


def _task_section(head: TrainedHead) -> Section:
    examined = head.examined
    parts = [
        tag("p", METRICS[head.task]),
        results_table(examined.evaluation),
        example_figures(examined.findings),
    ]
    if examined.findings.confusion is not None:
        parts.append(confusion_section(examined.findings.confusion).body)
    return Section(TITLES[head.task].capitalize(), join(*parts))


def injection_section(demonstration: Demonstration) -> Section:
    """What a trained injection changes where a head reads SD's layers alone."""
    effect = demonstration.injection
    task = effect.without.task
    metrics = list(effect.without.examined.evaluation.metrics)
    body = join(
        tag(
            "p",
            "The paper's own idea: CLIP's token map goes through a learned 1x1 convolution into "
            f"the UNet after each of {len(effect.sites)} blocks. Its parameters stand in front of "
            "the features, so nothing can be read from a store while they learn: the UNet ran live "
            f"for {effect.live_epochs} epochs ({effect.n_live:,} images in "
            f"{human_seconds(effect.live_seconds)}), from stored latents and CLIP tokens. Then the "
            "features were computed anew with the injection, and the head went on from their "
            "store.",
        ),
        table(
            (TITLES[task], *metrics),
            [_with_bold_head(row) for row in injection_rows(demonstration)],
            numbers=range(1, len(metrics) + 1),
        ),
        tag(
            "p",
            "Both heads saw SD's layers alone and had as many epochs in all, "
            f"{effect.without.epochs}. What CLIP knows reaches SD's layers only by the injection.",
            class_="soft",
        ),
        example_figures(effect.injected.examined.findings),
    )
    return Section("The injection, trained", body)


def training_section(demonstration: Demonstration) -> Section:
    """The learning curves of all heads."""
    curves = {
        head.task.replace("_", "-"): head.examined.run.curve() for head in demonstration.heads
    }
    figure = curves_figure(curves)
    return Section(
        "Learning curves",
        drawing(
            figure,
            "learning curves",
            "Loss of single steps, which differs in kind from task to task, and the result on the "
            "validation part by which the best weights are chosen.",
        ),
    )


def own_pictures_section(own: OwnPictures) -> Section:
    """The user's pictures: their feature maps, and which are alike."""
    parts: list[Html] = [
        tag(
            "p",
            f"{own.n_pictures:,} pictures of ",
            tag("code", own.folder),
            f" went through the same networks in {human_seconds(own.seconds)}. The built-in "
            "backbone has seen nothing but the procedural world: with the published weights the "
            "same commands see far more.",
        ),
        photograph(
            maps_figure([own.mapped]),
            "your pictures with their feature maps",
            "Feature maps of some of the pictures, in colours that all of them share.",
        ),
    ]
    if own.rankings:
        parts.append(
            photograph(
                retrieval_figure(own.rankings),
                "your pictures with the most similar ones",
                "What the trained retrieval head finds most like some of the pictures, with the "
                "cosine of their descriptors.",
            )
        )
    if own.quarantined:
        parts.append(tag("h3", "Could not be read"))
        parts.append(facts(sorted(own.quarantined.items())))
    return Section("Your pictures", join(*parts))


def _with_bold_head(row: list[str]) -> list[object]:
    """A table's row with the trained head's number standing out."""
    name, first, *others = row
    return [name, tag("strong", first), *others]
