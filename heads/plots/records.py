"""What figures are drawn from: pictures, and what was found in them. Nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A picture as decoded, RGB, with what to call it."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Match:
    """Points of a sketch and where they were found in a photo.

    All points are (x, y) in pixels of their picture. Without ground truth `truth` and `right` are
    None.
    """

    sketch: Picture
    photo: Picture
    sketch_points: np.ndarray
    """[K, 2]."""
    found: np.ndarray
    """[K, 2]."""
    truth: np.ndarray | None = None
    """[K, 2]."""
    right: np.ndarray | None = None
    """bool [K]: found within the tolerance."""


@dataclass(frozen=True)
class Hit:
    """One photo of a ranking; `relevant` is None where nobody knows."""

    photo: Picture
    score: float
    """Cosine with the query, from -1 to 1."""
    relevant: bool | None = None


@dataclass(frozen=True)
class Ranking:
    """A query sketch and the photos found for it, best first."""

    sketch: Picture
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Mask:
    """What of a photo a sketch was found to show; bool [H, W] at the photo's size."""

    sketch: Picture
    photo: Picture
    found: np.ndarray
    truth: np.ndarray | None = None
    iou: float | None = None
    """Of `found` and `truth`."""


@dataclass(frozen=True)
class Guess:
    """The likeliest classes of a sketch with their probabilities, best first."""

    sketch: Picture
    classes: tuple[tuple[str, float], ...]
    truth: str | None = None
