"""The Sketchy Database: photos of 125 classes and the sketches people drew from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets.base import Annotations, Domain, Label
from pipeline.datasets.files import (
    FileDataset,
    checked_folder,
    class_folder_labels,
    source_pairs,
)
from pipeline.datasets.masks import photo_masks

SKETCH_STEM = re.compile(r"(?P<photo>.+)-\d+")
"""A sketch is called after its photo: `n02691156_10151-3` was drawn from `n02691156_10151`."""

_EXTENDED = re.compile(r"(?:^|/)extend[^/]*/", re.IGNORECASE)


class SketchyDataset(FileDataset):
    """Sketchy's 256 px tree, the extended tree beside it, or plain `photo/` and `sketch/` folders.

    The root may be any folder from the top of the download down to one rendering. Of several
    renderings of the same images (`tx_...`, `tx_..._ready`, a second copy of the tree) one is
    read, the first by name unless `rendering` names another; an extended photo that is also under
    `photo/` is left out, so that no gallery holds it twice. Trees without a photo or sketch folder
    are told apart by file name.

    Args:
        masks: a folder of foreground masks `<class>/<photo's stem>.png`, for segmentation.
        extended: `all` keeps extended photos that are also under `photo/`, for file lists that
            name both.
    """

    name = "sketchy"
    layout = (
        "photo/<class>/*.jpg and sketch/<class>/*-1.png, tx_... folders between them or not,"
        " and EXTEND_image_sketchy/<class>/*.jpg"
    )

    def __init__(
        self,
        root: Path | None,
        limit: int | None = None,
        rendering: Sequence[str] = (),
        masks: Path | None = None,
        extended: Literal["distinct", "all"] = "distinct",
    ) -> None:
        self._keep_copies = extended == "all"
        self._masks = None if masks is None else checked_folder(masks, self.name, "masks")
        super().__init__(root, limit, rendering)

    @cached_property
    def annotations(self) -> Annotations:
        masks = {photo: load for photo, load in self._mask_of.items() if photo in self._labels}
        return Annotations(self._labels, source_pairs(self._labels), masks)

    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        guesses = class_folder_labels(self._without_masks(files), default=None)
        by_name = not any(label and label.domain for label in guesses.values())
        labels: dict[str, Label] = {}
        for path, label in guesses.items():
            if label is None:
                self._skip(path, "not in a class folder")
            elif label.domain is not None:
                labels[path] = label
            elif by_name:
                labels[path] = replace(label, domain=_domain_by_name(path))
            else:
                self._skip(path, "under neither a photo nor a sketch folder")
        labels = self._one_rendering(
            labels, lambda path, label: (label.domain, bool(_EXTENDED.search(path)))
        )
        self._mask_of: dict[str, Callable[[], np.ndarray]] = {}
        labels = self._with_sources(labels)
        if self._masks is not None:
            self._mask_of, unused = photo_masks(self._masks, self.root, labels)
            self._skipped.extend(unused)
        return labels

    def _without_masks(self, files: Sequence[str]) -> Sequence[str]:
        root = self.root.resolve()
        if self._masks is None or not self._masks.resolve().is_relative_to(root):
            return files
        inside = self._masks.resolve().relative_to(root).as_posix() + "/"
        return [path for path in files if not path.startswith(inside)]

    def _with_sources(self, labels: dict[str, Label]) -> dict[str, Label]:
        """Tie sketches to photos by name, and leave out extended photos there already are unless
        copies are kept."""
        photos: dict[tuple[str | None, str], str] = {}
        extended: list[str] = []
        for path, label in labels.items():
            if label.domain == "photo":
                if _EXTENDED.search(path):
                    extended.append(path)
                else:
                    photos[label.category, _stem(path)] = path
        for path in extended:
            first = photos.setdefault((labels[path].category, _stem(path)), path)
            if first != path and not self._keep_copies:
                self._skip(path, "extended photo that is also under photo/")
                del labels[path]
        for path, label in labels.items():
            if label.domain == "sketch" and (match := SKETCH_STEM.fullmatch(_stem(path))):
                source = photos.get((label.category, match["photo"]))
                labels[path] = Label(label.category, "sketch", source)
        return labels


def _stem(path: str) -> str:
    """The file's name without extension; `PurePath.stem` takes seconds over a full tree."""
    return path.rpartition("/")[2].rpartition(".")[0]


def _domain_by_name(path: str) -> Domain:
    return "sketch" if SKETCH_STEM.fullmatch(_stem(path)) else "photo"
