"""What is taken for what, and what single sketches are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from heads.plots.records import Guess
from heads.plots.style import (
    INK,
    RIGHT,
    SMALL,
    SOFT,
    TEXT,
    UNJUDGED,
    WRONG,
    PlotError,
    at_least_one,
    bare,
    grid_shape,
    new_figure,
    plain,
    show_picture,
    shown,
)

NAMED_CLASSES = 70
"""More class names than these cannot be read along an axis."""
NUMBERED_CLASSES = 16
"""Up to so many classes a number fits into every cell."""


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Counts [C, C] of images of class `row` taken for class `column`, as shares of the row.

    Raises PlotError for counts that are not of these classes.
    """
    n = len(classes)
    at_least_one("classes", n)
    if counts.shape != (n, n):
        raise PlotError(
            f"{n} classes but a confusion matrix of {' x '.join(map(str, counts.shape))}"
        )
    side = min(max(0.19 * n, 3.2), 11.0)
    figure = new_figure(side + 2.4, side + 1.5)
    axes = figure.subplots()
    totals = counts.sum(1, keepdims=True)
    shares = 100 * counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the class's images (%)", fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=INK)
    bar.outline.set_visible(False)
    axes.set_xlabel("taken for", fontsize=TEXT, color=INK)
    axes.set_ylabel("is", fontsize=TEXT, color=INK)
    bare(axes)
    if n <= NAMED_CLASSES:
        names = [shown(name, 20) for name in classes]
        size = SMALL if n <= 40 else SMALL - 2
        axes.set_xticks(range(n), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(n), names, fontsize=size, parse_math=False)
        axes.tick_params(length=0)
    if n <= NUMBERED_CLASSES:
        _numbers(axes, counts, shares)
    # Where everything would be right, so that an empty diagonal is seen as such.
    diagonal = [Rectangle((k - 0.5, k - 0.5), 1, 1) for k in range(n)]
    axes.add_collection(
        PatchCollection(diagonal, facecolor="none", edgecolor=SOFT, linewidth=0.5), autolim=False
    )
    return figure


def guesses_figure(guesses: Sequence[Guess], n_columns: int = 3) -> Figure:
    """Sketches with their likeliest classes as bars; the true class has a tick, others a cross.

    Raises PlotError where there is no sketch.
    """
    at_least_one("sketches", len(guesses))
    rows, columns = grid_shape(len(guesses), n_columns)
    figure = new_figure(columns * 3.4, rows * 1.6 + 0.2)
    cells = iter(figure.subfigures(rows, columns, squeeze=False).flat)
    for guess, cell in zip(guesses, cells, strict=False):
        left, right = cell.subplots(1, 2, width_ratios=(1, 1.15))
        show_picture(left, guess.sketch.image)
        name = shown(guess.sketch.name if guess.truth is None else guess.truth, 22)
        left.set_title(name, fontsize=SMALL, color=INK, parse_math=False)
        _bars(right, guess)
    return figure


def _bars(axes: Axes, guess: Guess) -> None:
    plain(axes)
    axes.grid(visible=False)
    for place, (name, share) in enumerate(guess.classes):
        colour, sign = UNJUDGED, ""
        if guess.truth is not None:
            colour, sign = (RIGHT, "✓ ") if name == guess.truth else (WRONG, "✗ ")
        axes.barh(place, 100 * share, height=0.34, color=colour)
        axes.annotate(
            f"{sign}{shown(name, 16)} {100 * share:.0f} %",
            (0, place),
            xytext=(1, 6),
            textcoords="offset points",
            va="bottom",
            fontsize=SMALL,
            color=colour,
            parse_math=False,
        )
    axes.set_ylim(len(guess.classes) - 0.6, -0.9)
    axes.set_xlim(0, 100)
    axes.set_yticks([])
    axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    axes.spines["left"].set_visible(False)


def _numbers(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in np.argwhere(counts > 0):
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=SMALL,
            color="white" if shares[row, column] > 55 else INK,
        )
