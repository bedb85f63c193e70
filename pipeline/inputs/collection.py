"""An image collection: which images a dataset has, told by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cache import ImageRecord
from pipeline.datasets.base import Dataset, Skipped
from pipeline.pictures.images import ImageError

_WINDOW = 1024
"""Images handed to the threads at a time: bounds what waits, whatever the dataset's size."""


@dataclass(frozen=True)
class Collection:
    """The images of a dataset in its order, and what was left out of it."""

    images: tuple[ImageRecord, ...]
    skipped: tuple[Skipped, ...]
    """What the dataset itself skipped, then files that could not be read at all."""


def scan(
    dataset: Dataset, workers: int = 8, progress: Callable[[int], object] | None = None
) -> Collection:
    """Read every image once, in `workers` threads, for its content hash and size.

    A file whose size cannot be told is listed without one: precompute quarantines it with the
    decoder's reason. One that cannot be read has no content to speak of and is skipped.
    `progress` is called with the number of images done since the last call.
    """
    images: list[ImageRecord] = []
    skipped = list(dataset.skipped)
    ids = dataset.ids
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(ids), _WINDOW):
            window = ids[start : start + _WINDOW]
            for entry in pool.map(lambda image_id: _record(dataset, image_id), window):
                if isinstance(entry, ImageRecord):
                    images.append(entry)
                else:
                    skipped.append(entry)
                if progress is not None:
                    progress(1)
    return Collection(tuple(images), tuple(skipped))


def _record(dataset: Dataset, image_id: str) -> ImageRecord | Skipped:
    try:
        data = dataset.read(image_id)
    except OSError as error:
        return Skipped(image_id, f"cannot be read ({error.strerror or error})")
    width: int | None
    height: int | None
    try:
        width, height = dataset.size(image_id, data)
    except ImageError:
        width, height = None, None
    return ImageRecord(image_id, hashlib.sha256(data).hexdigest(), width, height)
