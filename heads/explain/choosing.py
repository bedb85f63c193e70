"""Which examples are shown: spread over the categories, and neither the best nor the worst only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from heads.explain.opened import ExplainError

CANDIDATES = 8
"""So many times as many examples are looked at as are shown."""

T = TypeVar("T")


def spread(items: Sequence[T], category: Callable[[T], str | None], n: int) -> list[T]:
    """At most `n` items, as equally many of each category as can be.

    Where there are more categories than places, categories at equal distances in their order.
    """
    seen: Counter[str | None] = Counter()
    rounds: dict[int, list[T]] = {}
    for item in items:
        rounds.setdefault(seen[category(item)], []).append(item)
        seen[category(item)] += 1
    chosen: list[T] = []
    for members in rounds.values():
        members.sort(key=lambda item: category(item) or "")
        chosen += evenly(members, n - len(chosen))
    return chosen


def evenly(items: Sequence[T], n: int) -> list[T]:
    """At most `n` items at equal distances, the first among them."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def best_to_worst(items: Sequence[T], scores: Sequence[float], n: int) -> list[T]:
    """`n` items at equal distances in the order of their scores, the best and the worst among
    them; all where there are fewer, the middle one where one is asked for."""
    order = sorted(range(len(items)), key=lambda i: -scores[i])
    n = min(n, len(order))
    if n == 1:
        return [items[order[len(order) // 2]]]
    return [items[order[i * (len(order) - 1) // (n - 1)]] for i in range(n)]


def named(items: Sequence[T], names: Callable[[T], Sequence[str]], ids: Sequence[str]) -> list[T]:
    """The items that hold one of the ids. Raises ExplainError for an id that none holds."""
    known = {name for item in items for name in names(item)}
    for image_id in ids:
        if image_id not in known:
            raise ExplainError(
                f"{image_id}: not in the run's test part; give an id of it, such as "
                f"{min(known, default='none')}"
            )
    wanted = set(ids)
    return [item for item in items if not wanted.isdisjoint(names(item))]
