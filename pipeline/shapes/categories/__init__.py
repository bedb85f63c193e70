"""The object categories: which there are, in which order, and which are kept unseen."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.shapes.categories.animals import cat, elephant, rabbit, snail, turtle
from pipeline.shapes.categories.belongings import guitar, hat, key, shoe, umbrella
from pipeline.shapes.categories.fins_and_wings import bird, butterfly, fish, penguin
from pipeline.shapes.categories.household import bottle, chair, house, lamp, mug, teapot
from pipeline.shapes.categories.nature import apple, cactus, flower, mushroom, tree
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

# Every fourth is unseen, so that any stretch of a world holds both kinds in proportion.
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

DRAW: dict[str, Callable[[Drawing], None]] = {draw.__name__: draw for draw in _ORDER}
"""What draws an instance of each category, in the order in which a world takes turns."""

CATEGORIES: tuple[str, ...] = tuple(DRAW)
UNSEEN: tuple[str, ...] = CATEGORIES[3::4]
"""Categories that no training split contains."""
SEEN: tuple[str, ...] = tuple(name for name in CATEGORIES if name not in UNSEEN)
