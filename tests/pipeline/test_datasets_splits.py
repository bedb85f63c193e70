"""The built-in zero-shot splits."""

from __future__ import annotations

import pytest

from pipeline.datasets.base import normalise_category
from pipeline.datasets.splits import (
    QUICKDRAW_CATEGORIES,
    SKETCHY_CATEGORIES,
    TUBERLIN_CATEGORIES,
    ZERO_SHOT_SPLITS,
    zero_shot_split,
)

COUNTS = {
    "sketchy-104-21": (104, 21, SKETCHY_CATEGORIES),
    "sketchy-100-25": (100, 25, SKETCHY_CATEGORIES),
    "tuberlin-220-30": (220, 30, TUBERLIN_CATEGORIES),
    "quickdraw-80-30": (80, 30, QUICKDRAW_CATEGORIES),
}


def test_the_names():
    assert list(ZERO_SHOT_SPLITS) == list(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_parts(name):
    split = zero_shot_split(name)
    n_seen, n_unseen, categories = COUNTS[name]
    assert split.name == name
    assert (len(split.seen), len(split.unseen)) == (n_seen, n_unseen)
    assert split.seen | split.unseen == categories
    assert not split.seen & split.unseen
    assert all(category == normalise_category(category) for category in categories)
    assert all(split.split_of(category) == "seen" for category in split.seen)
    assert all(split.split_of(category) == "unseen" for category in split.unseen)


@pytest.mark.parametrize(
    ("name", "category", "part"),
    [
        ("sketchy-104-21", "windmill", "unseen"),
        ("sketchy-104-21", "car_(sedan)", "seen"),
        ("sketchy-104-21", "jack-o-lantern", "seen"),
        ("sketchy-104-21", "Hot-air_balloon", "seen"),
        ("sketchy-104-21", "teddy_bear", "seen"),
        ("sketchy-100-25", "teddy_bear", "unseen"),
        ("sketchy-100-25", "wine_bottle", "unseen"),
        ("tuberlin-220-30", "frying-pan", "unseen"),
        ("tuberlin-220-30", "t-shirt", "unseen"),
        ("tuberlin-220-30", "mouse (animal)", "seen"),
        ("tuberlin-220-30", "motorbike", "seen"),
        ("quickdraw-80-30", "fire hydrant", "unseen"),
        ("quickdraw-80-30", "fire_hydrant", "unseen"),
        # Quick, Draw!'s own spelling of five classes, and the split's.
        ("quickdraw-80-30", "teddy-bear", "seen"),
        ("quickdraw-80-30", "hot air balloon", "seen"),
        ("quickdraw-80-30", "The Eiffel Tower", "seen"),
        ("quickdraw-80-30", "crocodile", "seen"),
        ("quickdraw-80-30", "motorbike", "seen"),
        ("quickdraw-80-30", "eiffel tower", "seen"),
        ("quickdraw-80-30", "crocodilian", "seen"),
        ("quickdraw-80-30", "motorcycle", "seen"),
        ("quickdraw-80-30", "The Mona Lisa", None),
        ("sketchy-104-21", "motorbike", None),
    ],
)
def test_any_spelling_finds_its_part(name, category, part):
    assert zero_shot_split(name).split_of(category) == part


def test_the_two_sketchy_lists_differ():
    """The papers' lists share scissors, tree, wheelchair and windmill only."""
    shared = zero_shot_split("sketchy-104-21").unseen & zero_shot_split("sketchy-100-25").unseen
    assert shared == {"scissors", "tree", "wheelchair", "windmill"}


def test_an_unknown_split_lists_the_names():
    with pytest.raises(ValueError, match="choose from sketchy-104-21, sketchy-100-25"):
        zero_shot_split("sketchy")
