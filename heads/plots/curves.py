"""Learning curves: the loss and the validation metrics of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heads.plots.style import (
    CURVES,
    DASHES,
    INK,
    MARKERS,
    SMALL,
    SOFT,
    TEXT,
    PlotError,
    at_least_one,
    new_figure,
    plain,
    shown,
)

MIN_SPAN = 5.0
"""Of the axis of metrics, in hundredths."""

Curve = Sequence[Mapping[str, Any]]
"""Lines of a run's `metrics.jsonl`: `step` with `loss`, or with `validation` by metric."""


def curves_figure(curves: Mapping[str, Curve], metric: str | None = None) -> Figure:
    """Loss and validation over optimiser steps, by name of the run.

    Of one run all metrics are shown by default; of several only `metric`, by default the first that
    all of them have, or, where there is none, the first of each. Raises PlotError where no run has
    a line, or none has the metric.
    """
    known = {name: curve for name, curve in curves.items() if curve}
    at_least_one("curves (nothing is logged yet)", len(known))
    figure = new_figure(8.6, 3.3)
    left, right = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(known.items()):
        points = [(line["step"], line["loss"]) for line in curve if "loss" in line]
        _line(left, points, number, name)
    for axes, label in ((left, "training loss"), (right, "validation metric (%)")):
        plain(axes)
        axes.set_xlabel("optimiser steps", fontsize=TEXT, color=INK)
        axes.set_ylabel(label, fontsize=TEXT, color=INK)
    left.set_ylim(bottom=0)
    validations = {
        name: [line for line in curve if "validation" in line] for name, curve in known.items()
    }
    metrics = {
        name for lines in validations.values() for line in lines for name in line["validation"]
    }
    if metric is not None and metric not in metrics:
        raise PlotError(
            f"no validation metric {metric}; there are {', '.join(sorted(metrics)) or 'none'}"
        )
    if len(known) == 1 and metric is None:
        (lines,) = validations.values()
        for number, name in enumerate(lines[0]["validation"] if lines else ()):
            _line(right, _values(lines, name), number, name)
    else:
        metric = metric or _shared([lines for lines in validations.values() if lines])
        for number, (name, lines) in enumerate(validations.items()):
            own = metric or (next(iter(lines[0]["validation"])) if lines else "")
            _line(right, _values(lines, own), number, name if metric else f"{name}: {own}")
        if metric:
            right.set_ylabel(f"validation {metric} (%)", fontsize=TEXT, color=INK)
        _legend(left)
    if right.lines:
        _at_least_points(right)
        _legend(right)
    else:
        right.text(
            0.5,
            0.5,
            "no validation",
            transform=right.transAxes,
            ha="center",
            fontsize=TEXT,
            color=SOFT,
        )
    return figure


def _line(axes: Axes, points: Sequence[tuple[float, float]], number: int, name: str) -> None:
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    axes.plot(
        xs,
        ys,
        color=CURVES[number % len(CURVES)],
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)] if len(points) <= 30 else None,
        markersize=4,
        linewidth=1.5,
        label=shown(name, 30),
    )


def _values(lines: Curve, metric: str) -> list[tuple[float, float]]:
    return [
        (line["step"], 100 * line["validation"][metric])
        for line in lines
        if metric in line["validation"]
    ]


def _shared(validations: Sequence[Curve]) -> str | None:
    """The first metric that all curves have."""
    named = [list(lines[0]["validation"]) for lines in validations]
    shared = [name for name in named[0] if all(name in other for other in named)] if named else []
    return shared[0] if shared else None


def _at_least_points(axes: Axes) -> None:
    """Widen the vertical axis to `MIN_SPAN`, so that a hair's breadth does not look like a leap."""
    low, high = axes.get_ylim()
    if high - low < MIN_SPAN:
        middle = min(max((low + high) / 2, MIN_SPAN / 2 - 0.2), 100.2 - MIN_SPAN / 2)
        axes.set_ylim(middle - MIN_SPAN / 2, middle + MIN_SPAN / 2)


def _legend(axes: Axes) -> None:
    legend = axes.legend(frameon=False, fontsize=SMALL, handlelength=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
