"""A batch's records shared among threads: each done once, errors raised, nothing left running."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from cache import CorruptShard, FeatureStore
from cache.format.layout import CRC_BYTES
from cache.reading.threads import shared, threads_for
from tests.cache.stores import ARRAYS, S3

MIB = 2**20


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_each_item_is_done_once(n_threads: int) -> None:
    done: list[int] = []
    shared(done.append, range(7), n_threads)
    assert sorted(done) == list(range(7))


def test_the_threads_work_at_the_same_time() -> None:
    together = threading.Barrier(3)
    shared(lambda item: together.wait(20), range(3), 3)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_in_any_thread_is_raised_when_all_have_ended(bad: int) -> None:
    before = threading.active_count()

    def work(item: int) -> None:
        if item == bad:
            raise KeyError(item)

    with pytest.raises(KeyError, match=str(bad)):
        shared(work, range(3), 3)
    assert threading.active_count() == before


def test_threads_go_by_the_bytes_and_by_what_torch_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n_torch, expected in ((1, [1, 1, 1]), (2, [1, 2, 2]), (64, [1, 2, 4])):
        monkeypatch.setattr("torch.get_num_threads", lambda n=n_torch: n)
        assert [threads_for(n * MIB) for n in (0, 8, 1000)] == expected


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for the few bytes of a test's store."""
    monkeypatch.setattr("cache.reading.threads._BYTES_A_THREAD", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)


@pytest.mark.parametrize("check", [False, True])
def test_a_batch_read_by_three_threads_is_the_batch_read_by_one(
    store_path: Path, request: pytest.FixtureRequest, check: bool
) -> None:
    names = [spec.name for spec in ARRAYS]
    store = FeatureStore.open(store_path)
    ids = store.readable(names)
    alone = store.read(ids, names, check=check)
    request.getfixturevalue("three_threads")
    assert threads_for(1000) == 3
    together = store.read(ids, names, check=check)
    for name in names:
        assert torch.equal(together[name], alone[name])


@pytest.mark.usefixtures("three_threads")
def test_three_threads_find_a_flipped_bit_wherever_it_is(store_path: Path) -> None:
    ids = FeatureStore.open(store_path).ids[:3]
    file = store_path / S3.name / "c.0.0.0.0"
    data = file.read_bytes()
    stride = S3.zarr_arrays[0].record_bytes + CRC_BYTES
    for slot in range(3):
        flipped = bytearray(data)
        flipped[slot * stride + 5] ^= 1
        file.write_bytes(flipped)
        store = FeatureStore.open(store_path)
        with pytest.raises(CorruptShard, match=re.escape(store.ids[slot])):
            store.read(ids, [S3.name], check=True)


@pytest.mark.usefixtures("three_threads")
def test_processes_forked_after_a_read_can_read(store_path: Path) -> None:
    store = FeatureStore.open(store_path)
    ids = store.readable([S3.name])
    here = store.read(ids, [S3.name])[S3.name]
    loader = DataLoader(
        ids,
        batch_size=4,
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=lambda batch: store.read(batch, [S3.name])[S3.name].clone(),
    )
    assert torch.equal(torch.cat(list(loader)), here)
