"""A run's results as a table: beside baselines, floors, chance and the paper, with the protocol."""

from __future__ import annotations

from heads.evaluation.result import Evaluation
from heads.evaluation.table import (
    beside_lines,
    cells_of,
    difference_in_words,
    error_note,
    protocol_in_words,
)
from heads.report.markup import Html, join, tag
from heads.report.page import Section, table

TITLES = {
    "correspondence": "sketch-photo correspondence",
    "retrieval": "retrieval of unseen categories",
    "fine_grained": "fine-grained retrieval",
    "recognition": "recognition",
    "segmentation": "sketch-based segmentation",
}
"""What each task is called in a heading."""

COUNTED = {
    "correspondence": "pairs",
    "retrieval": "queries",
    "fine_grained": "queries",
    "recognition": "sketches",
    "segmentation": "masks",
}
"""What a task's results are means over."""

METRICS = {
    "correspondence": "pck@k: the share of points found within k hundredths of the picture's size, "
    "mean over pairs and over both directions, sketch to photo and photo to sketch.",
    "retrieval": "map@k: mean average precision of the first k photos; p@k: the share of right "
    "ones among them.",
    "fine_grained": "acc@k: how often the photo that was drawn is among the first k of its "
    "category.",
    "recognition": "acc@k: how often the class is among the k likeliest.",
    "segmentation": "miou: intersection over union of found and true foreground, mean over "
    "categories of the mean over masks; pacc: the share of pixels that are right.",
}


def results_section(evaluation: Evaluation) -> Section:
    """The table, what its numbers mean, what is missing from it, and notes."""
    body = join(
        tag(
            "p",
            f"{evaluation.split.capitalize()} part. All numbers are hundredths, higher is better. "
            f"{METRICS[evaluation.task]}",
        ),
        results_table(evaluation),
        tag(
            "p",
            "The run is the first line. B-CLIP, B-SD and B-SD+CLIP are the same stores' features "
            "without training; floors such as HOG need no network; chance is guessing.",
            class_="soft",
        ),
        _list(
            [
                *beside_lines(evaluation),
                *(f"no {name}: {why}" for name, why in evaluation.missing.items()),
                *evaluation.notes,
            ]
        ),
    )
    return Section("Results", body)


def results_table(evaluation: Evaluation) -> Html:
    """All results in hundredths, the run's own first, what it is ahead by, and by which protocol
    over how many."""
    header = ["", *evaluation.metrics]
    if evaluation.differences:
        header += [f"{evaluation.headline}: this run minus", "95 % interval", ""]
    rows: list[list[object]] = []
    for number, (name, found) in enumerate(cells_of(evaluation)):
        cells: list[object] = [name, *found]
        if evaluation.differences:
            cells += difference_in_words(evaluation, name)
        # The run itself comes first.
        rows.append(cells if number else [tag("strong", cell) for cell in cells])
    note = error_note(evaluation)
    return join(
        table(header, rows, numbers=range(1, len(header))),
        tag(
            "p",
            "Protocol ",
            tag(
                "strong",
                protocol_in_words(
                    evaluation.protocol, evaluation.variants, evaluation.protocol_version
                ),
            ),
            f", {evaluation.n:,} {COUNTED[evaluation.task]}.",
            f" {note}." if note else "",
            class_="soft",
        ),
    )


def _list(lines: list[str]) -> Html:
    if not lines:
        return Html("")
    return tag("ul", *(tag("li", line) for line in lines), class_="soft")
