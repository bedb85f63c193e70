"""Reading, hashing, decoding and squaring images in worker processes, ahead of the accelerator."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cache import ImageRecord
from configs.schema import ClipInput, Pad
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.datasets.retries import RETRY_PAUSES, LoadingError
from pipeline.inputs.collection import Hashed, content_hash
from pipeline.pictures.images import ImageError, network_input

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class SquareBatch:
    """Images of one piece of work, decoded.

    `squares` is uint8 [B, C, R, R] (see `network_input`) and belongs to `rows`; `unreadable` gives
    the rows that could not be decoded and why; `seconds` is the time a worker spent on them.
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


class _Squares(TorchDataset["SquareBatch | DatasetError"]):
    """Item i is a whole batch: one message per batch between processes, not one per image.

    An error is returned, not raised: DataLoader would wrap it in a worker's traceback.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: Sequence[ImageRecord],
        batches: Sequence[RowBatch],
        resolution: int,
        pad: Pad,
        clip_input: ClipInput,
        hashed: Hashed,
    ) -> None:
        self._dataset = dataset
        self._images = {row: images[row] for batch in batches for row in batch.rows}
        ids = {image.id for image in self._images.values()}
        self._hashed = {image_id: hashed[image_id] for image_id in ids & hashed.keys()}
        self._batches = batches
        self._resolution = resolution
        self._pad = pad
        self._clip_input = clip_input

    def __len__(self) -> int:
        return len(self._batches)

    def expect(self, index: int) -> None:
        """Have the disk begin with a batch, if there is one of this number."""
        for batch in self._batches[index : index + 1]:
            for row in batch.rows:
                self._dataset.expect(self._images[row].id)

    def __getitem__(self, index: int) -> SquareBatch | DatasetError:
        start = time.perf_counter()
        batch = self._batches[index]
        rows, squares, unreadable = [], [], {}
        for row in batch.rows:
            try:
                squares.append(self._square(self._images[row]))
                rows.append(row)
            except ImageError as error:
                unreadable[row] = str(error)
            except LoadingError as error:
                return error
        side = self._resolution
        stacked = np.stack(squares) if squares else np.empty((0, 3, side, side), np.uint8)
        return SquareBatch(batch.key, rows, stacked, unreadable, time.perf_counter() - start)

    def _square(self, image: ImageRecord) -> np.ndarray:
        """One image as uint8 [C, R, R]."""
        data = self._read(image.id)
        if not self._is_as_hashed(image) and content_hash(data) != image.sha256:
            raise ImageError("the file changed after it was listed; a new store takes the new one")
        picture = self._dataset.decode(image.id, data)
        return network_input(picture, self._resolution, self._pad, self._clip_input)

    def _is_as_hashed(self, image: ImageRecord) -> bool:
        """Whether this process has found the listed hash in the file, which is the same still."""
        if image.id not in self._hashed:
            return False
        signature, sha256 = self._hashed[image.id]
        return sha256 == image.sha256 and signature == self._dataset.signature(image.id)

    def _read(self, image_id: str) -> bytes:
        """The file's bytes. A picture is given up only if the dataset no longer has it.

        Any other failure may be the disk's or the network's: it is tried again, then it stops
        the job, which can go on later.
        """
        for pause in (*RETRY_PAUSES, None):
            try:
                return self._dataset.read(image_id)
            except FileNotFoundError as error:
                if image_id not in self._dataset.ids:
                    raise ImageError("no longer in the dataset") from None
                failure: OSError = error
            except OSError as error:
                failure = error
            if pause is not None:
                time.sleep(pause)
        raise LoadingError.of(image_id, failure) from failure


def load_squares(
    dataset: Dataset,
    images: Sequence[ImageRecord],
    batches: Sequence[RowBatch],
    resolution: int,
    pad: Pad,
    workers: int,
    in_threads: bool = False,
    order: Iterable[int] | None = None,
    hashed: Hashed | None = None,
    clip_input: ClipInput = "square",
) -> Generator[SquareBatch]:
    """Decoded batches in order; at most two per worker are held ready.

    Close it if it is not read to its end: its processes live as long as it does.

    Args:
        images: the store's records; rows index into it.
        workers: processes; 0 decodes in this one.
        in_threads: take so many threads instead, if processes cannot be started.
        order: numbers of the batches to decode, asked for as late as possible; None takes all.
        hashed: files that this process has hashed itself; unchanged, they are not hashed again.
        clip_input: whether CLIP has a square of its own.

    Raises:
        LoadingError: a file that is there cannot be read.
        DatasetError: a decoding process died.
    """
    squares = _Squares(dataset, images, batches, resolution, pad, clip_input, hashed or {})
    numbers = range(len(squares)) if order is None else order
    if workers == 0:
        loading = _here(squares, numbers)
    else:
        loading = (_in_threads if in_threads else _in_processes)(squares, numbers, workers)
    with closing(loading) as loaded:
        for batch in loaded:
            if isinstance(batch, DatasetError):
                raise batch
            yield batch


def _here(squares: _Squares, order: Iterable[int]) -> Generator[SquareBatch | DatasetError]:
    for index in order:
        squares.expect(index + 1)
        yield squares[index]


def _in_threads(
    squares: _Squares, order: Iterable[int], workers: int
) -> Generator[SquareBatch | DatasetError]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
    try:
        ahead: deque[Future[SquareBatch | DatasetError]] = deque()
        for index in order:
            ahead.append(pool.submit(squares.__getitem__, index))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # A thread in a read that does not end is not waited for.
        pool.shutdown(wait=False, cancel_futures=True)


def _in_processes(
    squares: _Squares, order: Iterable[int], workers: int
) -> Generator[SquareBatch | DatasetError]:
    # Batches travel as numpy arrays through pipes: shared memory is small in many containers.
    loader = DataLoader(
        squares,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_as_is,
        worker_init_fn=_end_with_parent,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DatasetError(
            "a decoding process died (out of memory?); finished shards are kept, run the same "
            "command again, with --set extraction.workers=0 if it happens again"
        ) from None


def _end_with_parent(worker: int) -> None:
    """Set up a decoding process so that it neither outlives nor outshouts its parent."""
    # Signals to the whole group (Ctrl-C, a scheduler's SIGTERM) are the parent's to answer: it
    # then asks its workers to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # Killed, the parent cannot tell it; blocked on a full pipe, it would wait for ever.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def auto_workers(device: torch.device) -> int:
    """Decoding processes: up to eight beside a GPU. Beside networks on a CPU one, if torch leaves
    it a core: sharing theirs, it slows each of their threads, which wait for one another."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if device.type == "cpu":
        return 1 if torch.get_num_threads() < cores else 0
    return max(1, min(8, cores - 1))


def _as_is(batch: Any) -> Any:
    return batch
