"""Category-level retrieval on exactly the files that someone else's lists name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cache.units import printable
from heads.protocols.base import Images, Parts
from heads.protocols.class_splits import SearchPart, searchable
from heads.protocols.lists import PLURAL, FileList, FileLists, ListedFile
from heads.protocols.partition import validation_ids
from heads.protocols.path_matching import PathMatches, match_paths
from heads.protocols.retrieval import CategoryRetrieval
from pipeline.datasets.base import Annotations, Domain, Label

EmptyVariant = Literal["zero", "drop"]


class _Row(NamedTuple):
    """A listed file that is here."""

    image_id: str
    category: str


@dataclass(frozen=True, kw_only=True)
class FileListsProtocol(CategoryRetrieval):
    """Queries and gallery are the listed files in the order of the lists, repeated if listed twice.

    The category is that of the list's label, whatever the dataset says. Training is on the files
    listed for it, but for a seeded tenth that validates as in the other retrieval protocols.
    """

    lists: FileLists
    empty: EmptyVariant = "zero"
    """Whether a query without a relevant photo scores 0 or is left out of the mean."""
    seed: int = 0
    """Of the validation images."""

    @property
    def variants(self) -> dict[str, str]:
        return {
            "lists": f"{printable(self.lists.folder.name)} {self.lists.digest[:12]}",
            "ap": self.ap,
            "precision": self.precision,
            "empty": self.empty,
        }

    def apply(self, annotations: Annotations, images: Images) -> Parts[SearchPart]:
        notes: list[str] = []
        matches = match_paths(
            (file.path for one in self.lists.lists.values() for file in one.files), images
        )
        queries = self._rows("test", "sketch", matches, images, notes)
        gallery = self._rows("test", "photo", matches, images, notes)
        sketches = self._rows("train", "sketch", matches, images, notes)
        photos = self._rows("train", "photo", matches, images, notes)
        complete = not notes
        if matches.resized:
            notes.append(
                f"{len(matches.resized):,} listed files are taken from folders that differ by"
                f" _ready, such as {_example(matches)}: the lists' own are resized copies"
            )
        if self.empty == "drop":
            with_photos = {row.category for row in gallery}
            kept = [row for row in queries if row.category in with_photos]
            if not kept:
                raise self._error("no listed query has a photo of its label in the gallery's list")
            if len(kept) < len(queries):
                n_dropped = len(queries) - len(kept)
                notes.append(f"queries left out for want of a relevant photo: {n_dropped:,}")
            queries = kept
        tested = {row.image_id for row in (*queries, *gallery)}
        n_both = len(tested & {row.image_id for row in (*sketches, *photos)})
        if n_both:
            notes.append(f"images listed both for training and for testing: {n_both:,}")
        train, val = self._seen(sketches, photos, annotations)
        return Parts(train, val, _part(queries, gallery, annotations), tuple(notes), complete)

    def _rows(
        self,
        part: str,
        domain: Domain,
        matches: PathMatches,
        images: Images,
        notes: list[str],
    ) -> list[_Row]:
        """The listed files that are here. Raises `ProtocolError` if none of a test list is."""
        listed = self.lists.lists[part, domain]
        missing = [file for file in listed.files if file.path not in matches.id_of]
        if len(missing) == len(listed.files) and part == "test":
            raise self._error(
                f"none of the {len(missing):,} {PLURAL[domain]} listed in {printable(listed.name)}"
                f" is among the {len(images):,} images; listed is {printable(missing[0].path)}, an"
                f" image is {printable(min(images, default='not there'))}: set dataset.root to"
                " where the listed folders are"
            )
        if missing:
            notes.append(_missing_note(listed, missing, PLURAL[domain]))
        return [
            _Row(matches.id_of[file.path], file.category)
            for file in listed.files
            if file.path in matches.id_of
        ]

    def _seen(
        self, sketches: Sequence[_Row], photos: Sequence[_Row], annotations: Annotations
    ) -> tuple[SearchPart, SearchPart]:
        """The training and the validation part."""
        domains: tuple[tuple[Domain, Sequence[_Row]], ...] = (
            ("sketch", sketches),
            ("photo", photos),
        )
        drawn = {row.image_id for row in photos}
        labels = {
            row.image_id: Label(row.category, domain, _source(row, drawn, annotations))
            for domain, rows in domains
            for row in rows
        }
        held_back = validation_ids(labels, self.seed)
        val = searchable({name: label for name, label in labels.items() if name in held_back})
        return (
            _part(
                [row for row in sketches if row.image_id not in held_back],
                [row for row in photos if row.image_id not in held_back],
                annotations,
            ),
            _part(
                [row for row in sketches if row.image_id in val],
                [row for row in photos if row.image_id in val],
                annotations,
            ),
        )


def _part(sketches: Sequence[_Row], photos: Sequence[_Row], annotations: Annotations) -> SearchPart:
    gallery = {row.image_id for row in photos}
    return SearchPart(
        queries=tuple(row.image_id for row in sketches),
        query_categories=tuple(row.category for row in sketches),
        sources=tuple(_source(row, gallery, annotations) for row in sketches),
        gallery=tuple(row.image_id for row in photos),
        gallery_categories=tuple(row.category for row in photos),
    )


def _source(row: _Row, photos: set[str], annotations: Annotations) -> str | None:
    """The photo that an image was drawn from, if it is one of these."""
    label = annotations.labels.get(row.image_id)
    return label.source if label is not None and label.source in photos else None


def _missing_note(listed: FileList, missing: Sequence[ListedFile], what: str) -> str:
    n = len(listed.files)
    note = (
        f"only {n - len(missing):,} of the {n:,} {what} listed in {printable(listed.name)} are"
        " here, so the number is not the lists' own; the first that is missing is"
        f" {printable(missing[0].path)}"
    )
    if any(file.path.lower().startswith("extend") for file in missing):
        note += " (with dataset.extended=all sketchy keeps extended copies of base photos)"
    return note


def _example(matches: PathMatches) -> str:
    path = min(matches.resized)
    return f"{printable(matches.id_of[path])} for {printable(path)}"
