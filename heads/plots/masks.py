"""What of a photo a sketch was found to show, against the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from heads.plots.records import Mask
from heads.plots.style import (
    INK,
    MISSED,
    RIGHT,
    SMALL,
    SOFT,
    UNJUDGED,
    WRONG,
    at_least_one,
    grid_shape,
    legend_below,
    new_figure,
    show_picture,
    shown,
)

_CELL = 1.55
"""Of a picture, in inches."""
_SEEN = 0.62
"""How much of a colour covers the picture below."""


def masks_figure(masks: Sequence[Mask], n_columns: int = 2) -> Figure:
    """Sketch, photo, and the photo with what was found: right, wrong and missed parts apart.

    Wrong parts are hatched and missed ones dotted as well. Raises PlotError where there is none.
    """
    at_least_one("masks", len(masks))
    rows, columns = grid_shape(len(masks), n_columns)
    figure = new_figure(columns * (3 * _CELL + 0.3), rows * (_CELL + 0.4) + 0.35)
    cells = iter(figure.subfigures(rows, columns, squeeze=False, wspace=0.03).flat)
    for mask, cell in zip(masks, cells, strict=False):
        sketch, photo, found = cell.subplots(1, 3)
        show_picture(sketch, mask.sketch.image)
        show_picture(photo, mask.photo.image)
        _draw(found, mask)
        _below(sketch, shown(mask.sketch.name, 24))
        _below(photo, shown(mask.photo.name, 24))
        if mask.iou is not None:
            found.set_xlabel(f"IoU {100 * mask.iou:.0f} %", fontsize=SMALL, color=INK)
        else:
            found.set_xlabel(f"{mask.found.mean():.0%} of the photo", fontsize=SMALL, color=INK)
    legend_below(figure, _legend(masks), handlelength=2.2, handleheight=1.3)
    return figure


_KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("right", "found, and there", RIGHT, ""),
    ("wrong", "found, but not there", WRONG, "////"),
    ("missed", "there, but not found", MISSED, "...."),
    ("unjudged", "found", UNJUDGED, ""),
)
"""Key, words, colour and hatching of what is painted."""


def _draw(axes: Axes, mask: Mask) -> None:
    show_picture(axes, mask.photo.image.convert("L"))
    height, width = mask.found.shape
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    for key, _, colour, hatch in _KINDS:
        region = _regions(mask).get(key)
        if region is None or not region.any():
            continue
        paint = np.zeros((*region.shape, 4))
        paint[region] = to_rgba(colour, _SEEN)
        axes.imshow(paint, extent=(0, width, height, 0), interpolation="nearest")
        if hatch and min(region.shape) > 1:
            drawn = axes.contourf(
                xs, ys, region.astype(float), levels=[0.5, 1.5], colors="none", hatches=[hatch]
            )
            drawn.set(edgecolor=INK, linewidth=0)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _regions(mask: Mask) -> dict[str, np.ndarray]:
    if mask.truth is None:
        return {"unjudged": mask.found}
    return {
        "right": mask.found & mask.truth,
        "wrong": mask.found & ~mask.truth,
        "missed": ~mask.found & mask.truth,
    }


def _below(axes: Axes, text: str) -> None:
    axes.set_xlabel(text, fontsize=SMALL - 1, color=SOFT, parse_math=False)


def _legend(masks: Sequence[Mask]) -> list[Patch]:
    there = {key for mask in masks for key in _regions(mask)}
    return [
        Patch(facecolor=to_rgba(colour, _SEEN), hatch=hatch, edgecolor=INK, linewidth=0.4, label=w)
        for key, w, colour, hatch in _KINDS
        if key in there
    ]
