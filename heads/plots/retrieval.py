"""Retrieval grids: a sketch in front of every row, the photos found for it behind, hits framed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from heads.plots.records import Ranking
from heads.plots.style import (
    INK,
    RIGHT,
    SMALL,
    SOFT,
    TEXT,
    WRONG,
    at_least_one,
    new_figure,
    place_picture,
    shown,
)

_CELL = 1.2
"""Of a picture, in inches; everything below is in cells."""
_ACROSS, _DOWN = 1.1, 1.27
"""From one picture to the next."""
_APART = 0.12
"""More than that between the query and the first photo."""

_FRAMES: dict[bool | None, tuple[str, Any, float, str]] = {
    True: (RIGHT, "-", 2.8, "✓ "),
    False: (WRONG, (0, (3, 2)), 1.6, "✗ "),
    None: (SOFT, "-", 0.8, ""),
}
"""Colour, line, width in points and sign of a frame, by whether a photo is relevant."""


def retrieval_figure(rankings: Sequence[Ranking]) -> Figure:
    """One row for each query, best photo first; the cosine stands below each.

    Relevant photos have a solid frame and a tick, others a broken one and a cross; where nobody
    knows, a thin frame. Raises PlotError where there is no query.
    """
    at_least_one("queries", len(rankings))
    n_hits = max(len(ranking.hits) for ranking in rankings)
    width = _left(n_hits) + 1 if n_hits else 1.0
    height = (len(rankings) - 1) * _DOWN + 1
    figure = new_figure((width + 0.3) * _CELL, (height + 0.78) * _CELL)
    # One axes for all: a hundred of them would take seconds to lay out.
    axes = figure.subplots()
    axes.set_axis_off()
    for row, ranking in enumerate(rankings):
        top = row * _DOWN
        place_picture(axes, ranking.sketch.image, 0, top)
        _frame(axes, 0, top, INK, "-", 0.8)
        _below(axes, 0, top, shown(ranking.sketch.name, 21), SOFT)
        for place, hit in enumerate(ranking.hits, 1):
            colour, line, thick, sign = _FRAMES[hit.relevant]
            place_picture(axes, hit.photo.image, _left(place), top)
            _frame(axes, _left(place), top, colour, line, thick)
            _below(axes, _left(place), top, f"{sign}{hit.score:.2f}", colour)
    for place in range(n_hits + 1):
        head = str(place) if place else "query"
        x = _left(place) + 0.5
        axes.text(x, -0.06, head, ha="center", va="bottom", fontsize=TEXT, color=INK)
    axes.set_xlim(-0.08, width + 0.08)
    axes.set_ylim(height + 0.26, -0.24)
    axes.set_aspect("equal")
    figure.supxlabel(_caption(rankings), fontsize=TEXT, color=INK)
    return figure


def _left(place: int) -> float:
    """Where the picture at a place of the ranking begins; 0 is the query."""
    return place * _ACROSS + (_APART if place else 0)


def _frame(axes: Axes, left: float, top: float, colour: str, line: Any, width: float) -> None:
    axes.add_patch(
        Rectangle((left, top), 1, 1, fill=False, edgecolor=colour, linestyle=line, linewidth=width)
    )


def _below(axes: Axes, left: float, top: float, text: str, colour: str) -> None:
    axes.text(
        left + 0.5,
        top + 1.04,
        text,
        ha="center",
        va="top",
        fontsize=SMALL - 0.5,
        color=colour,
        parse_math=False,
    )


def _caption(rankings: Sequence[Ranking]) -> str:
    there = {hit.relevant for ranking in rankings for hit in ranking.hits}
    words = {True: "✓ solid frame: right", False: "✗ broken frame: wrong"}
    known = [words[relevant] for relevant in (True, False) if relevant in there]
    return "     ".join([*known, "number: cosine with the query"])
