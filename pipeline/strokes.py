"""Vector drawings as pictures: SVG files and recorded strokes, dark lines on white.

Both go through resvg, which needs no system library and gives the same pixels everywhere. Its
input is checked first: an SVG can name files to load, nest deep enough to overflow the renderer's
stack, and hold numbers so large that it never returns.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from xml.parsers import expat

import numpy as np
import resvg_py
from PIL import Image

from pipeline.images import ImageError

RENDER_SIDE = 384
"""Pixels of the square vector drawings are rendered in: above the presets' 336, so that the
letterbox only shrinks. It changes features, so it is a constant and no setting."""

STROKE_WIDTH = 3 / 256
"""Line width of recorded strokes over the side: that of Sketchy's drawings, 3 px of 256."""

MARGIN = 4 / 100
"""White border around recorded strokes over the side."""

_SVG_NAMESPACE = "http://www.w3.org/2000/svg"
# fmt: off
_SVG_ELEMENTS = frozenset({
    "svg", "g", "defs", "path", "line", "polyline", "polygon", "rect", "circle", "ellipse",
    "title", "desc", "metadata", "style",
})
_GEOMETRY = frozenset({
    "d", "points", "transform", "viewBox", "x", "y", "x1", "y1", "x2", "y2", "width", "height",
    "cx", "cy", "r", "rx", "ry",
})
# fmt: on
_HUGE_NUMBER = re.compile(r"(?<![.\d])\d{10}|[\d.][eE]\+?0*[1-9]\d")
_MAX_DEPTH = 64


def is_svg(data: bytes) -> bool:
    """Whether the bytes look like an SVG document, whatever the file is called."""
    return b"<svg" in data[:4096] and data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def render_svg(data: bytes, side: int) -> Image.Image:
    """An SVG fitted into a white square of `side` pixels: RGB, aspect kept, centred.

    Only shapes and strokes are drawn. Images, text, references, scripts and entities, which could
    read files or cost unbounded time, raise `ImageError`, as does anything malformed.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError("an SVG that is not UTF-8 text") from error
    _check_svg(text)
    return _rasterise(text, side)


def render_strokes(strokes: Sequence[Sequence[Sequence[float]]], side: int) -> Image.Image:
    """Strokes, each `[xs, ys]` or `[xs, ys, times]`, in a white square of `side` pixels: RGB.

    The drawing is scaled to fill the square up to a margin, aspect kept, centred. A stroke of one
    point is a dot. Raises `ImageError` for a drawing that is empty or malformed.
    """
    lines = [line for line in map(_stroke_points, _as_list(strokes)) if len(line)]
    if not lines:
        raise ImageError("a drawing without strokes")
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    # A drawing that is a single dot has no extent; any scale puts it in the middle.
    scale = side * (1 - 2 * MARGIN) / (max(high - low) or 1.0)
    polylines = []
    for line in lines:
        # Offsets from the middle, so that huge coordinates lose no precision.
        x, y = ((line - (low + high) / 2) * scale + side / 2).T
        if len(line) == 1:
            x, y = np.repeat(x, 2), np.repeat(y, 2)  # a polyline of one point draws nothing
        coordinates = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
        polylines.append(f'<polyline points="{coordinates}"/>')
    return _rasterise(
        f'<svg xmlns="{_SVG_NAMESPACE}" viewBox="0 0 {side} {side}">'
        f'<g fill="none" stroke="black" stroke-width="{STROKE_WIDTH * side:.3f}"'
        f' stroke-linecap="round" stroke-linejoin="round">{"".join(polylines)}</g></svg>',
        side,
    )


def _as_list(value: object) -> list:
    if not isinstance(value, list | tuple):
        raise ImageError("malformed strokes: expected lists of xs and ys")
    return list(value)


def _stroke_points(stroke: object) -> np.ndarray:
    """One stroke as float64 [K, 2]."""
    axes = _as_list(stroke)
    if len(axes) not in (2, 3):
        raise ImageError("malformed strokes: a stroke is [xs, ys] or [xs, ys, times]")
    xs, ys = map(_as_list, axes[:2])
    if len(xs) != len(ys):
        raise ImageError(f"malformed strokes: {len(xs)} xs but {len(ys)} ys")
    try:
        points = np.array([xs, ys], np.float64).T.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError("malformed strokes: a coordinate is not a number") from error
    if not (np.abs(points) < 1e9).all():  # also refuses NaN
        raise ImageError("malformed strokes: a coordinate is not finite")
    return points


def _check_svg(text: str) -> None:
    """Refuse whatever is not a plain drawing. Raises `ImageError`."""
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ImageError(f"an SVG nested deeper than {_MAX_DEPTH} elements")
        namespace, _, element = name.rpartition(" ")
        # resvg skips what other namespaces hold, such as an editor's notes.
        if namespace in ("", _SVG_NAMESPACE) and element not in _SVG_ELEMENTS:
            raise ImageError(f"an SVG with <{element}>, which is not drawn")
        for attribute in _GEOMETRY & attributes.keys():
            if _HUGE_NUMBER.search(attributes[attribute]):
                raise ImageError(f"an SVG with a number beyond 1e9 in {attribute}")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(*declaration: object) -> None:
        raise ImageError("an SVG that declares entities")

    # The encoding is settled: what the document declares must not make expat read other text
    # than resvg does.
    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise ImageError(f"a malformed SVG: {error}") from error


def _rasterise(svg: str, side: int) -> Image.Image:
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg, background="#ffffff", width=side, height=side, skip_system_fonts=True
        )
    except ValueError as error:
        raise ImageError(f"cannot be drawn: {' '.join(str(error).split())}") from error
    except BaseException as error:
        # A panic in Rust arrives as a class that cannot be imported and is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ImageError("cannot be drawn: the renderer failed") from error
    drawing = Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB")
    if drawing.size == (side, side):
        return drawing
    square = Image.new("RGB", (side, side), "white")
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return square
