"""The object categories: which there are, in which order, and which are kept unseen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pipeline.shapes.categories.animals import cat, elephant, rabbit, snail, turtle
from pipeline.shapes.categories.belongings import guitar, hat, key, shoe, umbrella
from pipeline.shapes.categories.fins_and_wings import bird, butterfly, fish, penguin
from pipeline.shapes.categories.household import bottle, chair, house, lamp, mug, teapot
from pipeline.shapes.categories.nature import apple, cactus, flower, mushroom, tree
from pipeline.shapes.categories.second_living import crab, giraffe, octopus, pineapple, snowman
from pipeline.shapes.categories.second_made import anchor, castle, clock, scissors, windmill
from pipeline.shapes.categories.vehicles import (
    airplane,
    bicycle,
    car,
    helicopter,
    rocket,
    sailboat,
    truck,
)
from pipeline.shapes.drawing import Drawing

UNSEEN_EVERY = 4
"""Every fourth is unseen, so that any stretch of a world holds both kinds in proportion."""

_ORDER: tuple[Callable[[Drawing], None], ...] = (
    house, cat, bicycle, teapot,
    mushroom, car, bird, rabbit,
    umbrella, fish, airplane, truck,
    apple, guitar, snail, turtle,
    sailboat, hat, butterfly, cactus,
    flower, mug, elephant, helicopter,
    rocket, lamp, tree, shoe,
    chair, bottle, key, penguin,
)  # fmt: skip

CATEGORIES: tuple[str, ...] = tuple(draw.__name__ for draw in _ORDER)
"""The categories of the default world, in the order in which it takes turns."""
UNSEEN: tuple[str, ...] = CATEGORIES[UNSEEN_EVERY - 1 :: UNSEEN_EVERY]
"""Categories that no training split contains."""
SEEN: tuple[str, ...] = tuple(name for name in CATEGORIES if name not in UNSEEN)

# Nothing was trained or tuned on these: choose nothing by numbers on them.
_SECOND: tuple[Callable[[Drawing], None], ...] = (
    windmill, crab, scissors, giraffe, clock, pineapple, anchor, octopus, castle, snowman,
)  # fmt: skip

UnseenSet = Literal["first", "second"]
UNSEEN_SETS: Mapping[UnseenSet, tuple[str, ...]] = {
    "first": UNSEEN,
    "second": tuple(draw.__name__ for draw in _SECOND),
}
"""What may stand in the places of the unseen categories; `first` is the default world's."""

DRAW: Mapping[str, Callable[[Drawing], None]] = {
    draw.__name__: draw for draw in (*_ORDER, *_SECOND)
}
"""What draws an instance of each category."""
