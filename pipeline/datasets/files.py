"""What the adapters for folders of files share: listing, limit, reading, pairs."""

from __future__ import annotations

import os
import re
import stat
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from pipeline.datasets.base import (
    Annotations,
    Dataset,
    DatasetError,
    Domain,
    Label,
    Pair,
    Skipped,
    normalise_category,
)
from pipeline.datasets.listing import (
    IMAGE_SUFFIXES,
    file_signature,
    list_files,
    read_image_file,
    start_reading,
    summarise,
)
from pipeline.datasets.retries import LoadingError, retry_transient
from pipeline.datasets.subset import balanced_subset
from pipeline.pictures.strokes import RENDER_SIDE, is_svg, render_svg

_DOMAIN_WORDS: Mapping[Domain, frozenset[str]] = {
    "photo": frozenset({"photo", "photos", "image", "images", "imageresized"}),
    "sketch": frozenset({"sketch", "sketches"}),
}


class FileDataset(Dataset):
    """Images that lie in files under a root; the id is the relative path.

    Raises `DatasetError` where the root is missing or holds nothing that the adapter knows.

    Args:
        root: the folder; links are followed inside it, to folders not listed already.
        limit: at most so many images, evenly over categories (see `balanced_subset`).
    """

    layout: ClassVar[str]
    """What the adapter looks for under the root, for the message when there is none of it."""
    suffixes: ClassVar[Collection[str]] = IMAGE_SUFFIXES
    root: Path

    def __init__(self, root: Path | None, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise DatasetError(f"{self.name}: limit is {limit}; it must be at least 1")
        self.root = checked_folder(root, self.name, "root")
        self.limit = limit
        listing = list_files(self.root, self.suffixes)
        self._skipped = listing.skipped
        found = self._describe(listing.files)
        if not found:
            skipped = summarise(self._skipped) or "the folder is empty"
            raise DatasetError(
                f"{self.name}: no images under {self.root}: looked for {self.layout}; {skipped}"
            )
        labels = {image_id: found[image_id] for image_id in sorted(found)}
        if limit is not None and limit < len(labels):
            kept = balanced_subset(labels, limit)
            labels = {image_id: labels[image_id] for image_id in kept}
        self._labels = _without_lost_sources(labels)
        self._ids = tuple(labels)

    @abstractmethod
    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        """The dataset's images among the listed files; adds to `_skipped` what is none."""

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    @property
    def skipped(self) -> Sequence[Skipped]:
        return tuple(self._skipped)

    def read(self, image_id: str) -> bytes:
        return read_image_file(self.root / image_id)

    def signature(self, image_id: str) -> str | None:
        return file_signature(self.root / image_id)

    def expect(self, image_id: str) -> None:
        start_reading(self.root / image_id)

    def decode(self, image_id: str, data: bytes) -> Image.Image:
        return render_svg(data, RENDER_SIDE) if is_svg(data) else super().decode(image_id, data)

    def size(self, image_id: str, data: bytes) -> tuple[int, int]:
        return (RENDER_SIDE, RENDER_SIDE) if is_svg(data) else super().size(image_id, data)

    @cached_property
    def annotations(self) -> Annotations:
        return Annotations(labels=self._labels, pairs=source_pairs(self._labels))

    def _skip(self, path: str, reason: str) -> None:
        self._skipped.append(Skipped(path, reason))


def checked_folder(folder: Path | None, dataset: str, key: str) -> Path:
    """`folder`, if it is one. Raises `DatasetError` that names the dataset's key otherwise."""
    if folder is None:
        raise DatasetError(f"{dataset}: needs a {key}: set dataset.{key} to the folder")
    try:
        status = retry_transient(lambda: os.stat(folder), f"{dataset}: {key} {folder}")
    except LoadingError:
        raise
    except (OSError, ValueError):  # also if a parent folder is closed to us
        raise DatasetError(f"{dataset}: {key} {folder} does not exist") from None
    if not stat.S_ISDIR(status.st_mode):
        raise DatasetError(f"{dataset}: {key} {folder} is not a folder")
    return folder


def source_pairs(labels: Mapping[str, Label]) -> list[Pair]:
    """Every sketch with the photo it was drawn from, without points."""
    return [
        Pair(sketch=image_id, photo=label.source, category=label.category, split=label.split)
        for image_id, label in labels.items()
        if label.source is not None
    ]


def domain_of(folder: str) -> Domain | None:
    """What a folder's name says of the images in it, as in `photo` or `EXTEND_image_sketchy`."""
    words = set(re.findall("[a-z]+", folder.lower()))
    domains = [domain for domain, names in _DOMAIN_WORDS.items() if words & names]
    return domains[0] if len(domains) == 1 else None


def first_domain(folders: Iterable[str]) -> Domain | None:
    """What the first folder that says anything says of the images in it."""
    return next((domain for folder in folders if (domain := domain_of(folder))), None)


def class_folder_labels(files: Sequence[str], default: Domain | None) -> dict[str, Label | None]:
    """Labels by the layout `[.../][domain/][.../]class/file`; None where there is no class folder.

    The domain is that of the first folder above the class that names one, else `default`.
    """
    by_folder: dict[str, Label | None] = {}
    labels = {}
    for path in files:
        folder = path.rpartition("/")[0]
        if folder not in by_folder:
            by_folder[folder] = _class_label(folder, default)
        labels[path] = by_folder[folder]
    return labels


def _class_label(folder: str, default: Domain | None) -> Label | None:
    *above, name = folder.split("/")
    if not name or any(name.lower() in words for words in _DOMAIN_WORDS.values()):
        return None
    return Label(normalise_category(name), first_domain(above) or default)


def _without_lost_sources(labels: dict[str, Label]) -> dict[str, Label]:
    """Drop the `source` of sketches whose photo the limit has left out."""
    return {
        image_id: label
        if label.source is None or label.source in labels
        else Label(label.category, label.domain, None, label.split)
        for image_id, label in labels.items()
    }
