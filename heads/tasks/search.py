"""What both retrieval tasks share: sketches with a right photo, and a pooled descriptor."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from configs.train import TripletConfig
from heads.floors import Load, global_hog
from heads.protocols import CategoryRetrieval, FineGrainedProtocol, Score, SearchPart
from heads.protocols.class_splits import join_parts, thin_part
from heads.protocols.partition import shuffled
from heads.tasks.base import (
    Describe,
    Fitted,
    Located,
    Task,
    TaskError,
    in_batches,
    permuted,
    pooled_descriptors,
    unique,
)
from heads.tasks.losses import contrastive_loss, triplet_loss
from pipeline.networks.transfer import to_device


class SearchPair(NamedTuple):
    """A sketch and a photo it should find."""

    sketch: str
    photo: str
    category: str


@dataclass(frozen=True)
class SearchTask(Task[SearchPart, SearchPair]):
    """Finds photos by sketches, by the cosine of pooled descriptors."""

    protocol: CategoryRetrieval | FineGrainedProtocol

    @property
    @abstractmethod
    def triplet(self) -> TripletConfig:
        """The loss's settings."""

    @abstractmethod
    def pairs(self, generator: torch.Generator) -> list[SearchPair]:
        """The training sketches, each with a right photo."""

    @abstractmethod
    def wrong(self, pair: SearchPair, photo: str, category: str) -> bool:
        """Whether a photo of a category is a wrong answer to the pair's sketch."""

    def batches(self, generator: torch.Generator) -> list[list[SearchPair]]:
        pairs = self.pairs(generator)
        if not pairs:
            raise TaskError(
                f"{self.name} by {self.protocol.name}: no training sketch has a photo to find;"
                " add photos of the seen categories"
            )
        together = _category_groups(pairs, self.triplet.same_category, generator)
        return in_batches(together, self.settings.batch_size)

    def remarks(self) -> list[str]:
        """A triplet needs a wrong photo in its batch; where there never is one, the loss is zero
        and nothing is learnt."""
        if self.settings.batch_size == 1:
            return [
                "a batch of one sketch and its photo has no wrong photo, so nothing is learnt; "
                "set train.batch_size to 2 or more"
            ]
        pairs = self.pairs(torch.Generator())
        if not any(self.wrong(pairs[0], pair.photo, pair.category) for pair in pairs):
            what = "category" if self.name == "retrieval" else "photo"
            return [
                f"all training pairs have the same {what}, so no photo is wrong and nothing is "
                "learnt; add others"
            ]
        return []

    def folds(self, n: int, n_images: int) -> list[Self]:
        """Each validates on categories that the others train on, as the test part has other
        categories than the training part."""
        seen = join_parts(self.parts.train, self.parts.val)
        categories = shuffled(seen.categories, self.settings.seed)
        n = min(n, len(categories))
        if n < 2:
            return []
        thinned = thin_part(seen, max(1, n_images // len(categories)), self.settings.seed)
        folds = []
        for fold in range(n):
            held = set(categories[fold::n])
            train = thinned.of_categories(set(categories) - held)
            val = thinned.of_categories(held)
            if train.queries and train.gallery and val.queries and val.gallery:
                folds.append(replace(self, parts=replace(self.parts, train=train, val=val)))
        return folds

    def images(self, batch: Sequence[SearchPair]) -> tuple[str, ...]:
        return unique([i for pair in batch for i in (pair.sketch, pair.photo)])

    def loss(self, batch: Sequence[SearchPair], found: Located, layers: nn.Module) -> Tensor:
        category_of = {pair.photo: pair.category for pair in batch}
        photos = list(category_of)
        row_of = {photo: row for row, photo in enumerate(photos)}
        sketches = found.corrected([pair.sketch for pair in batch])
        wrong = [
            [self.wrong(pair, photo, category_of[photo]) for photo in photos] for pair in batch
        ]
        negative = to_device(torch.tensor(wrong), sketches.device)
        if self.triplet.loss == "contrastive":
            return contrastive_loss(
                sketches, found.corrected(photos), ~negative, self.triplet.temperature
            )
        return triplet_loss(
            sketches,
            found.corrected(photos),
            torch.tensor([row_of[pair.photo] for pair in batch], device=sketches.device),
            negative,
            self.triplet.margin,
            self.triplet.negatives,
        )

    def evaluate(
        self, part: SearchPart, describe: Describe, layers: nn.Module | None, fitted: Fitted
    ) -> Score:
        queries = pooled_descriptors(describe, part.queries)
        gallery = pooled_descriptors(describe, part.gallery)
        return self.protocol.score(part, queries, gallery)

    def floors(self, load: Load) -> dict[str, Score]:
        part = self.parts.test
        queries, gallery = global_hog(load, part.queries), global_hog(load, part.gallery)
        return {"global HOG": self.protocol.score(part, queries, gallery)}


def _category_groups(
    pairs: Sequence[SearchPair], size: int, generator: torch.Generator
) -> list[SearchPair]:
    """The pairs in random order, but about `size` of a category in a row."""
    if size == 1:
        return permuted(pairs, generator)
    by_category: dict[str, list[SearchPair]] = defaultdict(list)
    for pair in permuted(pairs, generator):
        by_category[pair.category].append(pair)
    groups = [group for members in by_category.values() for group in in_batches(members, size)]
    return [pair for group in permuted(groups, generator) for pair in group]
