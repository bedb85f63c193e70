"""Protocols that test on categories no training has seen: which sketches search which photos."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import compress
from typing import TypeVar

import torch
from torch import Tensor

from heads.protocols.base import Images, Parts, Protocol, some
from heads.protocols.partition import shuffled, validation_ids
from pipeline.datasets.base import Annotations, Domain, Label, normalise_category
from pipeline.datasets.splits import ZeroShotSplit


@dataclass(frozen=True)
class SearchPart:
    """Sketches that search a gallery of photos. Categories are normalised names."""

    queries: tuple[str, ...]
    query_categories: tuple[str, ...]
    sources: tuple[str | None, ...]
    """The photo of the gallery that each query was drawn from, where known."""
    gallery: tuple[str, ...]
    gallery_categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.queries + self.gallery))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Those of the queries and the gallery, sorted; labels count from 0 in this order."""
        return tuple(sorted({*self.query_categories, *self.gallery_categories}))

    @cached_property
    def query_labels(self) -> Tensor:
        """int64 [Q]."""
        return self._labels(self.query_categories)

    @cached_property
    def gallery_labels(self) -> Tensor:
        """int64 [G]."""
        return self._labels(self.gallery_categories)

    @cached_property
    def source_rows(self) -> Tensor:
        """The row of the gallery that each query was drawn from, int64 [Q]; -1 where unknown."""
        row_of = {photo: row for row, photo in enumerate(self.gallery)}
        rows = [-1 if source is None else row_of[source] for source in self.sources]
        return torch.tensor(rows, dtype=torch.int64)

    def of_categories(self, categories: Collection[str]) -> SearchPart:
        """The queries and photos of some categories."""
        return self.where(
            [category in categories for category in self.query_categories],
            [category in categories for category in self.gallery_categories],
        )

    def where(self, queries: Sequence[bool], gallery: Sequence[bool]) -> SearchPart:
        """Some of the queries and some of the gallery; a source that is left out is unknown."""
        photos = tuple(compress(self.gallery, gallery))
        there = set(photos)
        return SearchPart(
            tuple(compress(self.queries, queries)),
            tuple(compress(self.query_categories, queries)),
            tuple(s if s in there else None for s in compress(self.sources, queries)),
            photos,
            tuple(compress(self.gallery_categories, gallery)),
        )

    def _labels(self, categories: tuple[str, ...]) -> Tensor:
        label_of = {category: label for label, category in enumerate(self.categories)}
        return torch.tensor([label_of[name] for name in categories], dtype=torch.int64)


def join_parts(one: SearchPart, other: SearchPart) -> SearchPart:
    """The queries and photos of both."""
    return SearchPart(
        *(getattr(one, field.name) + getattr(other, field.name) for field in fields(SearchPart))
    )


def thin_part(part: SearchPart, n_images: int, seed: int) -> SearchPart:
    """About `n_images` images of each category, half of them photos, chosen by seed; queries that
    were drawn from one of these photos come first."""
    n = max(1, n_images // 2)
    photos = _first_of_each(part.gallery, part.gallery_categories, n, seed, ())
    drawn = {
        query for query, source in zip(part.queries, part.sources, strict=True) if source in photos
    }
    queries = _first_of_each(part.queries, part.query_categories, n, seed, drawn)
    return part.where([q in queries for q in part.queries], [p in photos for p in part.gallery])


def _first_of_each(
    ids: Sequence[str], categories: Sequence[str], n: int, seed: int, preferred: Collection[str]
) -> set[str]:
    members: dict[str, list[str]] = defaultdict(list)
    for image_id, category in zip(ids, categories, strict=True):
        members[category].append(image_id)
    chosen: set[str] = set()
    for names in members.values():
        ordered = shuffled(names, seed)
        chosen.update(sorted(ordered, key=lambda name: name not in preferred)[:n])
    return chosen


@dataclass(frozen=True)
class HeldOut:
    """A split for data that no published split fits: some of its own categories are held apart.

    Those `listed`, or else `n` chosen by `seed` among the categories with sketches and photos.
    """

    n: int
    seed: int = 0
    listed: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        return "listed" if self.listed else f"seed {self.seed}"

    def split(self, name: str, categories: Collection[str]) -> ZeroShotSplit:
        """The split of the categories (normalised)."""
        if self.listed:
            unseen = {normalise_category(category) for category in self.listed}
        else:
            unseen = set(shuffled(categories, self.seed)[: self.n])
        return ZeroShotSplit(name, frozenset(set(categories) - unseen), frozenset(unseen))


SearchPartT = TypeVar("SearchPartT", bound=SearchPart)


@dataclass(frozen=True)
class ClassSplitProtocol(Protocol[SearchPartT]):
    """Trains on seen categories and tests on every usable image of the unseen ones.

    Validation looks at images of seen categories: those the dataset itself calls `val`, or a
    seeded tenth of the photos with their sketches. Seen images that the dataset calls `test` are
    left out.
    """

    split: ZeroShotSplit | HeldOut
    seed: int = 0
    """Of the validation images, where the dataset has none of its own."""

    @property
    def variants(self) -> dict[str, str]:
        return {"unseen": self.split.origin} if isinstance(self.split, HeldOut) else {}

    def apply(self, annotations: Annotations, images: Images) -> Parts[SearchPartT]:
        notes: list[str] = []
        labels = self._labels(annotations, images)
        usable = self._usable(labels, annotations, notes)
        found = {
            domain: {
                label.category
                for label in usable.values()
                if label.domain == domain and label.category
            }
            for domain in ("sketch", "photo")
        }
        both = found["sketch"] & found["photo"]
        split = self._resolved(both)
        if isinstance(self.split, HeldOut):
            notes.append(f"unseen: {', '.join(sorted(split.unseen))}")
        unseen = both & split.unseen
        if not unseen:
            raise self._error(
                f"none of its {len(split.unseen)} unseen categories has sketches and photos here"
                f" (categories that have: {some(list(both)) or 'none'});"
                " held-out-<n> holds apart some of your own"
            )
        if len(unseen) < len(split.unseen):
            missing = some(list(split.unseen - unseen))
            notes.append(
                f"only {len(unseen)} of {len(split.unseen)} unseen categories: no {missing}"
            )
        n_alone = sum(
            label.domain == "sketch" and label.category in split.unseen - found["photo"]
            for label in usable.values()
        )
        if n_alone:
            notes.append(f"{n_alone} sketches of unseen categories without photos left out")
        test = {
            image_id: label
            for image_id, label in usable.items()
            if label.category in split.unseen
            and (label.domain == "photo" or label.category in unseen)
        }
        train, val = self._seen(usable, split)
        if not train:
            notes.append("no training images: none of a seen category that is not for testing")
        n_outside = len({c for c in both if split.split_of(c) is None})
        if n_outside:
            notes.append(f"{n_outside} categories that are not of {self.name} left out")
        complete = len(unseen) == len(split.unseen) and not isinstance(self.split, HeldOut)
        return Parts(
            self._part(train, annotations),
            self._part(val, annotations),
            self._part(test, annotations),
            tuple(notes),
            complete,
        )

    @abstractmethod
    def _usable(
        self, labels: Mapping[str, Label], annotations: Annotations, notes: list[str]
    ) -> dict[str, Label]:
        """The images the task can use; notes why others are left out. Raises `ProtocolError`."""

    @abstractmethod
    def _part(self, labels: Mapping[str, Label], annotations: Annotations) -> SearchPartT:
        """The part of these images."""

    def _labels(self, annotations: Annotations, images: Images) -> dict[str, Label]:
        """Sketches and photos with a category, by id, in the spelling of the split."""
        spellings = {} if isinstance(self.split, HeldOut) else self.split.spellings
        labels = {}
        for image_id in sorted(images):
            label = annotations.labels.get(image_id)
            if label is None or label.category is None or label.domain is None:
                continue
            name = normalise_category(label.category)
            source = label.source if label.source in images else None
            labels[image_id] = Label(spellings.get(name, name), label.domain, source, label.split)
        domains: tuple[Domain, ...] = ("sketch", "photo")
        for domain in domains:
            if not any(label.domain == domain for label in labels.values()):
                raise self._error(
                    f"no {domain} with a category among the {len(images)} images; it needs sketches"
                    " and photos, such as sketch/<class>/ and photo/<class>/"
                )
        return labels

    def _resolved(self, categories: Collection[str]) -> ZeroShotSplit:
        if isinstance(self.split, ZeroShotSplit):
            return self.split
        split = self.split.split(self.name, categories)
        strangers = split.unseen - set(categories)
        if strangers:
            raise self._error(
                f"no sketches and photos of {some(list(strangers))};"
                f" there are {some(list(categories))}"
            )
        if not split.seen:
            raise self._error(
                f"only {len(categories)} categories have sketches and photos; at least one must"
                " remain to be trained on: hold fewer apart"
            )
        return split

    def _seen(
        self, labels: Mapping[str, Label], split: ZeroShotSplit
    ) -> tuple[dict[str, Label], dict[str, Label]]:
        """The training and the validation images."""
        seen = {name: label for name, label in labels.items() if label.category in split.seen}
        if any(label.split == "val" for label in seen.values()):
            val = {name for name, label in seen.items() if label.split == "val"}
        else:
            own = {name: label for name, label in seen.items() if label.split != "test"}
            val = validation_ids(own, self.seed)
        train = {
            name: label
            for name, label in seen.items()
            if name not in val and label.split in (None, "train")
        }
        return train, searchable({name: seen[name] for name in seen if name in val})


def searchable(labels: Mapping[str, Label]) -> dict[str, Label]:
    """The images of categories that have both sketches and photos."""
    found = {(label.category, label.domain) for label in labels.values()}
    return {
        name: label
        for name, label in labels.items()
        if {(label.category, "sketch"), (label.category, "photo")} <= found
    }


def search_part(labels: Mapping[str, Label]) -> SearchPart:
    """All sketches among the images search all photos among them."""
    sketches = {name: label for name, label in labels.items() if label.domain == "sketch"}
    photos = {name: label for name, label in labels.items() if label.domain == "photo"}
    return SearchPart(
        queries=tuple(sketches),
        query_categories=tuple(label.category or "" for label in sketches.values()),
        sources=tuple(
            label.source if label.source in photos else None for label in sketches.values()
        ),
        gallery=tuple(photos),
        gallery_categories=tuple(label.category or "" for label in photos.values()),
    )
