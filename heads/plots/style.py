"""What all figures share: colours, sizes, how names are shown, how a figure becomes a file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from PIL import Image

from cache.storage.files import replacing
from cache.units import printable

PALETTE = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#000000",
)
"""Okabe and Ito's: orange, sky, green, yellow, blue, vermilion, purple, black. Told apart with any
kind of colour vision."""
RIGHT, WRONG, UNJUDGED, MISSED = "#0072b2", "#d55e00", "#009e73", "#f0e442"
"""Of what was found: right, wrong, with no truth to judge it by; and what was not found."""
INK, SOFT, RULE = "#1d1f23", "#5f636b", "#d9d6ce"
CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""For lines on white, where the palette's yellow cannot be seen."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
"""Lines take turns with these too, so that they differ without colour."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

TEXT, SMALL = 9.0, 7.5
"""Sizes of text in points."""
PNG_DPI = 160
MAX_PIXELS = 512
"""Longer side at which pictures go into a figure: more would not be seen and fill the file."""

SUFFIXES = (".png", ".svg", ".pdf")
"""Of the files a figure can be saved in."""

_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "ModDate": None},
}
"""What would make two equal figures differ, left out."""


class PlotError(ValueError):
    """A figure that cannot be drawn or saved; the message says why and what to do."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of a size in inches that makes room for its labels."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def legend_below(figure: Figure, handles: Sequence[Artist], **shape: float) -> None:
    """What lines and colours mean, in one row below everything; `shape` is of the handles."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=TEXT,
        **shape,
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a whole: `.png`, `.svg` or `.pdf` by the path's suffix.

    Folders are made if need be. Raises PlotError for another suffix, and OSError.
    """
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_bytes(rendered(figure, path.suffix.lower()))


def check_suffix(path: Path) -> None:
    """Raise PlotError for a suffix that no figure can be saved under."""
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(
            f"{path}: a figure is saved as {', '.join(SUFFIXES)}; end the name in one of these"
        )


def rendered(figure: Figure, suffix: str, dpi: float = PNG_DPI) -> bytes:
    """A figure as the bytes of a file of one of the `SUFFIXES`, or of `.jpg`; equal figures give
    equal bytes. `dpi` is of pixels."""
    buffer = io.BytesIO()
    settings: Any = {"svg.hashsalt": "sketchfusion", "svg.fonttype": "path", "pdf.fonttype": 42}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_METADATA.get(suffix))
    return buffer.getvalue()


def halo(width: float = 2.5) -> list[AbstractPathEffect]:
    """A white rim that lifts lines and text off a picture; its width in points."""
    return [withStroke(linewidth=width, foreground="white")]


def shown(name: str, n_characters: int = 34) -> str:
    """A name as a figure can show it: without control characters, and short.

    Of a path the first folders are left out, and then the beginning of what is left.
    """
    text = printable(name)
    while len(text) > n_characters and "/" in text:
        text = text.partition("/")[2]
    return text if len(text) <= n_characters else "…" + text[1 - n_characters :]


def show_picture(axes: Axes, image: Image.Image) -> None:
    """A picture that fills the axes; coordinates stay those of its own pixels."""
    paint(axes, image, (0, image.width, image.height, 0))
    bare(axes)
    axes.set_xlim(0, image.width)
    axes.set_ylim(image.height, 0)


def place_picture(axes: Axes, image: Image.Image, left: float, top: float) -> None:
    """A picture as large as it can be in a square of side 1 whose corner is (left, top)."""
    longer = max(image.size)
    width, height = image.width / longer, image.height / longer
    left, top = left + (1 - width) / 2, top + (1 - height) / 2
    paint(axes, image, (left, left + width, top + height, top))


def paint(axes: Axes, image: Image.Image, extent: tuple[float, float, float, float]) -> None:
    """A picture between (left, right, bottom, top) of an axes whose limits stay as they are."""
    small = image.convert("RGB")
    small.thumbnail((MAX_PIXELS, MAX_PIXELS))
    axes.imshow(np.asarray(small), extent=extent, interpolation="antialiased")


def bare(axes: Axes) -> None:
    """No ticks, and a faint rim, so that a sketch on white has an edge."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=RULE, linewidth=0.6)


def plain(axes: Axes) -> None:
    """The look of a diagram: spines on two sides, a faint grid, small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=SOFT, labelcolor=INK)


def grid_shape(n: int, n_columns: int) -> tuple[int, int]:
    """Rows and columns for `n` panels, at most `n_columns` side by side."""
    columns = max(1, min(n, n_columns))
    return math.ceil(n / columns), columns


def at_least_one(what: str, n: int) -> None:
    """Raise PlotError where there is nothing to draw."""
    if not n:
        raise PlotError(f"no {what} to draw")
