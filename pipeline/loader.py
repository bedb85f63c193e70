"""Reading, hashing, decoding and squaring images in worker processes, ahead of the accelerator."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cache import ImageRecord
from configs.schema import Pad
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.images import ImageError, letterbox


class ChangedImage(DatasetError):
    """An image is not the one that was hashed when the collection was scanned."""


@dataclass(frozen=True)
class SquareBatch:
    """Images of one piece of work, decoded.

    `squares` is uint8 [B, 3, R, R] and belongs to `rows`; `unreadable` gives the rows that could
    not be decoded and why; `seconds` is the time a worker spent on them.
    """

    key: int
    rows: list[int]
    squares: np.ndarray
    unreadable: dict[int, str]
    seconds: float


@dataclass(frozen=True)
class RowBatch:
    """Rows to decode together; `key` says which piece of work they belong to."""

    key: int
    rows: Sequence[int]


class _Squares(TorchDataset["SquareBatch | ChangedImage"]):
    """Item i is a whole batch: one message per batch between processes, not one per image.

    A changed image is returned, not raised: DataLoader would wrap it in a worker's traceback.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: Sequence[ImageRecord],
        batches: Sequence[RowBatch],
        resolution: int,
        pad: Pad,
    ) -> None:
        self._dataset = dataset
        self._images = {row: images[row] for batch in batches for row in batch.rows}
        self._batches = batches
        self._resolution = resolution
        self._pad = pad

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> SquareBatch | ChangedImage:
        start = time.perf_counter()
        batch = self._batches[index]
        rows, squares, unreadable = [], [], {}
        for row in batch.rows:
            try:
                squares.append(self._square(self._images[row]))
                rows.append(row)
            except ImageError as error:
                unreadable[row] = str(error)
            except ChangedImage as error:
                return error
        side = self._resolution
        stacked = np.stack(squares) if squares else np.empty((0, 3, side, side), np.uint8)
        return SquareBatch(batch.key, rows, stacked, unreadable, time.perf_counter() - start)

    def _square(self, image: ImageRecord) -> np.ndarray:
        """One image as uint8 [3, R, R]."""
        try:
            data = self._dataset.read(image.id)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise ChangedImage(
                f"{image.id}: the file changed after it was listed; run the command again, "
                "with a new --out if the old picture is already in the store"
            )
        picture = self._dataset.decode(image.id, data)
        return letterbox(picture, self._resolution, self._pad).transpose(2, 0, 1)


def load_squares(
    dataset: Dataset,
    images: Sequence[ImageRecord],
    batches: Sequence[RowBatch],
    resolution: int,
    pad: Pad,
    workers: int,
) -> Iterator[SquareBatch]:
    """Decoded batches in order; at most two per worker are held ready.

    Args:
        images: the store's records; rows index into it.
        workers: processes; 0 decodes in this one.

    Raises:
        ChangedImage: a file's bytes are not those that were hashed.
    """
    squares = _Squares(dataset, images, batches, resolution, pad)
    # Batches travel as numpy arrays through pipes: shared memory is small in many containers.
    loader = DataLoader(
        squares,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        collate_fn=_as_is,
    )
    for batch in loader:
        if isinstance(batch, ChangedImage):
            raise batch
        yield batch


def auto_workers(device: torch.device) -> int:
    """Decoding processes: one beside a CPU that also computes, up to eight beside a GPU."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return 1 if device.type == "cpu" else max(1, min(8, cores - 1))


def _as_is(batch: Any) -> Any:
    return batch
