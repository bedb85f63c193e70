"""What the photo and the sketch of a thing have in common: placed paths and exact ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from pipeline.shapes.drawing import Thing
from pipeline.shapes.raster import Canvas

_MASK_FINE = 4


@dataclass(frozen=True)
class View(ABC):
    """A thing in a frame, before it has pixels.

    Coordinates are shares of the frame's side, so a view can be drawn at any size. `points`
    float64 [M, 2] follows `thing.points`; `scale` is the length of one object unit; `drawn` bool
    [P] says which parts appear; `keypoints` float64 [8, 2]. `stream` seeds what only the
    pixels depend on.
    """

    thing: Thing
    points: np.ndarray
    scale: float
    drawn: np.ndarray
    keypoints: np.ndarray
    stream: tuple[int, ...]

    @cached_property
    def visible(self) -> np.ndarray:
        """Which keypoints can be seen: bool [8].

        Not those outside the frame, hidden behind another part, or on a part that is not drawn.
        """
        in_frame = ((self.keypoints >= 0.0) & (self.keypoints < 1.0)).all(1)
        hidden = self.thing.covers[self.drawn].any(0)
        return in_frame & self.drawn[self.thing.owners] & ~hidden

    @abstractmethod
    def image(self, pixels: int) -> Image.Image:
        """The picture, RGB, `pixels` x `pixels`."""

    @abstractmethod
    def line_width(self, part: int) -> float:
        """Thickness of a line part as it appears, as a share of the frame's side."""

    def mask(self, pixels: int) -> np.ndarray:
        """The object's silhouette, filled: bool [pixels, pixels]."""
        canvas = Canvas(pixels, pixels, paper=0, fine=_MASK_FINE)
        for p in np.flatnonzero(self.drawn).tolist():
            path = self.path(p) * pixels
            if self.thing.parts[p].is_surface:
                canvas.fill(path, 255)
            else:
                canvas.stroke(path, self.line_width(p) * pixels, 255)
        return np.asarray(canvas.result()) >= 128

    def path(self, part: int) -> np.ndarray:
        """The path of one part as it appears: float64 [N, 2], shares of the side."""
        bounds = self.thing.bounds
        return self.points[bounds[part] : bounds[part + 1]]
