"""Vector drawings as pictures: SVG files and recorded strokes, dark lines on white.

Both go through resvg, which needs no system library and gives the same pixels everywhere. Its
input is checked first: an SVG can name files to load, nest deep enough to overflow the renderer's
stack, and hold so much, so many dashes or such large numbers that it does not return for minutes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from xml.parsers import expat

import numpy as np
import resvg_py
from PIL import Image

from pipeline.pictures.images import ImageError

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
_OTHER_SPELLINGS = (_SVG_NAMESPACE, "http://www.w3.org/1999/xlink")
_GEOMETRY = frozenset({
    "d", "points", "x", "y", "x1", "y1", "x2", "y2", "width", "height",
    "cx", "cy", "r", "rx", "ry",
})
# fmt: on
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LENGTH = re.compile(rf"\s*\+?({_NUMBER.pattern})(?:px|pt|pc|mm|cm|in)?\s*(?:!important\s*)?")
_TRANSFORM = re.compile(r"(\w+)\s*\(([^)]*)")
_STYLE_WIDTH = re.compile(r"stroke-width([^;}]*)", re.IGNORECASE)
_STYLE_REFUSED = re.compile(
    r"\\|transform|(?:dasharray|filter)(?!\s*:\s*none\s*(?:[;}]|$))", re.IGNORECASE
)
_STYLE_LAYER = re.compile(
    r"(?<![-\w])opacity(?!\s*:\s*1\s*(?:[;}]|$))|mix-blend-mode|isolation", re.IGNORECASE
)

# Together they hold the worst drawings found to about two seconds of one core; a drawing of
# TU-Berlin has some 6 KB, 20 paths and 800 pixels.
_MAX_BYTES = 128 * 1024
_MAX_SHAPE_CHARACTERS = 32 * 1024
_MAX_STYLE_CHARACTERS = 8 * 1024
_MAX_ELEMENTS = 1_000
_MAX_LAYERS = 100
_MAX_DEPTH = 64
_MAX_PIXELS = 1e5
_MAX_POINTS = 10_000
"""Of recorded strokes: three quarters of a second; the longest raw drawings have some thousands."""


def is_svg(data: bytes) -> bool:
    """Whether the bytes look like an SVG document, whatever the file is called."""
    return b"<svg" in data[:4096] and data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def render_svg(data: bytes, side: int) -> Image.Image:
    """An SVG fitted into a white square of `side` pixels: RGB, aspect kept, centred.

    Only shapes and strokes are drawn. Images, text, references, scripts and entities, which could
    read files, raise `ImageError`, as does anything malformed. So do dashes, and drawings that are
    too large or reach too far from the square, which could cost unbounded time.
    """
    if len(data) > _MAX_BYTES:
        raise ImageError(f"an SVG of {len(data):,} bytes: at most {_MAX_BYTES:,} are drawn")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError("an SVG that is not UTF-8 text") from error
    _check_svg(text, side)
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
    if len(points) > _MAX_POINTS:
        raise ImageError(f"a drawing of {len(points):,} points: at most {_MAX_POINTS:,} are drawn")
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
    if any(isinstance(value, list | tuple | str | bool) for value in (*xs, *ys)):
        raise ImageError("malformed strokes: a coordinate is not a number")
    try:
        points = np.array([xs, ys], np.float64).T.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError("malformed strokes: a coordinate is not a number") from error
    if not (np.abs(points) < 1e9).all():  # also refuses NaN
        raise ImageError("malformed strokes: a coordinate is not finite")
    return points


def _check_svg(text: str, side: int) -> None:
    """Refuse whatever is not a plain drawing. Raises `ImageError`."""
    check = _SvgCheck(side)
    # The encoding is settled: what the document declares must not make expat read other text
    # than resvg does.
    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.StartElementHandler = check.start
    parser.EndElementHandler = check.end
    parser.CharacterDataHandler = check.characters
    parser.EntityDeclHandler = check.entity
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise ImageError(f"a malformed SVG: {error}") from error
    check.finish()


class _SvgCheck:
    """The events of one document. Every method raises `ImageError` for what is not drawn."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.scales: list[float] = []
        """Upper bounds of pixels per unit, of every open element."""
        self.largest_scale = 0.0
        self.widest_stroke = 1.0
        self.elements = 0
        self.layers = 0
        self.open: list[str] = []
        self.style: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, element = name.rpartition(" ")
        # resvg skips what other namespaces hold, such as an editor's notes.
        if namespace in ("", _SVG_NAMESPACE) and element not in _SVG_ELEMENTS:
            raise ImageError(f"an SVG with <{element}>, which is not drawn")
        self.elements += 1
        if self.elements > _MAX_ELEMENTS:
            raise ImageError(f"an SVG of more than {_MAX_ELEMENTS:,} elements")
        self.open.append(element)
        if len(self.open) > _MAX_DEPTH:
            raise ImageError(f"an SVG nested deeper than {_MAX_DEPTH} elements")
        if any(attribute.startswith(_OTHER_SPELLINGS) for attribute in attributes):
            raise ImageError(f"an SVG with a prefixed attribute in <{element}>, which is not drawn")
        self._scale(element, attributes)
        self._shape(attributes)
        self._paint(attributes)

    def end(self, name: str) -> None:
        self.open.pop()
        self.scales.pop()

    def characters(self, text: str) -> None:
        if "style" in self.open:
            self.style.append(text)

    def entity(self, *declaration: object) -> None:
        raise ImageError("an SVG that declares entities")

    def finish(self) -> None:
        style = "".join(self.style)
        if len(style) > _MAX_STYLE_CHARACTERS:
            raise ImageError(f"an SVG with a <style> of over {_MAX_STYLE_CHARACTERS:,} characters")
        # Matching `* * * *` takes time exponential in its length.
        for selectors in re.findall(r"([^{};]*)\{", re.sub(r"(?s)/\*.*?\*/", " ", style)):
            if not all(re.fullmatch(r"\s*@?[\w.#*-]+\s*", one) for one in selectors.split(",")):
                raise ImageError("an SVG with a selector in <style> that is no plain name")
        if self._style(style):
            raise ImageError("an SVG with opacity or blending in <style>, which is not drawn")
        if self.widest_stroke * self.largest_scale > _MAX_PIXELS:
            raise ImageError(f"an SVG with a stroke-width beyond {_MAX_PIXELS:,.0f} pixels")

    def _scale(self, element: str, attributes: dict[str, str]) -> None:
        if not self.scales:
            scale = self.side / _shorter_side(attributes)
        elif element == "svg":
            raise ImageError("an SVG inside an SVG, which is not drawn")
        else:
            scale = self.scales[-1]
        for attribute in ("transform", "viewBox"):  # how far away they move the drawing
            self._reach(attribute, attributes.get(attribute, ""), scale)
        scale *= _magnification(attributes.get("transform", ""))
        self.scales.append(scale)
        self.largest_scale = max(self.largest_scale, scale)

    def _shape(self, attributes: dict[str, str]) -> None:
        if len(self.open) == 1:
            return  # of the outermost element these are the size of the page
        for attribute in sorted(_GEOMETRY & attributes.keys()):
            value = attributes[attribute]
            if len(value) > _MAX_SHAPE_CHARACTERS:
                raise ImageError(
                    f"an SVG with over {_MAX_SHAPE_CHARACTERS:,} characters in {attribute}"
                )
            if re.search("em|ex", value):
                raise ImageError(f"an SVG with em or ex in {attribute}, which is not drawn")
            self._reach(attribute, value, self.scales[-1])

    def _reach(self, attribute: str, value: str, scale: float) -> None:
        largest = max(map(float, _NUMBER.findall(value)), default=0.0)
        if largest * scale > _MAX_PIXELS:
            raise ImageError(f"an SVG that reaches {_MAX_PIXELS:,.0f} pixels in {attribute}")

    def _paint(self, attributes: dict[str, str]) -> None:
        for attribute in ("stroke-dasharray", "filter"):
            if attributes.get(attribute, "none").strip() != "none":
                raise ImageError(f"an SVG with {attribute}, which is not drawn")
        if "stroke-width" in attributes:
            self._stroke_width(attributes["stroke-width"])
        self.layers += attributes.get("opacity", "1").strip() != "1"
        self.layers += not attributes.keys().isdisjoint(("mix-blend-mode", "isolation"))
        self.layers += self._style(attributes.get("style", ""))
        if self.layers > _MAX_LAYERS:
            raise ImageError(f"an SVG of more than {_MAX_LAYERS} elements with an opacity")

    def _style(self, style: str) -> bool:
        """Check CSS; whether it asks for a layer of its own, which costs a whole picture."""
        if refused := _STYLE_REFUSED.search(style):
            raise ImageError(f"an SVG with {refused[0]} in its style, which is not drawn")
        for width in _STYLE_WIDTH.findall(style):
            self._stroke_width(width.strip().removeprefix(":"))
        return bool(_STYLE_LAYER.search(style))

    def _stroke_width(self, value: str) -> None:
        length = _LENGTH.fullmatch(value)
        if length is None:
            raise ImageError("an SVG with a stroke-width that is no plain length")
        self.widest_stroke = max(self.widest_stroke, float(length[1]))


def _shorter_side(attributes: dict[str, str]) -> float:
    """Of the page, in units of the drawing. Raises `ImageError` where it has no size."""
    numbers = [float(number) for number in _NUMBER.findall(attributes.get("viewBox", ""))]
    if len(numbers) == 4:
        shorter = min(numbers[2:])
    else:
        lengths = [_LENGTH.fullmatch(attributes.get(name, "")) for name in ("width", "height")]
        shorter = min((float(length[1]) if length else 0.0) for length in lengths)
    if not shorter > 0:
        raise ImageError("an SVG without a size: neither a viewBox nor a width and height")
    return shorter


def _magnification(transform: str) -> float:
    """An upper bound of how much longer a transform makes anything."""
    factor = 1.0
    for function, arguments in _TRANSFORM.findall(transform):
        numbers = [float(number) for number in _NUMBER.findall(arguments)] or [0.0]
        if function == "scale":
            factor *= max(numbers)
        elif function == "matrix":
            factor *= math.hypot(*numbers[:4])
        elif function in ("skewX", "skewY"):
            factor *= 1 + abs(math.tan(math.radians(numbers[0])))
    return factor


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
