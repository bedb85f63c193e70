"""The datasets by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets.base import Dataset, DatasetError
from pipeline.datasets.folder import FolderDataset
from pipeline.datasets.psc6k import PSC6KDataset
from pipeline.datasets.quickdraw import QuickDrawDataset
from pipeline.datasets.shapes import ShapesDataset
from pipeline.datasets.sketchy import SketchyDataset
from pipeline.datasets.tuberlin import TUBerlinDataset

SHAPES_SIZE = 480
"""Images of the procedural world where the configuration gives no number."""


class _Entry(NamedTuple):
    open: Callable[..., Dataset]
    options: frozenset[str] = frozenset()


def _open_shapes(
    root: Path | None, limit: int | None, size: int = SHAPES_SIZE, **options: Any
) -> Dataset:
    if root is not None:
        raise DatasetError("shapes: takes no root, its images are made on the fly")
    return ShapesDataset(size if limit is None else min(size, limit), **options)


_REGISTRY = {
    "shapes": _Entry(_open_shapes, frozenset({"size", "seed", "pixels", "unseen"})),
    "folder": _Entry(FolderDataset, frozenset({"rendering"})),
    "sketchy": _Entry(SketchyDataset, frozenset({"masks", "extended", "rendering"})),
    "tuberlin": _Entry(TUBerlinDataset, frozenset({"rendering"})),
    "quickdraw": _Entry(QuickDrawDataset, frozenset({"rendering"})),
    "psc6k": _Entry(PSC6KDataset),
}


def open_dataset(name: str, root: Path | None, limit: int | None = None, **options: Any) -> Dataset:
    """The dataset called `name` under `root`, at most `limit` images of it.

    Options are those of the dataset's own class, such as `size`, `seed` and `unseen` of shapes,
    `masks` and `extended` of sketchy, or `rendering` of those that may hold an image several
    times. Raises `DatasetError` for an unknown name or option, and if the root holds nothing the
    dataset knows.
    """
    if name not in _REGISTRY:
        raise DatasetError(f"no dataset {name!r}{_nearest(name, _REGISTRY)}")
    entry = _REGISTRY[name]
    for option in options:
        if option not in entry.options:
            raise DatasetError(f"{name}: no option {option!r}{_nearest(option, entry.options)}")
    return entry.open(root, limit, **options)


def _nearest(wrong: str, valid: Collection[str]) -> str:
    if not valid:
        return "; it takes none"
    near = get_close_matches(wrong, list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(sorted(valid))}"
