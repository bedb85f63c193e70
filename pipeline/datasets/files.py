"""What the adapters for folders of files share: listing, limit, reading, pairs."""

from __future__ import annotations

import os
import re
import stat
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
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
from pipeline.datasets.renderings import Contents, are_alike, are_namesakes, choose
from pipeline.datasets.retries import LoadingError, retry_transient
from pipeline.datasets.subset import balanced_subset
from pipeline.pictures.strokes import RENDER_SIDE, is_svg, render_svg

_N_NOTED = 6
"""Folders that the note about repeated images names."""
_MAX_UNLIKE = 64
"""Trees with names in common and different images after which such names mean nothing."""
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
        rendering: names of folders, or of file types without the dot, to be read where the same
            images lie in several; the most wanted first.
    """

    layout: ClassVar[str]
    """What the adapter looks for under the root, for the message when there is none of it."""
    suffixes: ClassVar[Collection[str]] = IMAGE_SUFFIXES
    root: Path

    def __init__(
        self, root: Path | None, limit: int | None = None, rendering: Sequence[str] = ()
    ) -> None:
        if limit is not None and limit < 1:
            raise DatasetError(f"{self.name}: limit is {limit}; it must be at least 1")
        self.root = checked_folder(root, self.name, "root")
        self.limit = limit
        listing = list_files(self.root, self.suffixes)
        self._skipped = listing.skipped
        self._rendering = tuple(rendering)
        self._repeated: Counter[tuple[str, str]] = Counter()
        """Images left out by what is read and what is not, as the note puts it."""
        self._check_rendering(listing.files)
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

    @property
    def notes(self) -> Sequence[str]:
        if not self._repeated:
            return ()
        parts = [
            f"{read}, not {other} ({n:,} image{'s' * (n > 1)})"
            for (read, other), n in self._repeated.items()
        ]
        more = [f"{len(parts) - _N_NOTED} more"] if len(parts) > _N_NOTED else []
        return (
            f"{self.name}: images that are there several times are read once: "
            f"{'; '.join([*parts[:_N_NOTED], *more])} (dataset.rendering names another to read)",
        )

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

    def _check_rendering(self, files: Sequence[str]) -> None:
        if not self._rendering:
            return
        names = {part for path in files for part in path.split("/")[:-1]}
        names |= {_suffix(path) for path in files}
        for name in self._rendering:
            if name not in names:
                near = get_close_matches(name, names, n=1)
                raise DatasetError(
                    f"{self.name}: dataset.rendering: no folder or file type {name!r} under "
                    f"{self.root}" + (f"; did you mean {near[0]!r}?" if near else "")
                )

    def _one_rendering(
        self,
        labels: Mapping[str, Label],
        kind: Callable[[str, Label], Hashable] = lambda path, label: label.domain,
    ) -> dict[str, Label]:
        """Every image once: of trees of class folders that hold the same images, one is read.

        They hold the same if their names say so (see `renderings.are_namesakes`), or if names of
        images in a class agree and a few of these images look alike. Only trees of one `kind` are
        compared. Files in one folder that differ in their type alone are compared likewise.
        """
        trees: dict[Hashable, dict[str, dict[Hashable, str]]] = defaultdict(dict)
        other_types: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        for path, label in labels.items():
            folder, _, name = path.rpartition("/")
            tree = folder.rpartition("/")[0]
            images = trees[kind(path, label)].setdefault(tree, {})
            image = label.category, name.rpartition(".")[0]
            other = images.setdefault(image, path)
            if other != path:
                read, unread = sorted((other, path), key=self._type_rank)
                images[image] = read
                other_types[folder, _suffix(read), _suffix(unread)].append((read, unread))
        dropped: set[str] = set()
        for of_kind in trees.values():
            for tree, read in self._choose_tree(of_kind).items():
                self._repeat(tree, read, len(of_kind[tree]))
                dropped.update(of_kind[tree].values())
        for (folder, read, unread), pairs in other_types.items():
            gone = [other for one, other in pairs if one in dropped]
            if not gone and are_alike(pairs, self.picture):
                gone = [other for _, other in pairs]
                for path in gone:
                    self._skip(path, f"other file type of an image that is read as .{read}")
                self._repeated[f"{folder}/*.{read}", f"*.{unread}"] += len(gone)
            dropped.update(gone)
        return {path: label for path, label in labels.items() if path not in dropped}

    def _choose_tree(self, trees: Mapping[str, Mapping[Hashable, str]]) -> dict[str, str]:
        n_unlike = 0

        def same(tree: str, other: str) -> bool:
            nonlocal n_unlike
            if are_namesakes(tree, other):
                return True
            if n_unlike == _MAX_UNLIKE:
                return False
            shared = trees[tree].keys() & trees[other].keys()
            pairs = sorted((trees[tree][image], trees[other][image]) for image in shared)
            if are_alike(pairs, self.picture):
                return True
            n_unlike += bool(pairs)
            return False

        return self._choose({tree: images.keys() for tree, images in trees.items()}, same)

    def _choose(
        self, contents: Contents, same: Callable[[str, str], bool], complete: bool = True
    ) -> dict[str, str]:
        """`renderings.choose` as this dataset's `rendering` prefers. Raises DatasetError."""
        try:
            return choose(contents, same, self._rendering, complete)
        except DatasetError as error:
            raise DatasetError(f"{self.name}: {self.root}: {error}") from None

    def _type_rank(self, path: str) -> tuple[int, str]:
        suffix, wanted = _suffix(path), self._rendering
        return wanted.index(suffix) if suffix in wanted else len(wanted), path

    def _repeat(self, folder: str, read: str, n_images: int) -> None:
        """Leave out a folder whose images are read from another."""
        folder, read = folder or ".", read or "."
        above = read.rpartition("/")[0]
        siblings = folder.rpartition("/")[0] == above
        name = read.rpartition("/")[2] if siblings else read
        skipped = Skipped(folder, f"other rendering of the images in {name}")
        if skipped not in self._skipped[-_N_NOTED:]:  # as photos and as sketches
            self._skipped.append(skipped)
        self._repeated[read, folder.rpartition("/")[2] if siblings else folder] += n_images


def _suffix(path: str) -> str:
    """A file's type as its name says, in lower case: `png`."""
    return path.rpartition(".")[2].lower()


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
