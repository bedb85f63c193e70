"""Points of sketches and where they were found in photos, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from heads.plots.records import Match
from heads.plots.style import (
    RIGHT,
    SMALL,
    SOFT,
    UNJUDGED,
    WRONG,
    at_least_one,
    bare,
    grid_shape,
    halo,
    legend_below,
    new_figure,
    paint,
    shown,
)

_GAP = 0.08
"""Between sketch and photo, as a share of their height."""
_HEIGHT = 2.3
"""Of a pair, in inches."""


def matches_figure(matches: Sequence[Match], n_columns: int = 2) -> Figure:
    """Each pair side by side at one height, a line from every point to where it was found.

    Right ones are circles on solid lines, wrong ones crosses on broken lines with a dotted line
    to an open circle where they should be. Raises PlotError where there is no pair.
    """
    at_least_one("pairs", len(matches))
    rows, columns = grid_shape(len(matches), n_columns)
    widest = max(_width(match.sketch.image) + _GAP + _width(match.photo.image) for match in matches)
    figure = new_figure(columns * _HEIGHT * min(widest, 3.2), rows * (_HEIGHT + 0.35) + 0.35)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, match in zip(panels, matches, strict=False):
        _draw(axes, match)
    for axes in panels[len(matches) :]:
        axes.set_visible(False)
    legend_below(figure, _legend(matches))
    return figure


def _draw(axes: Axes, match: Match) -> None:
    bare(axes)
    offset = _width(match.sketch.image) + _GAP
    end = offset + _width(match.photo.image)
    for picture, left in ((match.sketch, 0.0), (match.photo, offset)):
        paint(axes, picture.image, (left, left + _width(picture.image), 1.0, 0.0))
    axes.set_xlim(0, end)
    axes.set_ylim(1, 0)
    starts = match.sketch_points / match.sketch.image.height
    found = match.found / match.photo.image.height + (offset, 0)
    truth = None if match.truth is None else match.truth / match.photo.image.height + (offset, 0)
    for k in range(len(starts)):
        right = None if match.right is None else bool(match.right[k])
        colour, marker, dashes = _STYLES[right]
        line = np.stack((starts[k], found[k]))
        axes.plot(
            *line.T, color=colour, linestyle=dashes, linewidth=1.3, alpha=0.9, path_effects=halo()
        )
        if right is False and truth is not None:
            missed = np.stack((found[k], truth[k]))
            axes.plot(*missed.T, color=colour, linestyle=":", linewidth=1.1, path_effects=halo(2))
            axes.plot(*truth[k], marker="o", markersize=6, color="white", markeredgecolor=colour)
        axes.plot(*starts[k], marker="o", markersize=4, color=colour, markeredgecolor="white")
        axes.plot(*found[k], marker=marker, markersize=6, color=colour, markeredgecolor="white")
    pair = f"{shown(match.sketch.name, 27)}  →  {shown(match.photo.name, 27)}"
    axes.set_title(pair, fontsize=SMALL, color=SOFT, parse_math=False, pad=4)
    if match.right is not None:
        axes.set_xlabel(
            f"{int(match.right.sum())} of {len(match.right)} points right", fontsize=SMALL
        )


_STYLES: dict[bool | None, tuple[str, str, Any]] = {
    True: (RIGHT, "o", "-"),
    False: (WRONG, "X", "--"),
    None: (UNJUDGED, "o", "-"),
}
"""Colour, marker and line by whether a point is right."""


def _legend(matches: Sequence[Match]) -> list[Line2D]:
    judged = [match.right for match in matches if match.right is not None]
    there = {bool(right) for rights in judged for right in rights}
    words = {True: "right", False: "wrong"}
    kinds: list[tuple[bool | None, str]] = [
        (right, words[right]) for right in (True, False) if right in there
    ]
    if len(judged) < len(matches):
        kinds.append((None, "found"))
    handles = []
    for right, word in kinds:
        colour, marker, dashes = _STYLES[right]
        handles.append(
            Line2D([], [], color=colour, marker=marker, linestyle=dashes, label=word, markersize=6)
        )
    if False in there:
        handles.append(
            Line2D(
                [],
                [],
                color=WRONG,
                marker="o",
                markerfacecolor="white",
                linestyle=":",
                label="where it should be",
                markersize=6,
            )
        )
    return handles


def _width(image: Image.Image) -> float:
    """Of a picture whose height is 1."""
    return image.width / image.height
