"""Fine-grained zero-shot retrieval: only the photo that a sketch was drawn from is right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch

from configs.train import TripletConfig
from heads.protocols import FineGrainedProtocol, Score, SearchPart
from heads.tasks.search import SearchPair, SearchTask


@dataclass(frozen=True)
class FineGrained(SearchTask):
    """Photos of the same category come together in a batch: they are the hard ones."""

    name = "fine_grained"
    monitor = "acc@1"
    headline = "acc@5"  # A single rank of a few hundred sketches is mostly noise.

    protocol: FineGrainedProtocol

    @property
    def triplet(self) -> TripletConfig:
        return self.settings.fine_grained

    def pairs(self, generator: torch.Generator) -> list[SearchPair]:
        part = self.parts.train
        known = zip(part.queries, part.sources, part.query_categories, strict=True)
        return [
            SearchPair(sketch, photo, category)
            for sketch, photo, category in known
            if photo is not None
        ]

    def folds(self, n: int, n_images: int) -> list[Self]:
        """As of all searches, without sketches whose own photo was left out."""
        return [
            replace(fold, parts=replace(fold.parts, val=_with_sources(fold.parts.val)))
            for fold in super().folds(n, n_images)
        ]

    @property
    def rating_name(self) -> str:
        """The mean of the protocol's metrics."""
        return "mean of acc@1 and acc@5"

    def rating(self, score: Score) -> float:
        """The mean over both ranks: acc@1 of a few hundred sketches is mostly noise."""
        return sum(score.metrics.values()) / len(score.metrics)

    def wrong(self, pair: SearchPair, photo: str, category: str) -> bool:
        return photo != pair.photo


def _with_sources(part: SearchPart) -> SearchPart:
    return part.where([source is not None for source in part.sources], [True] * len(part.gallery))
