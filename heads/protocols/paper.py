"""The paper's numbers (SketchFusion, CVPR 2025, arXiv 2503.14129), as fractions of 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperNumbers:
    """Published results: metric name to number, by method."""

    results: Mapping[str, Mapping[str, float]]
    note: str = ""
    """What is not the same as here, or not known; empty if nothing is."""


def paper_numbers(task: str, protocol: str) -> PaperNumbers | None:
    """What the paper reports for a task under a protocol, None where it reports nothing."""
    return _NUMBERS.get((task, protocol))


_METHODS = ("B-CLIP", "B-DINO", "B-DINOv2", "B-SD", "B-SD+CLIP", "best other", "SketchFusion")


def _numbers(
    first: str,
    second: str,
    rows: tuple[tuple[float, float], ...],
    best_other: str = "best other",
    note: str = "",
) -> PaperNumbers:
    methods = (best_other if method == "best other" else method for method in _METHODS)
    results = {method: {first: a, second: b} for method, (a, b) in zip(methods, rows, strict=True)}
    return PaperNumbers(results, note)


def _accuracies(*values: float, note: str = "") -> PaperNumbers:
    results = {method: {"acc@1": value} for method, value in zip(_METHODS, values, strict=True)}
    return PaperNumbers(results, f"the paper's split of the sketches is not known to us{note}")


_RETRIEVAL_NOTE = (
    "the paper's code for retrieval is not released; which gallery, AP and P@K it counts is not"
    " known to us"
)

_SKETCHY = _numbers(
    "map@200",
    "p@200",
    (
        (0.250, 0.261),
        (0.493, 0.481),
        (0.527, 0.533),
        (0.558, 0.571),
        (0.588, 0.592),
        (0.746, 0.747),
        (0.761, 0.763),
    ),
    "SD-PL",
    _RETRIEVAL_NOTE,
)
_TUBERLIN = _numbers(
    "map@all",
    "p@100",
    (
        (0.228, 0.257),
        (0.450, 0.492),
        (0.481, 0.532),
        (0.510, 0.561),
        (0.537, 0.589),
        (0.680, 0.744),
        (0.695, 0.753),
    ),
    "SD-PL",
    _RETRIEVAL_NOTE,
)
_QUICKDRAW = _numbers(
    "map@all",
    "p@200",
    (
        (0.080, 0.141),
        (0.167, 0.249),
        (0.170, 0.268),
        (0.179, 0.287),
        (0.179, 0.311),
        (0.231, 0.397),
        (0.242, 0.399),
    ),
    "SD-PL",
    _RETRIEVAL_NOTE,
)
_PSC6K_ROWS = (
    (0.2229, 0.3041),
    (0.3421, 0.4859),
    (0.3991, 0.5646),
    (0.4142, 0.5871),
    (0.4490, 0.6202),
    (0.5800, 0.8493),
    (0.7031, 0.8986),
)
_MASKS = _numbers(
    "miou",
    "pacc",
    (
        (0.2063, 0.2682),
        (0.3281, 0.4206),
        (0.3417, 0.4580),
        (0.3902, 0.4903),
        (0.4187, 0.5191),
        (0.4645, 0.6097),
        (0.6012, 0.7491),
    ),
    note="the paper's masks are not public as far as we could find, nor is it known to us which"
    " sketches are paired with which photos; here every sketch with every photo of its category",
)

_NUMBERS: Mapping[tuple[str, str], PaperNumbers] = {
    ("retrieval", "sketchy-104-21"): _SKETCHY,
    ("retrieval", "tuberlin-220-30"): _TUBERLIN,
    ("retrieval", "quickdraw-80-30"): _QUICKDRAW,
    ("correspondence", "psc6k-official"): _numbers(
        "pck@5",
        "pck@10",
        _PSC6K_ROWS,
        note="the paper's code evaluates by sketchfusion-release instead: 20 test pairs of each"
        " category, and an error of just the threshold does not count as right",
    ),
    ("recognition", "tuberlin-3-fold"): _accuracies(
        0.3009, 0.5179, 0.5801, 0.6137, 0.6547, 0.7796, 0.8496
    ),
    ("recognition", "tuberlin-stratified"): _accuracies(
        0.3009, 0.5179, 0.5801, 0.6137, 0.6547, 0.7796, 0.8496
    ),
    ("recognition", "quickdraw-stratified"): _accuracies(
        0.3087,
        0.5328,
        0.5912,
        0.6357,
        0.6778,
        0.8610,
        0.8702,
        note=", nor which drawings of each class it took",
    ),
    ("segmentation", "sketchy-104-21"): _MASKS,
}
