"""PSC6K: 6,250 sketch-photo pairs of Sketchy with 8 corresponding points each."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from pipeline.datasets.base import Annotations, DatasetError, Label, Pair, normalise_category
from pipeline.datasets.files import FileDataset, first_domain
from pipeline.datasets.listing import IMAGE_SUFFIXES
from pipeline.datasets.renderings import RENDERING
from pipeline.datasets.sketchy import SKETCH_STEM
from pipeline.pictures.images import ImageError

FRAME = 256
"""Side in pixels of the square the published points are given in."""

_TABLE_NAME = re.compile(r"(train|val|test)_pairs_(ps|st)\.csv")
_IMAGE_COLUMNS = {"ps": ("photo", "sketch"), "st": ("source_image", "target_image")}
_POINT_COLUMNS = ("XA", "YA", "XB", "YB")


@dataclass(frozen=True)
class _Table:
    """One CSV: form "ps" has a row per pair, form "st" one per pair and direction."""

    file: str
    split: str
    form: str


@dataclass(frozen=True)
class _Row:
    """A pair as a table gives it: ids of the images, points float64 [K, 2] in the frame."""

    where: str
    photo: str
    sketch: str
    category: str
    split: str
    photo_points: np.ndarray
    sketch_points: np.ndarray


class PSC6KDataset(FileDataset):
    """The images that PSC6K's tables name, and their points.

    The root holds the tables (`test_pairs_ps.csv`, or `test_pairs_st.csv` where that is missing;
    `train_...` and `val_...` likewise) and, anywhere below, Sketchy or the part of it that they
    name. Tables without points, such as the published training pairs, are left out. The points
    hold for one rendering of Sketchy (`tx_000100000000`), so a path that names a rendering is
    looked up in that one only. Raises `DatasetError` that names file and line for a bad row.
    """

    name = "psc6k"
    layout = "test_pairs_ps.csv or test_pairs_st.csv, and the Sketchy images named in it"
    suffixes = IMAGE_SUFFIXES | {".csv"}

    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        tree = _Tree([file for file in files if not file.lower().endswith(".csv")])
        self._rows: list[_Row] = []
        labels: dict[str, Label] = {}
        for table in self._tables(files):
            for row in self._pairs(table, tree):
                self._rows.append(row)
                labels[row.photo] = Label(row.category, "photo", None, row.split)
                labels[row.sketch] = Label(row.category, "sketch", row.photo, row.split)
        unused = len(tree.files) - len(labels)
        if labels and unused:
            self._skip(".", f"{unused:,} images that no table names")
        return labels

    @cached_property
    def annotations(self) -> Annotations:
        sizes: dict[str, tuple[int, int]] = {}
        pairs = []
        for row in self._rows:
            if row.photo not in self._labels or row.sketch not in self._labels:
                continue  # beyond the limit
            for image_id in (row.photo, row.sketch):
                if image_id not in sizes:
                    sizes[image_id] = self._size_of(image_id, row)
            pairs.append(
                Pair(
                    sketch=row.sketch,
                    photo=row.photo,
                    category=row.category,
                    sketch_points=_from_frame(row.sketch_points, sizes[row.sketch]),
                    photo_points=_from_frame(row.photo_points, sizes[row.photo]),
                    visible=np.ones(len(row.photo_points), bool),
                    split=row.split,
                )
            )
        return Annotations(self._labels, pairs)

    def _size_of(self, image_id: str, row: _Row) -> tuple[int, int]:
        try:
            return self.size(image_id, self.read(image_id))
        except (OSError, ImageError) as error:
            raise DatasetError(f"{row.where}: {image_id} cannot be read: {error}") from error

    def _tables(self, files: Sequence[str]) -> list[_Table]:
        """The tables to read: one per split, in photo-sketch form where there is a choice."""
        chosen: dict[str, _Table] = {}
        for file in sorted(files, key=lambda file: (PurePosixPath(file).name, file)):
            match = _TABLE_NAME.fullmatch(PurePosixPath(file).name)
            if match is None:
                if file.lower().endswith(".csv"):
                    self._skip(file, "not a table of pairs")
            elif match[1] in chosen:  # "ps" sorts before "st"
                self._skip(file, f"other form of {chosen[match[1]].file}")
            else:
                chosen[match[1]] = _Table(file, match[1], match[2])
        return list(chosen.values())

    def _pairs(self, table: _Table, tree: _Tree) -> Iterator[_Row]:
        images = _IMAGE_COLUMNS[table.form]
        seen: set[tuple[str, str]] = set()
        for where, cells in self._cells(table, images):
            a, b = (tree.find(cells[column], where) for column in images)
            points_a = _points(cells["XA"], cells["YA"], where)
            points_b = _points(cells["XB"], cells["YB"], where)
            if len(points_a) != len(points_b):
                raise DatasetError(
                    f"{where}: {len(points_a)} points in XA, YA but {len(points_b)} in XB, YB"
                )
            if table.form == "st" and _is_sketch(a):
                a, b, points_a, points_b = b, a, points_b, points_a
            if _is_sketch(a) or not _is_sketch(b):
                raise DatasetError(f"{where}: expected a photo and a sketch")
            if (a, b) in seen:
                if table.form == "ps":
                    self._skip(where, "pair of an earlier row")
                continue
            seen.add((a, b))
            category = _category(cells.get("class"), a)
            yield _Row(where, a, b, category, table.split, points_a, points_b)

    def _cells(
        self, table: _Table, images: tuple[str, str]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """The rows of a table by column name, each with its place for messages."""
        path = self.root / table.file
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or ()
                missing = [name for name in (*images, *_POINT_COLUMNS) if name not in columns]
                if missing == list(_POINT_COLUMNS):
                    self._skip(table.file, "table without points")
                    return
                if missing:
                    raise DatasetError(f"{path}:1: no column {', '.join(missing)}")
                for cells in reader:
                    where = f"{path}:{reader.line_num}"
                    if None in cells or None in cells.values():
                        raise DatasetError(f"{where}: not as many cells as columns")
                    yield where, cells
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read as a table: {error}") from error


class _Tree:
    """The images under the root, found by the end of their paths."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = frozenset(files)
        self._by_name: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for file in files:
            self._by_name[PurePosixPath(file).parts[-2:]].append(file)

    def find(self, path: str, where: str) -> str:
        """The image a table means by `path`. Raises `DatasetError`.

        Tables give paths relative to wherever Sketchy was unpacked, so the image is the one that
        shares most of the path's end, at least class folder and file name.
        """
        if path in self.files:
            return path
        wanted = PurePosixPath(path.replace("\\", "/")).parts
        candidates = self._by_name.get(wanted[-2:], [])
        rendering = RENDERING.search(path)
        if rendering:
            same = [file for file in candidates if _rendering(file) in (None, rendering[1])]
            if candidates and not same:
                raise DatasetError(
                    f"{where}: {path} is there only as another rendering than {rendering[1]}"
                )
            candidates = same
        if not candidates:
            raise DatasetError(f"{where}: {path} is not under the root")
        best = max(_shared_end(wanted, file) for file in candidates)
        matches = [file for file in candidates if _shared_end(wanted, file) == best]
        if len(matches) > 1:
            raise DatasetError(
                f"{where}: {path} may be {matches[0]} or {matches[1]}; keep one of them in the root"
            )
        return matches[0]


def _rendering(path: str) -> str | None:
    match = RENDERING.search(path)
    return match[1] if match else None


def _shared_end(wanted: Sequence[str], file: str) -> int:
    """How many parts, from the end, two paths have in common."""
    parts = PurePosixPath(file).parts
    pairs = zip(reversed(wanted), reversed(parts), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(parts)))


def _is_sketch(path: str) -> bool:
    file = PurePosixPath(path)
    domain = first_domain(file.parts[:-1])
    if domain is not None:
        return domain == "sketch"
    return SKETCH_STEM.fullmatch(file.stem) is not None


def _category(named: str | None, photo: str) -> str:
    """The class; the published tables number it, then the photo's folder names it."""
    if named is None or not re.search("[A-Za-z]", named):
        named = PurePosixPath(photo).parent.name
    return normalise_category(named)


def _points(xs: str, ys: str, where: str) -> np.ndarray:
    """Two `;`-separated lists as float64 [K, 2]."""
    try:
        x, y = (np.array([float(cell) for cell in cells.split(";")]) for cells in (xs, ys))
    except ValueError as error:
        raise DatasetError(f"{where}: a coordinate is not a number: {error}") from error
    if len(x) != len(y):
        raise DatasetError(f"{where}: {len(x)} x but {len(y)} y coordinates")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DatasetError(f"{where}: a coordinate is not finite")
    return np.stack([x, y], axis=1)


def _from_frame(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points of the 256 x 256 frame in the pixels of an image of `size`."""
    return points * (np.array(size) / FRAME)
