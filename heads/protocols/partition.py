"""Choosing by seed: what is chosen depends on names alone, not on their order or the machine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from hashlib import sha256

from pipeline.datasets.base import Label

VAL_SHARE = 0.1
"""Of the training images, where a dataset has no validation part of its own."""


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order that the seed decides."""
    return sorted(names, key=lambda name: (sha256(f"{seed}:{name}".encode()).digest(), name))


def held_back(strata: Mapping[str, Hashable], share: float, seed: int) -> set[str]:
    """About `share` of the names of each stratum, chosen by seed.

    Of two or more at least one is held back, and never all.

    Args:
        strata: the stratum of each name.
    """
    members: dict[Hashable, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    chosen: set[str] = set()
    for names in members.values():
        n = min(max(1, round(share * len(names))), len(names) - 1)
        chosen.update(shuffled(names, seed)[:n])
    return chosen


def groups(labels: Mapping[str, Label]) -> dict[str, str]:
    """The photo that each image shows or was drawn from, else the image itself.

    What is of one photo stays in one part: who has seen one of its sketches has seen it.
    """
    return {image_id: label.source or image_id for image_id, label in labels.items()}


def validation_ids(labels: Mapping[str, Label], seed: int) -> set[str]:
    """A seeded tenth of the images, group by group.

    Evenly over categories, and in each over photos that were drawn, other photos, and sketches of
    no known photo.
    """
    group_of = groups(labels)
    sizes = Counter(group_of.values())
    strata = {
        group: (
            labels[image_id].category,
            labels[group].domain if group in labels else None,
            sizes[group] > 1,
        )
        for image_id, group in group_of.items()
    }
    chosen = held_back(strata, VAL_SHARE, seed)
    return {image_id for image_id, group in group_of.items() if group in chosen}
