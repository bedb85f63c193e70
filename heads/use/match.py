"""Where in a photo is what a sketch has at some points?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from heads.matching import correlate
from heads.plots.records import Match
from heads.tasks.correspondence import best_points, descriptors_at
from heads.use.pictures import LoadedPicture, PictureSource, UseError, load_picture
from heads.use.trained import Trained

SEARCHED_PIXELS = 2**20
"""Drawn pixels are looked for in a picture of at most so many."""
INK = 48
"""Grey levels from the most frequent one at which a pixel counts as drawn."""


@dataclass(frozen=True, kw_only=True)
class FoundPoints(Match):
    """A match, and how sure each of its points is."""

    similarity: np.ndarray
    """[K]: cosine of the point and the most similar cell of the photo, from -1 to 1."""


def match(
    trained: Trained,
    sketch: PictureSource,
    photo: PictureSource,
    points: Sequence[tuple[float, float]] | np.ndarray,
) -> FoundPoints:
    """Find points [K, 2] of a sketch, (x, y) in pixels from its upper left corner, in a photo.

    By the matcher of the run's configuration; what it finds beside the photo is moved to its edge.
    Any two pictures will do. Raises UseError for a point outside the sketch, an unusable picture,
    or a run whose features have no cells.
    """
    own, other = load_picture(sketch), load_picture(photo)
    if not trained.has_cells:
        raise UseError(
            f"{trained.run.folder}: reads only descriptors of whole pictures "
            f"({', '.join(trained.arrays)}); use a run with sd, clip or dino among train.features"
        )
    asked = _checked(points, own)
    frame = trained.frame(sketch=own, photo=other)
    square = frame.to_square("sketch", torch.from_numpy(asked / own.image.size))
    ours, theirs = (
        trained.describe([own], "sketch").spatial,
        trained.describe([other], "photo").spatial,
    )
    settings = trained.config.train.correspondence
    correlation = correlate(descriptors_at(ours, square[None].to(ours), settings), theirs)
    resolution = trained.config.backbone.resolution
    matched = best_points(correlation, settings, resolution)[0].cpu().double()
    found = frame.to_picture("photo", matched).clamp(0, 1).numpy() * other.image.size
    similarity = correlation[0].flatten(1).amax(1).cpu().numpy()
    return FoundPoints(own, other, asked, found, similarity=similarity)


def grid_points(sketch: PictureSource, n: int) -> np.ndarray:
    """Points [K, 2] spread over what is drawn: n x n fields cover it, and each that holds some of
    it gives the drawn pixel nearest to its centre; of more than a megapixel, in a reduced picture.
    Raises UseError for an empty sketch.
    """
    picture = load_picture(sketch)
    step = math.ceil(math.sqrt(math.prod(picture.image.size) / SEARCHED_PIXELS))
    ys, xs = np.nonzero(_drawn(picture.image.reduce(step)))
    if not len(ys):
        raise UseError(f"{picture.name}: nothing is drawn in it; give points, or another sketch")
    pixels = np.stack((xs, ys), axis=1)
    corner = pixels.min(0)
    places, size = pixels - corner + 0.5, pixels.max(0) - corner + 1
    fields = places * n // size
    distances = np.square(places - (fields + 0.5) * size / n).sum(1)
    order = np.lexsort((distances, fields[:, 0], fields[:, 1]))
    _, first = np.unique(fields[order, ::-1], axis=0, return_index=True)
    return np.minimum((places + corner)[order][first] * step, picture.image.size)


def _drawn(image: Image.Image) -> np.ndarray:
    """bool [H, W]: pixels unlike the background, which is the most frequent grey level."""
    grey = np.asarray(image.convert("L"))
    background = int(np.bincount(grey.ravel(), minlength=256).argmax())
    return np.abs(grey.astype(int) - background) > INK


def _checked(
    points: Sequence[tuple[float, float]] | np.ndarray, sketch: LoadedPicture
) -> np.ndarray:
    """float64 [K, 2]."""
    asked = np.array(points, np.float64).reshape(-1, 2)
    if not len(asked):
        raise UseError("no points to match; give some, in pixels of the sketch")
    width, height = sketch.image.size
    for x, y in asked:
        if not (0 <= x <= width and 0 <= y <= height):  # Refuses NaN too.
            raise UseError(
                f"point {x:g},{y:g} is outside {sketch.name}, which has {width} x {height} pixels"
            )
    return asked
