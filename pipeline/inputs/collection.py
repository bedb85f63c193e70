"""An image collection: which images a dataset has, told by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from cache import HashIndex, ImageRecord
from pipeline.datasets.base import Dataset, Skipped
from pipeline.datasets.retries import retry_transient
from pipeline.pictures.images import ImageError

_WINDOW = 1024
"""Images handed to the threads at a time: bounds what waits, whatever the dataset's size."""

T = TypeVar("T")

Hashed = Mapping[str, tuple[str, str]]
"""Image id to the signature of its file and the SHA-256 of its bytes, for files that this process
has read and hashed itself."""


@dataclass(frozen=True)
class Collection:
    """The images of a dataset in its order, and what was left out of it."""

    images: tuple[ImageRecord, ...]
    skipped: tuple[Skipped, ...]
    """What the dataset itself skipped, then files that could not be read at all."""
    hashed: Hashed = field(default_factory=dict, compare=False)
    """What need not be hashed again when it is decoded in this process."""


def scan(
    dataset: Dataset,
    workers: int = 8,
    progress: Callable[[int], object] | None = None,
    index: HashIndex | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Collection:
    """Content hash and size of every image, in `workers` threads.

    A file whose size cannot be told is listed without one: precompute quarantines it with the
    decoder's reason. One that cannot be read has no content to speak of and is skipped, unless
    that may pass (see `cache.errors.is_transient`).

    Args:
        progress: called with the number of images done since the last call.
        index: known hashes; a file whose signature is in it is not read, others are added.
        log: told in one line if another process is waited for.

    Raises LoadingError if a disk, mount or network keeps failing.
    """
    return _Scan(dataset, workers, progress or (lambda n: None), index or HashIndex(None)).run(log)


class _Scan:
    """One pass over a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        workers: int,
        progress: Callable[[int], object],
        index: HashIndex,
    ) -> None:
        self._dataset = dataset
        self._workers = workers
        self._progress = progress
        self._index = index
        self._found: dict[str, ImageRecord] = {}
        self._unreadable: list[Skipped] = []
        self._hashed: dict[str, tuple[str, str]] = {}

    def run(self, log: Callable[[str], None]) -> Collection:
        ids = self._dataset.ids
        unknown = self._look_up(ids)
        if unknown:
            with self._index.claimed(log) as is_new:
                # What another process has hashed meanwhile is there now.
                self._hash(self._look_up(unknown) if is_new else unknown)
        return Collection(
            tuple(self._found[image_id] for image_id in ids if image_id in self._found),
            (*self._dataset.skipped, *self._unreadable),
            self._hashed,
        )

    def _look_up(self, ids: Sequence[str]) -> list[str]:
        """Take what the index has; the ids that it does not have."""
        unknown = []
        for image_id, signature in zip(ids, self._each(self._dataset.signature, ids), strict=True):
            known = self._index.get(image_id, signature)
            if known is None:
                unknown.append(image_id)
            else:
                self._found[image_id] = known
                self._progress(1)
        return unknown

    def _hash(self, ids: Sequence[str]) -> None:
        for entry, signature in self._each(self._read, ids):
            if isinstance(entry, Skipped):
                self._unreadable.append(entry)
            else:
                self._found[entry.id] = entry
                if signature is not None:
                    self._hashed[entry.id] = (signature, entry.sha256)
                    if entry.width is not None:
                        self._index.add(entry, signature)
            self._progress(1)

    def _each(self, work: Callable[[str], T], ids: Sequence[str]) -> Iterator[T]:
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, len(ids), _WINDOW):
                yield from pool.map(work, ids[start : start + _WINDOW])

    def _read(self, image_id: str) -> tuple[ImageRecord | Skipped, str | None]:
        """A record, and the signature of the file if it did not change meanwhile."""
        before = self._dataset.signature(image_id)
        try:
            data = retry_transient(lambda: self._dataset.read(image_id), image_id)
        except OSError as error:
            return Skipped(image_id, f"cannot be read ({error.strerror or error})"), None
        width: int | None
        height: int | None
        try:
            width, height = self._dataset.size(image_id, data)
        except ImageError:
            width, height = None, None
        after = None if before is None else self._dataset.signature(image_id)
        record = ImageRecord(image_id, content_hash(data), width, height)
        return record, before if before == after else None


def content_hash(data: bytes) -> str:
    """SHA-256 of an image's encoded bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
