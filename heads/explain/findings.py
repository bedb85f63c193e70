"""Everything that a report shows of a run beside its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from heads.explain.correspondence import find_matches
from heads.explain.opened import Explained, ExplainError
from heads.explain.recognition import Confusion, find_confusion, find_guesses
from heads.explain.search import find_rankings
from heads.explain.segmentation import find_masks
from heads.plots.records import Guess, Mask, Match, Ranking
from pipeline.datasets.base import DatasetError
from pipeline.pictures.images import ImageError

N_SHOWN = 6


@dataclass(frozen=True)
class Findings:
    """Examples of the test part by kind, the run's own kind alone filled, and its weights."""

    matches: tuple[Match, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    masks: tuple[Mask, ...] = ()
    guesses: tuple[Guess, ...] = ()
    confusion: Confusion | None = None
    mixing: Mapping[str, float] = field(default_factory=dict)
    """Each array's share in the descriptor; empty for a head without such weights."""
    missing: str | None = None
    """Why there are no pictures."""


def find(explained: Explained, n: int = N_SHOWN) -> Findings:
    """What a run says about its test part; pictures that cannot be read are no error."""
    name = explained.experiment.task.name
    try:
        mixing = explained.mixing()
    except ExplainError:
        mixing = {}
    confusion = find_confusion(explained) if name == "recognition" else None
    known = Findings(confusion=confusion, mixing=mixing)
    kind, finder = _FINDERS[name]
    try:
        examples: Any = {kind: tuple(finder(explained, n))}
        return replace(known, **examples)
    except (OSError, DatasetError, ImageError) as error:
        return replace(known, missing=" ".join(str(error).split()))


_FINDERS: Mapping[str, tuple[str, Callable[[Explained, int], Sequence[object]]]] = {
    "correspondence": ("matches", find_matches),
    "retrieval": ("rankings", find_rankings),
    "fine_grained": ("rankings", find_rankings),
    "segmentation": ("masks", find_masks),
    "recognition": ("guesses", find_guesses),
}
"""By task: the field of the findings, and who fills it."""
