"""The world: an endless row of instances, each with one photo and any number of sketches.

Everything is a function of (seed, instance, pixels): no state, no order of calls. Instances take
turns through the categories. Every fourth place belongs to the unseen categories, which take turns
in these places among themselves: worlds of one seed with different sets of unseen categories agree
in all instances of the seen ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from pipeline.shapes.categories import (
    CATEGORIES,
    DRAW,
    SEEN,
    UNSEEN_EVERY,
    UNSEEN_SETS,
    UnseenSet,
)
from pipeline.shapes.drawing import Drawing, Thing
from pipeline.shapes.photo import PhotoView, draw_photo_view
from pipeline.shapes.sketch import SketchView, draw_sketch_view

Split = Literal["train", "val", "test"]

# What a random stream is for; the last number of its seed.
_THING, _PHOTO, _PHOTO_PIXELS, _SKETCH, _SKETCH_PIXELS = range(5)
_TEST, _VAL = (4, 9), (7,)


@dataclass(frozen=True)
class World:
    """All instances of one seed (0 or greater), with one set of unseen categories."""

    seed: int
    unseen: UnseenSet = "first"

    @property
    def unseen_categories(self) -> tuple[str, ...]:
        """The categories that are all test."""
        return UNSEEN_SETS[self.unseen]

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories, in the order in which they first appear."""
        unseen = self.unseen_categories
        n_places = len(CATEGORIES) // UNSEEN_EVERY
        first_turn = (self.category(instance) for instance in range(len(CATEGORIES)))
        return (*first_turn, *unseen[n_places:])

    def category(self, instance: int) -> str:
        """What the instance is."""
        place = instance % len(CATEGORIES)
        if CATEGORIES[place] in SEEN:
            return CATEGORIES[place]
        return self.unseen_categories[instance // UNSEEN_EVERY % len(self.unseen_categories)]

    def instance(self, category: str, number: int) -> int:
        """The instance that is the category's own `number`, 0 or greater."""
        if category in SEEN:
            return number * len(CATEGORIES) + CATEGORIES.index(category)
        unseen = self.unseen_categories
        place = number * len(unseen) + unseen.index(category)
        return (place + 1) * UNSEEN_EVERY - 1

    def split(self, instance: int) -> Split:
        """The instance's part of the world.

        Unseen categories are all test. Of the seen ones, 7 instances in 10 are train, 1 is val
        and 2 are test, different ones in neighbouring categories.
        """
        turn, place = divmod(instance, len(CATEGORIES))
        if CATEGORIES[place] not in SEEN:
            return "test"
        share = (turn + 3 * place) % 10
        return "test" if share in _TEST else "val" if share in _VAL else "train"

    def thing(self, instance: int) -> Thing:
        """The instance itself, before it is photographed or drawn."""
        return _drawn(self.category(instance), (self.seed, instance, 0, _THING))

    def photo(self, instance: int) -> PhotoView:
        """The instance's photo."""
        rng = _generator((self.seed, instance, 0, _PHOTO))
        return draw_photo_view(self.thing(instance), rng, (self.seed, instance, 0, _PHOTO_PIXELS))

    def sketch(self, instance: int, number: int) -> SketchView:
        """The instance's sketch by person `number`, 1 or greater."""
        rng = _generator((self.seed, instance, number, _SKETCH))
        return draw_sketch_view(
            self.thing(instance), rng, (self.seed, instance, number, _SKETCH_PIXELS)
        )


@cache
def keypoint_names(category: str) -> tuple[str, ...]:
    """The names of the category's eight keypoints, in the order of their rows."""
    return _drawn(category, (0, 0, 0, _THING)).keypoint_names


def _drawn(category: str, stream: tuple[int, ...]) -> Thing:
    drawing = Drawing(_generator(stream))
    DRAW[category](drawing)
    return drawing.finish(category)


def _generator(stream: tuple[int, ...]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream))
