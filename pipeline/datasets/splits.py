"""Which classes a zero-shot retrieval model has never seen: the four splits in use, by name.

Names are normalised (lower case, spaces for `-` and `_`), so any dataset's spelling compares equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.datasets.base import normalise_category


@dataclass(frozen=True)
class ZeroShotSplit:
    """A dataset's categories in two parts. Report results under `name`."""

    name: str
    seen: frozenset[str]
    unseen: frozenset[str]
    spellings: Mapping[str, str] = field(default_factory=dict)
    """Other names the dataset's files give to categories of the split."""

    def split_of(self, category: str) -> Literal["seen", "unseen"] | None:
        """The part a category belongs to, in any spelling; None where the split leaves it out."""
        name = normalise_category(category)
        name = self.spellings.get(name, name)
        if name in self.unseen:
            return "unseen"
        return "seen" if name in self.seen else None


def zero_shot_split(name: str) -> ZeroShotSplit:
    """The built-in split called `name`. Raises `ValueError` that lists the names."""
    if name not in ZERO_SHOT_SPLITS:
        raise ValueError(f"no zero-shot split {name!r}; choose from {', '.join(ZERO_SHOT_SPLITS)}")
    return ZERO_SHOT_SPLITS[name]


def _names(text: str) -> frozenset[str]:
    return frozenset(normalise_category(name) for name in text.split(","))


SKETCHY_CATEGORIES = _names(
    """
    airplane, alarm clock, ant, ape, apple, armor, axe, banana, bat, bear, bee, beetle, bell,
    bench, bicycle, blimp, bread, butterfly, cabin, camel, candle, cannon, car (sedan), castle,
    cat, chair, chicken, church, couch, cow, crab, crocodilian, cup, deer, dog, dolphin, door,
    duck, elephant, eyeglasses, fan, fish, flower, frog, geyser, giraffe, guitar, hamburger,
    hammer, harp, hat, hedgehog, helicopter, hermit crab, horse, hot air balloon, hotdog,
    hourglass, jack o lantern, jellyfish, kangaroo, knife, lion, lizard, lobster, motorcycle,
    mouse, mushroom, owl, parrot, pear, penguin, piano, pickup truck, pig, pineapple, pistol,
    pizza, pretzel, rabbit, raccoon, racket, ray, rhinoceros, rifle, rocket, sailboat, saw,
    saxophone, scissors, scorpion, sea turtle, seagull, seal, shark, sheep, shoe, skyscraper,
    snail, snake, songbird, spider, spoon, squirrel, starfish, strawberry, swan, sword, table,
    tank, teapot, teddy bear, tiger, tree, trumpet, turtle, umbrella, violin, volcano, wading
    bird, wheelchair, windmill, window, wine bottle, zebra
    """
)
"""The 125 of the Sketchy Database."""

TUBERLIN_CATEGORIES = _names(
    """
    airplane, alarm clock, angel, ant, apple, arm, armchair, ashtray, axe, backpack, banana,
    barn, baseball bat, basket, bathtub, bear (animal), bed, bee, beer mug, bell, bench,
    bicycle, binoculars, blimp, book, bookshelf, boomerang, bottle opener, bowl, brain, bread,
    bridge, bulldozer, bus, bush, butterfly, cabinet, cactus, cake, calculator, camel, camera,
    candle, cannon, canoe, car (sedan), carrot, castle, cat, cell phone, chair, chandelier,
    church, cigarette, cloud, comb, computer monitor, computer mouse, couch, cow, crab, crane
    (machine), crocodile, crown, cup, diamond, dog, dolphin, donut, door, door handle, dragon,
    duck, ear, elephant, envelope, eye, eyeglasses, face, fan, feather, fire hydrant, fish,
    flashlight, floor lamp, flower with stem, flying bird, flying saucer, foot, fork, frog,
    frying pan, giraffe, grapes, grenade, guitar, hamburger, hammer, hand, harp, hat, head, head
    phones, hedgehog, helicopter, helmet, horse, hot air balloon, hot dog, hourglass, house,
    human skeleton, ice cream cone, ipod, kangaroo, key, keyboard, knife, ladder, laptop, leaf,
    lightbulb, lighter, lion, lobster, loudspeaker, mailbox, megaphone, mermaid, microphone,
    microscope, monkey, moon, mosquito, motorbike, mouse (animal), mouth, mug, mushroom, nose,
    octopus, owl, palm tree, panda, paper clip, parachute, parking meter, parrot, pear, pen,
    penguin, person sitting, person walking, piano, pickup truck, pig, pigeon, pineapple, pipe
    (for smoking), pizza, potted plant, power outlet, present, pretzel, pumpkin, purse, rabbit,
    race car, radio, rainbow, revolver, rifle, rollerblades, rooster, sailboat, santa claus,
    satellite, satellite dish, saxophone, scissors, scorpion, screwdriver, sea turtle, seagull,
    shark, sheep, ship, shoe, shovel, skateboard, skull, skyscraper, snail, snake, snowboard,
    snowman, socks, space shuttle, speed boat, spider, sponge bob, spoon, squirrel, standing
    bird, stapler, strawberry, streetlight, submarine, suitcase, sun, suv, swan, sword, syringe,
    t shirt, table, tablelamp, teacup, teapot, teddy bear, telephone, tennis racket, tent,
    tiger, tire, toilet, tomato, tooth, toothbrush, tractor, traffic light, train, tree,
    trombone, trousers, truck, trumpet, tv, umbrella, van, vase, violin, walkie talkie, wheel,
    wheelbarrow, windmill, wine bottle, wineglass, wrist watch, zebra
    """
)
"""The 250 of TU-Berlin."""

QUICKDRAW_CATEGORIES = _names(
    """
    airplane, alarm clock, ant, apple, axe, banana, bandage, bat, beach, bear, bee, bench,
    bicycle, bread, bus, butterfly, cactus, cake, camel, campfire, candle, car, castle, cat,
    chair, chandelier, church, couch, cow, crab, crocodilian, cruise ship, cup, dog, dolphin,
    door, duck, eiffel tower, elephant, eyeglasses, fan, feather, fire hydrant, fish, flower,
    frog, giraffe, guitar, hamburger, hammer, hat, hedgehog, helicopter, horse, hot air balloon,
    hurricane, kangaroo, knife, lighthouse, lion, lobster, map, megaphone, monkey, moon,
    motorcycle, mountain, mouse, mushroom, owl, palm tree, parrot, penguin, pickup truck, pig,
    pineapple, pizza, rabbit, raccoon, rhinoceros, rifle, sailboat, saw, saxophone, scissors,
    scorpion, sea turtle, shark, sheep, shoe, sink, skateboard, skyscraper, snail, snake, soccer
    ball, spider, spoon, squirrel, swan, teapot, teddy bear, tiger, train, tree, umbrella,
    violin, windmill, wine bottle, zebra
    """
)
"""The 110 that QuickDraw-Extended takes from Quick, Draw! (Doodle to Search)."""

_SKETCHY_21 = _names(
    """
    bat, cabin, cow, dolphin, door, giraffe, helicopter, mouse, pear, raccoon, rhinoceros, saw,
    scissors, seagull, skyscraper, songbird, sword, tree, wheelchair, windmill, window
    """
)
"""Yelamarthi et al."""

_SKETCHY_25 = _names(
    """
    airplane, bell, butterfly, camel, chicken, cup, deer, harp, horse, parrot, pineapple, ray,
    rifle, scissors, snail, squirrel, swan, tank, teddy bear, tree, umbrella, volcano,
    wheelchair, windmill, wine bottle
    """
)
"""SAKE, ZSE-SBIR; SEM-PCYC drew another 25, which shares 4 classes with this."""

_TUBERLIN_30 = _names(
    """
    ant, banana, bottle opener, brain, bread, bridge, bus, canoe, fan, frying pan, horse, hot
    air balloon, laptop, lighter, parachute, penguin, pizza, rollerblades, shoe, snowboard,
    space shuttle, streetlight, suitcase, t shirt, table, teacup, telephone, tractor, trombone,
    windmill
    """
)
"""SAKE, ZSE-SBIR."""

_QUICKDRAW_30 = _names(
    """
    banana, bat, beach, bread, cactus, cake, campfire, cow, dolphin, door, fan, feather, fire
    hydrant, frog, giraffe, hamburger, helicopter, megaphone, mouse, palm tree, raccoon,
    rhinoceros, saw, scissors, shark, skyscraper, tiger, tree, windmill, zebra
    """
)
"""Doodle to Search."""

_QUICKDRAW_SPELLINGS = {
    "the eiffel tower": "eiffel tower",
    "crocodile": "crocodilian",
    "motorbike": "motorcycle",
}
"""Quick, Draw! itself names these otherwise; `teddy-bear` and `hot air balloon` normalise alike."""


def _split(
    name: str,
    categories: frozenset[str],
    unseen: frozenset[str],
    spellings: Mapping[str, str] | None = None,
) -> ZeroShotSplit:
    return ZeroShotSplit(name, categories - unseen, unseen, spellings or {})


ZERO_SHOT_SPLITS: Mapping[str, ZeroShotSplit] = {
    split.name: split
    for split in (
        _split("sketchy-104-21", SKETCHY_CATEGORIES, _SKETCHY_21),
        _split("sketchy-100-25", SKETCHY_CATEGORIES, _SKETCHY_25),
        _split("tuberlin-220-30", TUBERLIN_CATEGORIES, _TUBERLIN_30),
        _split("quickdraw-80-30", QUICKDRAW_CATEGORIES, _QUICKDRAW_30, _QUICKDRAW_SPELLINGS),
    )
}
