"""Quick, Draw!: recorded strokes (ndjson), 28 x 28 bitmaps (npy) and folders of PNG."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from pipeline.datasets.base import Label, normalise_category
from pipeline.datasets.files import FileDataset, class_folder_labels
from pipeline.datasets.listing import IMAGE_SUFFIXES
from pipeline.pictures.images import ImageError
from pipeline.pictures.strokes import RENDER_SIDE, render_strokes

_PUBLISHED_PREFIX = re.compile(r"full_(simplified|raw|numpy_bitmap)_")
_SAFE_KEY = re.compile(r"[0-9A-Za-z_-]+")
_FORMATS = ("ndjson", "png", "npy")
"""From the best rendering of a drawing to the worst."""
_KEY_LENGTH = 10
"""Digits at least of a published key, which has 16; a shorter one may have been counted."""
_BITMAP_SIDE = 28
_BITMAP_BYTES = _BITMAP_SIDE**2
_MAX_LINE_BYTES = 256 * 1024
"""Of a drawing; the longest raw ones have some tens of KB. It bounds memory and drawing time."""
_MAX_HEADER_BYTES = 16 * 1024
"""Of an npy file; its length is the file's own word."""


class Record(NamedTuple):
    """Where one drawing lies in a file that holds many."""

    file: str
    start: int
    """Bytes from the beginning of the file."""
    length: int
    """Bytes."""


class QuickDrawDataset(FileDataset):
    """Sketches from any mixture of the published formats.

    A drawing inside a file has the id `<file>/<key_id>` (ndjson; the line number, from 1, where
    there is no usable key) or `<file>/<row>` (npy), and its own bytes are its line or its row. The
    formats hold the same drawings, so of a class that is there in several one is read: ndjson
    before PNG before npy, and of several files with the same keys the first by name, unless
    `rendering` names another. Drawings the game did not recognise are kept. Photos may lie beside
    them in class folders under one whose name speaks of images, as in the extended dataset. With
    a limit no more than so many drawings of any one file are looked at, so the full download can
    be sampled quickly.
    """

    name = "quickdraw"
    layout = "<class>.ndjson, <class>.npy or <class>/*.png"
    suffixes = IMAGE_SUFFIXES | {".ndjson", ".npy"}

    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        self._records: dict[str, Record] = {}
        labels: dict[str, Label] = {}
        images = []
        images_by_label: dict[str, Label] = {}
        for file in files:
            if file.lower().endswith((".ndjson", ".npy")):
                self._index(file, labels)
            else:
                images.append(file)
        for path, label in class_folder_labels(images, default="sketch").items():
            if label is None:
                self._skip(path, "not in a class folder")
            else:
                images_by_label[path] = label
        labels |= self._one_rendering(images_by_label)
        return self._one_format(labels)

    def _one_format(self, labels: dict[str, Label]) -> dict[str, Label]:
        """Of every class the drawings in one format, and in one of the files that repeat them.

        Records keep their places: a store that already has the others can still grow.
        """
        sources: dict[str | None, Counter[str]] = defaultdict(Counter)
        for image_id, label in labels.items():
            if label.domain == "sketch":
                sources[label.category][_source(image_id)] += 1
        left_out: set[tuple[str | None, str]] = set()
        for category, counts in sources.items():
            best = _format(min(counts, key=self._format_rank))
            for source in [source for source in counts if _format(source) != best]:
                left_out.add((category, source))
                self._skip(source, f"{category} is read as {best}")
                self._repeated[best, _format(source)] += counts.pop(source)
        files = [
            source
            for counts in sources.values()
            if len(counts) > 1
            for source in counts
            if _format(source) != "png"
        ]
        keys = self._keys_of(files)
        chosen = self._choose(
            keys, lambda a, b: not keys[a].isdisjoint(keys[b]), complete=self.limit is None
        )
        for source, read in chosen.items():
            self._repeat(source, read, sum(counts[source] for counts in sources.values()))
        return {
            image_id: label
            for image_id, label in labels.items()
            if _source(image_id) not in chosen
            and (label.category, _source(image_id)) not in left_out
        }

    def _keys_of(self, files: Sequence[str]) -> dict[str, set[Hashable]]:
        """What tells the drawings of files apart: published keys, and of bitmaps two rows."""
        keys: dict[str, set[Hashable]] = {file: set() for file in files}
        rows: dict[str, list[str]] = defaultdict(list)
        for image_id in self._records if files else ():
            file, _, key = image_id.rpartition("/")
            if file in keys and not _is_strokes(file):
                rows[file].append(image_id)
            elif file in keys and len(key) >= _KEY_LENGTH:
                keys[file].add(key)
        for file, ids in rows.items():
            keys[file].add((len(ids), self.read(ids[0]), self.read(ids[-1])))
        return keys

    def _format_rank(self, source: str) -> tuple[int, int]:
        """How early a file or class folder comes: as `rendering` says, then by format."""
        names = {*source.split("/"), _format(source)}
        wanted = [rank for rank, name in enumerate(self._rendering) if name in names]
        return min(wanted, default=len(self._rendering)), _FORMATS.index(_format(source))

    def read(self, image_id: str) -> bytes:
        record = self._records.get(image_id)
        if record is None:
            return super().read(image_id)
        with open(self.root / record.file, "rb") as file:
            file.seek(record.start)
            return file.read(record.length)

    def signature(self, image_id: str) -> str | None:
        # That of a file with many drawings would change for all of them when it grows.
        return None if image_id in self._records else super().signature(image_id)

    def expect(self, image_id: str) -> None:
        # Records follow each other in few files, which the system reads ahead by itself.
        if image_id not in self._records:
            super().expect(image_id)

    def decode(self, image_id: str, data: bytes) -> Image.Image:
        record = self._records.get(image_id)
        if record is None:
            return super().decode(image_id, data)
        if _is_strokes(record.file):
            return render_strokes(_parse_drawing(data)["drawing"], RENDER_SIDE)
        return _decode_bitmap(data)

    def size(self, image_id: str, data: bytes) -> tuple[int, int]:
        record = self._records.get(image_id)
        if record is None:
            return super().size(image_id, data)
        side = RENDER_SIDE if _is_strokes(record.file) else _BITMAP_SIDE
        return side, side

    def _index(self, file: str, labels: dict[str, Label]) -> None:
        """Add the drawings of one file, up to the limit."""
        stem = _PUBLISHED_PREFIX.sub("", Path(file).stem, count=1)
        found = self._drawings(file, stem) if _is_strokes(file) else self._bitmaps(file, stem)
        label_of: dict[str, Label] = {}
        count = 0
        try:
            for key, category, record in found:
                image_id = f"{file}/{key}"
                if image_id in labels:
                    self._skip(image_id, "key of an earlier drawing")
                    continue
                if category not in label_of:
                    label_of[category] = Label(normalise_category(category), "sketch")
                labels[image_id], self._records[image_id] = label_of[category], record
                count += 1
                if count == self.limit:
                    break
        except OSError as error:
            self._skip(file, f"cannot be read ({error.strerror})")

    def _drawings(self, file: str, stem: str) -> Iterator[tuple[str, str, Record]]:
        """Key, category and place of every well-formed line."""
        with open(self.root / file, "rb") as lines:
            for number, (start, data) in enumerate(_lines(lines), start=1):
                try:
                    drawing = _parse_drawing(data) if data.strip() else None
                except ImageError as error:
                    self._skip(f"{file}:{number}", str(error))
                    drawing = None
                if drawing is not None:
                    key, word = str(drawing.get("key_id")), drawing.get("word")
                    usable = "key_id" in drawing and _SAFE_KEY.fullmatch(key)
                    yield (
                        key if usable else f"{number:06d}",
                        word if isinstance(word, str) and word.strip() else stem,
                        Record(file, start, len(data)),
                    )

    def _bitmaps(self, file: str, stem: str) -> Iterator[tuple[str, str, Record]]:
        """Key, category and place of every row."""
        try:
            start, n_rows = _bitmap_rows(self.root / file)
        except ValueError as error:
            self._skip(file, f"no bitmaps: {' '.join(str(error).split())}")
            return
        for row in range(n_rows):
            yield f"{row:06d}", stem, Record(file, start + row * _BITMAP_BYTES, _BITMAP_BYTES)


def _is_strokes(file: str) -> bool:
    return file.lower().endswith(".ndjson")


def _source(image_id: str) -> str:
    """The file or class folder that a drawing lies in."""
    return image_id.rpartition("/")[0]


def _format(source: str) -> str:
    suffix = source.rpartition(".")[2].lower()
    return suffix if suffix in ("ndjson", "npy") else "png"


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Start and content of every line; of one that is too long no more than shows that it is."""
    start = 0
    while line := file.readline(_MAX_LINE_BYTES + 2):
        n_bytes = len(line)
        yield start, line.rstrip(b"\r\n")
        while not line.endswith(b"\n") and (line := file.readline(_MAX_LINE_BYTES)):
            n_bytes += len(line)
        start += n_bytes


def _parse_drawing(line: bytes) -> dict:
    """One line of an ndjson file. Raises `ImageError`."""
    if len(line) > _MAX_LINE_BYTES:
        raise ImageError(f"a drawing of over {_MAX_LINE_BYTES // 1024} KiB")
    try:
        drawing = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ImageError("malformed drawing (not JSON)") from error
    if not isinstance(drawing, dict) or not isinstance(drawing.get("drawing"), list):
        raise ImageError("malformed drawing (no strokes)")
    return drawing


def _bitmap_rows(path: Path) -> tuple[int, int]:
    """Byte offset of the first bitmap of an npy file, and their number.

    Raises `ValueError` where the file holds anything but bitmaps, and `OSError`.
    """
    with path.open("rb") as file:
        head = io.BytesIO(file.read(_MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran_order, dtype = read_header(head)
    except Exception as error:
        # The header is Python source: numpy lets through what its parser makes of other text.
        raise ValueError(f"damaged header ({type(error).__name__})") from error
    start = head.tell()
    if dtype != np.uint8 or shape[1:] not in ((_BITMAP_BYTES,), (_BITMAP_SIDE, _BITMAP_SIDE)):
        raise ValueError(f"{dtype} {list(shape)}, expected uint8 [n, 784] or [n, 28, 28]")
    if fortran_order:
        raise ValueError("stored column by column")
    if shape[0] < 0:
        raise ValueError(f"{shape[0]} rows")
    if path.stat().st_size < start + shape[0] * _BITMAP_BYTES:
        raise ValueError("truncated")
    return start, shape[0]


def _decode_bitmap(data: bytes) -> Image.Image:
    """The published bitmaps are bright ink on black; sketches here are dark on white."""
    if len(data) != _BITMAP_BYTES:
        raise ImageError(f"a bitmap of {len(data)} bytes, expected {_BITMAP_BYTES}")
    ink = np.frombuffer(data, np.uint8).reshape(_BITMAP_SIDE, _BITMAP_SIDE)
    return Image.fromarray(255 - ink).convert("RGB")
