"""Which examples are shown."""

from __future__ import annotations

from collections import Counter

import pytest

from heads.explain import ExplainError
from heads.explain.choosing import best_to_worst, named, spread

ITEMS = [f"{category}{i}" for category in "dacb" for i in range({"a": 1}.get(category, 5))]


def category(item: str) -> str:
    return item[0]


@pytest.mark.parametrize("n", range(1, 18))
def test_categories_share_the_places(n: int) -> None:
    chosen = spread(ITEMS, category, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(ITEMS))
    counts = Counter(map(category, chosen))
    # Nobody has two more than another, unless that one has no more.
    for name, count in counts.items():
        for other in "abcd":
            assert count <= counts[other] + 1 or counts[other] == (1 if other == "a" else 5), name
    assert spread(ITEMS, category, n) == chosen


def test_few_places_are_far_apart() -> None:
    assert spread(ITEMS, category, 2) == ["a0", "c0"]
    assert spread([], category, 3) == []


def test_the_best_and_the_worst_are_shown() -> None:
    items, scores = list("abcdefg"), [3.0, 0.0, 6.0, 1.0, 5.0, 2.0, 4.0]
    assert best_to_worst(items, scores, 3) == ["c", "a", "b"]
    assert best_to_worst(items, scores, 99) == ["c", "e", "g", "a", "f", "d", "b"]
    assert best_to_worst(items, scores, 1) == ["a"]
    assert best_to_worst([], [], 4) == []


def test_named_items_are_found_and_strangers_refused() -> None:
    pairs = [("s1", "p1"), ("s2", "p1"), ("s3", "p2")]
    assert named(pairs, lambda pair: pair, ["p1"]) == pairs[:2]
    assert named(pairs, lambda pair: pair, ["s3", "s1"]) == [pairs[0], pairs[2]]
    with pytest.raises(ExplainError, match=r"q9: not in the run's test part; .* such as p1"):
        named(pairs, lambda pair: pair, ["p1", "q9"])
