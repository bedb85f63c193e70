"""Examples of a run's test part, right and wrong ones, and what its head makes of the layers."""

from __future__ import annotations

import numpy as np

from heads.explain import Confusion, Findings
from heads.explain.choosing import CANDIDATES
from heads.explain.correspondence import PERCENT
from heads.plots import (
    confusion_figure,
    guesses_figure,
    masks_figure,
    matches_figure,
    mixing_figure,
    retrieval_figure,
)
from heads.report.markup import Html, join, tag
from heads.report.page import Section, table
from heads.report.plots import drawing, photograph

N_CONFUSED = 8
"""Confusions that are named."""


def examples_section(findings: Findings) -> Section:
    """Pictures of what was found, and how they were chosen; a sentence where there are none."""
    n = len(findings.matches or findings.rankings or findings.masks or findings.guesses)
    how = tag(
        "p",
        "Examples of the test part. They are spread over the categories by a fixed rule and "
        f"then taken at equal distances from the best to the worst of {CANDIDATES * n} "
        "candidates (or as many as there are): neither the finest nor the poorest alone.",
    )
    return Section("Examples", join(how if n else "", example_figures(findings)))


def example_figures(findings: Findings) -> Html:
    """The pictures alone; a sentence where there are none."""
    if findings.missing is not None:
        return tag("p", f"There are no pictures: {findings.missing}.", class_="note")
    shown: list[Html] = []
    if findings.matches:
        shown.append(
            photograph(
                matches_figure(findings.matches),
                "sketches and photos with the points found",
                f"Points of the sketch and where the run finds them in the photo. Right: within "
                f"{PERCENT} hundredths of the photo's size.",
            )
        )
    if findings.rankings:
        shown.append(
            photograph(
                retrieval_figure(findings.rankings),
                "queries with the photos ranked first",
                "A query sketch and the photos ranked first for it, with the cosine of their "
                "descriptors.",
            )
        )
    if findings.masks:
        shown.append(
            photograph(
                masks_figure(findings.masks),
                "sketches, photos and the masks found",
                "What of the photo the run takes for what the sketch shows, by the threshold that "
                "was fixed on training pairs. IoU: intersection over union with the truth.",
            )
        )
    if findings.guesses:
        shown.append(
            photograph(
                guesses_figure(findings.guesses),
                "sketches with their likeliest classes",
                "Sketches under their true class, with the likeliest classes and their "
                "probabilities.",
            )
        )
    return join(*shown)


def confusion_section(confusion: Confusion) -> Section:
    """What was taken for what."""
    drawn = confusion_figure(confusion.counts, confusion.classes)
    body = join(
        drawing(
            drawn,
            "confusion matrix",
            "Each row is a class; along it, what its sketches were taken for. Framed: right.",
        ),
        _most_confused(confusion),
    )
    return Section("What is taken for what", body)


def mixing_section(findings: Findings) -> Section:
    """The learned weights of the layers."""
    body = drawing(
        mixing_figure(findings.mixing),
        "mixing weights of the layers",
        "The aggregation network adds the layers up with learned weights (a softmax). What the "
        "blocks give differs in size too, so a weight alone does not measure a layer's use.",
    )
    return Section("Mixing weights", body)


def _most_confused(confusion: Confusion) -> Html:
    wrong = confusion.counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:N_CONFUSED]
    places = [divmod(int(place), len(confusion.classes)) for place in order]
    rows = [
        (
            confusion.classes[i],
            confusion.classes[j],
            f"{wrong[i, j]:,} of {confusion.counts[i].sum():,}",
        )
        for i, j in places
        if wrong[i, j]
    ]
    if not rows:
        return tag("p", "Nothing was taken for anything else.", class_="soft")
    return table(("most often", "taken for", "sketches"), rows, numbers=(2,))
