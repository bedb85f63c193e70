"""Category-level zero-shot retrieval: every photo of the sketch's category is right."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import torch

from configs.train import TripletConfig
from heads.protocols import CategoryRetrieval
from heads.tasks.search import SearchPair, SearchTask


@dataclass(frozen=True)
class Retrieval(SearchTask):
    """Each epoch a sketch is paired with a photo of its category drawn anew."""

    name = "retrieval"
    monitor = headline = "map@all"

    protocol: CategoryRetrieval

    @property
    def triplet(self) -> TripletConfig:
        return self.settings.retrieval

    def pairs(self, generator: torch.Generator) -> list[SearchPair]:
        part = self.parts.train
        pairs = []
        for sketch, category in zip(part.queries, part.query_categories, strict=True):
            photos = self._photos.get(category)
            if photos:
                chosen = int(torch.randint(len(photos), (), generator=generator))
                pairs.append(SearchPair(sketch, photos[chosen], category))
        return pairs

    def wrong(self, pair: SearchPair, photo: str, category: str) -> bool:
        return category != pair.category

    @cached_property
    def _photos(self) -> dict[str, list[str]]:
        photos: dict[str, list[str]] = defaultdict(list)
        part = self.parts.train
        for photo, category in zip(part.gallery, part.gallery_categories, strict=True):
            photos[category].append(photo)
        return dict(photos)
