"""Pixels with Pillow: anti-aliased outlines and strokes, blur, and bytes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SHARP = 0.8  # cosine of the turn above which a corner of a wide stroke is rounded
_PRESSURE_STEP = 9  # points of a path drawn at one width


class Canvas:
    """A greyscale drawing surface of `width` x `height` pixels, kept `fine` times larger.

    Coordinates and widths are in pixels of the result. `origin` is where its upper left corner
    lies, so that a crop of a picture can be drawn in the picture's coordinates.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        paper: int,
        fine: int,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._fine = fine
        self._origin = np.array(origin)
        self._image = Image.new("L", (width * fine, height * fine), paper)
        self._draw = ImageDraw.Draw(self._image)

    def fill(self, outline: np.ndarray, tone: int) -> None:
        """Fills a closed outline [N, 2]."""
        self._draw.polygon(self._fine_points(outline).ravel().tolist(), fill=tone)

    def stroke(self, path: np.ndarray, width: float, tone: int, end: float | None = None) -> None:
        """Draws an open path [N, 2] with round ends and corners.

        The width goes in steps from `width` at its start to `end` at its end.
        """
        points = self._fine_points(path)
        flat = points.ravel().tolist()
        n = len(points)
        slope = 0.0 if end is None else (end - width) / n
        stride = n if end is None else _PRESSURE_STEP
        for first in range(0, n - 1, stride):
            fine_width = max(1, round((width + slope * first) * self._fine))
            self._draw.line(flat[2 * first : 2 * (first + stride + 1)], tone, fine_width)
        r = (width if end is None else min(width, end)) * self._fine / 2 - 0.25
        if r > 1.0:
            for x, y in points[_corners(points)].tolist():
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=tone)

    def result(self) -> Image.Image:
        """The picture at its proper size, mode L."""
        return self._image.reduce(self._fine)

    def _fine_points(self, path: np.ndarray) -> np.ndarray:
        return (path - self._origin) * self._fine - 0.5


def _corners(points: np.ndarray) -> np.ndarray:
    """Where a path [N, 2] ends or turns sharply: bool [N]."""
    step = np.diff(points, axis=0)
    step /= np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
    corner = np.ones(len(points), dtype=bool)
    corner[1:-1] = (step[1:] * step[:-1]).sum(1) < _SHARP
    return corner


def blurred(image: Image.Image, radius: float) -> np.ndarray:
    """The picture blurred by `radius` pixels: float32 [H, W] or [H, W, 3] in 0..1."""
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255.0


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Values meant to lie in 0..1 as uint8 0..255."""
    return (np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
