"""Sketch-based image retrieval: of the same category, or of the very photo that was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from heads.metrics.ranking import rank
from heads.metrics.retrieval import (
    APVariant,
    PrecisionVariant,
    category_scores,
    depth,
    instance_positions,
    instance_scores,
)
from heads.protocols.base import Change, Protocol, Score, Units
from heads.protocols.chance import expected_ap, expected_precision
from heads.protocols.class_splits import ClassSplitProtocol, SearchPart, search_part
from heads.protocols.peers import PEER_LISTS, counting_differences
from pipeline.datasets.base import Annotations, Label

_CUT_AT_MINIMUM = (
    "p-min cuts the ranking at min(K, relevant photos); version 1 cut it at K and divided by the "
    "smaller number"
)


@dataclass(frozen=True)
class CategoryRetrieval(Protocol[SearchPart]):
    """Category-level retrieval: every photo of the sketch's category is relevant."""

    task = "retrieval"
    metrics = ("map@all", "map@200", "p@100", "p@200")

    ap: APVariant = "ap-hits"
    precision: PrecisionVariant = "p-k"

    @property
    def changes(self) -> tuple[Change, ...]:
        if self.precision == "p-k":
            return ()
        return (Change(_CUT_AT_MINIMUM, tuple(m for m in self.metrics if m.startswith("p@"))),)

    def score(self, part: SearchPart, queries: Tensor, gallery: Tensor) -> Score:
        """Scores of descriptors [Q, D] and [G, D], in the order of the part."""
        scores = category_scores(
            rank(queries, gallery, depth(self.metrics)),
            part.query_labels,
            part.gallery_labels,
            self.metrics,
            self.ap,
            self.precision,
        )
        lost = scores.n_without_relevant
        notes = (f"{lost} queries without a relevant photo count as 0",) if lost else ()
        units = _units(part, scores.values)
        return Score(scores.metrics, scores.n_queries, notes=notes, units=units)

    def chance(self, part: SearchPart) -> dict[str, float]:
        """Of a random ranking, exactly; `ap-voc` has no formula."""
        n_relevant = _photos_in_category(part)
        n_gallery = len(part.gallery)
        levels = {
            f"p@{k}": expected_precision(n_relevant, n_gallery, k, self.precision)
            for k in (100, 200)
        }
        if self.ap == "ap-hits":
            levels["map@all"] = expected_ap(n_relevant, n_gallery)
            levels["map@200"] = expected_ap(n_relevant, n_gallery, 200)
        return {name: float(levels[name].mean()) for name in self.metrics if name in levels}

    def differences(self, part: SearchPart) -> list[str]:
        n_without_relevant = int((_photos_in_category(part) == 0).sum())
        return counting_differences(self.ap, self.precision, n_without_relevant)


@dataclass(frozen=True)
class RetrievalProtocol(CategoryRetrieval, ClassSplitProtocol[SearchPart]):
    """Category-level retrieval over a split of the categories."""

    @property
    def variants(self) -> dict[str, str]:
        return {**super().variants, "ap": self.ap, "precision": self.precision}

    def differences(self, part: SearchPart) -> list[str]:
        lists = PEER_LISTS.get(self.name)
        if lists is None:
            return []
        lines = lists.differences(len(part.gallery), len(part.queries))
        return [*lines, *super().differences(part)]

    def _usable(
        self, labels: Mapping[str, Label], annotations: Annotations, notes: list[str]
    ) -> dict[str, Label]:
        return dict(labels)

    def _part(self, labels: Mapping[str, Label], annotations: Annotations) -> SearchPart:
        return search_part(labels)


@dataclass(frozen=True)
class FineGrainedProtocol(ClassSplitProtocol[SearchPart]):
    """Fine-grained zero-shot retrieval: the sketch's own photo among those of its category."""

    task = "fine_grained"
    metrics = ("acc@1", "acc@5")

    def score(self, part: SearchPart, queries: Tensor, gallery: Tensor) -> Score:
        """Scores of descriptors [Q, D] and [G, D], in the order of the part."""
        found = instance_positions(
            queries,
            gallery,
            part.query_labels.to(queries.device),
            part.gallery_labels.to(queries.device),
            part.source_rows.to(queries.device),
        )
        labels = part.query_labels.to(found.device)
        scores = instance_scores(found, labels, self.metrics)
        beside = {f"{name} over categories": v for name, v in scores.over_categories.items()}
        beside["mean reciprocal rank"] = scores.reciprocal_rank
        units = _units(part, scores.values)
        return Score(
            scores.metrics, scores.n_queries, beside, mean_rank=scores.mean_rank, units=units
        )

    def chance(self, part: SearchPart) -> dict[str, float]:
        """q / n in a category of n photos, mean over sketches."""
        n_photos = _photos_in_category(part)
        return {
            f"acc@{q}": float(np.minimum(q / np.maximum(n_photos, 1), 1).mean()) for q in (1, 5)
        }

    def _usable(
        self, labels: Mapping[str, Label], annotations: Annotations, notes: list[str]
    ) -> dict[str, Label]:
        """Every photo, and the sketches whose photo is there and of the same category."""
        usable = {
            name: label
            for name, label in labels.items()
            if label.domain == "photo" or _has_its_photo(label, labels)
        }
        if not any(label.domain == "sketch" for label in usable.values()):
            raise self._error(
                "no sketch's own photo is known; Sketchy ties them by name, as in"
                " sketch/<class>/<photo>-1.png"
            )
        n_lost = len(labels) - len(usable)
        if n_lost:
            notes.append(f"{n_lost} sketches whose own photo is not there left out")
        return usable

    def _part(self, labels: Mapping[str, Label], annotations: Annotations) -> SearchPart:
        return search_part(labels)


def _units(part: SearchPart, values: Tensor) -> Units:
    """The queries with their scores [Q, M]."""
    return Units(values.cpu().numpy(), part.query_labels.numpy(), part.categories)


def _has_its_photo(label: Label, labels: Mapping[str, Label]) -> bool:
    photo = labels.get(label.source) if label.source else None
    return photo is not None and (photo.domain, photo.category) == ("photo", label.category)


def _photos_in_category(part: SearchPart) -> np.ndarray:
    """How many photos of each query's category the gallery holds, int64 [Q]."""
    sizes = part.gallery_labels.bincount(minlength=len(part.categories))
    return sizes[part.query_labels].numpy()
