"""How much each array counts in the aggregated descriptor."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from heads.plots.style import INK, RIGHT, SMALL, SOFT, TEXT, at_least_one, new_figure, plain


def mixing_figure(weights: Mapping[str, float]) -> Figure:
    """A bar for each array, and a line where all would count the same.

    `weights` add up to 1. Raises PlotError where there is none.
    """
    at_least_one("mixing weights", len(weights))
    figure = new_figure(6.4, 0.34 * len(weights) + 1.1)
    axes = figure.subplots()
    places = range(len(weights))
    axes.barh(places, [100 * value for value in weights.values()], height=0.62, color=RIGHT)
    for place, value in zip(places, weights.values(), strict=True):
        axes.annotate(
            f"{100 * value:.1f}",
            (100 * value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=INK,
        )
    equal = 100 / len(weights)
    axes.axvline(equal, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        "all alike",
        (equal, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=SMALL,
        color=SOFT,
    )
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(list(places), list(weights), fontsize=TEXT, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 100 * max(weights.values()) * 1.14)
    axes.set_xlabel("share of the descriptor (%)", fontsize=TEXT, color=INK)
    return figure
