"""Fine-grained zero-shot retrieval: only the photo that a sketch was drawn from is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.train import TripletConfig
from heads.protocols import FineGrainedProtocol
from heads.tasks.search import SearchPair, SearchTask


@dataclass(frozen=True)
class FineGrained(SearchTask):
    """Photos of the same category come together in a batch: they are the hard ones."""

    name = "fine_grained"
    monitor = "acc@1"

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

    def wrong(self, pair: SearchPair, photo: str, category: str) -> bool:
        return photo != pair.photo
