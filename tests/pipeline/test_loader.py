"""Decoding ahead: the same batches, in order, whether in this thread, in others or in processes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import ImageRecord
from pipeline.datasets.folder import FolderDataset
from pipeline.inputs.collection import scan
from pipeline.inputs.loader import (
    LoadingError,
    RowBatch,
    SquareBatch,
    auto_workers,
    load_squares,
)
from tests import tiny

SIDE = 32
BATCHES = [RowBatch(key, range(3 * key, 3 * key + 3)) for key in range(4)]


@pytest.fixture
def dataset(tmp_path: Path) -> FolderDataset:
    """Twelve pictures, the second of which cannot be decoded."""
    tiny.write_images(tmp_path / "pictures", 12, seed=3)
    sorted((tmp_path / "pictures").iterdir())[1].write_bytes(b"no picture")
    return FolderDataset(tmp_path / "pictures")


@pytest.fixture
def images(dataset: FolderDataset) -> list[ImageRecord]:
    return list(scan(dataset).images)


def load(
    dataset: FolderDataset, images: list[ImageRecord], workers: int, in_threads: bool
) -> list[SquareBatch]:
    return list(load_squares(dataset, images, BATCHES, SIDE, "edge", workers, in_threads))


@pytest.mark.parametrize(("workers", "in_threads"), [(1, False), (1, True), (3, True), (9, True)])
def test_batches_are_the_same_and_in_order(
    dataset: FolderDataset, images: list[ImageRecord], workers: int, in_threads: bool
) -> None:
    plain = load(dataset, images, 0, False)
    assert [batch.key for batch in plain] == [0, 1, 2, 3]
    assert list(plain[0].unreadable) == [1]
    found = load(dataset, images, workers, in_threads)
    assert [(b.key, b.rows, b.unreadable) for b in found] == [
        (b.key, b.rows, b.unreadable) for b in plain
    ]
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours.squares, theirs.squares)


class Gate(FolderDataset):
    """Says when it is read, and can keep a reader waiting."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []
        self.expected: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.fourth = threading.Event()

    def expect(self, image_id: str) -> None:
        self.expected.append(image_id)
        super().expect(image_id)

    def read(self, image_id: str) -> bytes:
        self.reads.append(image_id)
        if len(self.reads) >= 4:
            self.fourth.set()
        self.open.wait()
        return super().read(image_id)


def test_threads_decode_while_the_batch_before_is_used(
    dataset: FolderDataset, images: list[ImageRecord]
) -> None:
    gate = Gate(dataset.root)
    batches = load_squares(gate, images, BATCHES, SIDE, "edge", 1, in_threads=True)
    assert next(batches).key == 0
    assert gate.fourth.wait(20)  # a picture of the second batch, which nobody has asked for
    batches.close()


def test_a_thread_whose_read_does_not_end_is_not_waited_for(
    dataset: FolderDataset, images: list[ImageRecord]
) -> None:
    gate = Gate(dataset.root)
    batches = load_squares(gate, images, BATCHES[:2] * 4, SIDE, "edge", 1, in_threads=True)
    next(batches)
    gate.open.clear()
    batches.close()  # would wait for ever
    gate.open.set()


def test_without_workers_the_disk_begins_with_the_batch_after(
    dataset: FolderDataset, images: list[ImageRecord]
) -> None:
    gate = Gate(dataset.root)
    (dataset.root / images[5].id).unlink()  # to hear of it is no error
    batches = load_squares(gate, images, BATCHES, SIDE, "edge", 0)
    first = next(batches)
    assert gate.reads == [images[row].id for row in (0, 1, 2)]
    assert gate.expected == [images[row].id for row in (3, 4, 5)]
    batches.close()
    assert first.rows == [0, 2]


def test_processes_decode_where_the_networks_leave_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    found = []
    for n_threads in (1, 3, 4):
        monkeypatch.setattr("torch.get_num_threads", lambda n=n_threads: n)
        found.append((auto_workers(cpu), auto_workers(cuda)))
    assert found == [(1, 3), (1, 3), (0, 3)]


def test_what_a_thread_cannot_read_is_one_line(
    dataset: FolderDataset, images: list[ImageRecord]
) -> None:
    picture = dataset.root / images[4].id
    picture.unlink()
    picture.mkdir()
    with pytest.raises(LoadingError, match="cannot be read"):
        load(dataset, images, 2, True)
