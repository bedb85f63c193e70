"""How often pictures are read and hashed: as rarely as the bytes of a store allow."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.datasets.files
import pipeline.datasets.listing
import pipeline.inputs.collection
import pipeline.inputs.loader
from cache import FeatureStore, HashIndex, ImageRecord, StoreError, verify_store
from configs import Config, load_config
from pipeline.datasets import open_dataset
from pipeline.inputs.collection import content_hash, scan
from pipeline.precompute import Part, precompute
from tests import tiny
from tests.pipeline.test_precompute import array_bytes, world

__all__ = ["world"]  # the fixture

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures, whose times are trusted as if they had not been made just now."""
    monkeypatch.setattr(pipeline.datasets.listing, "SETTLED_NS", 0)
    tiny.write_images(tmp_path / "pictures", 6)
    return tmp_path / "pictures"


@pytest.fixture
def config(world: Path, pictures: Path) -> Config:
    sets = ("extraction.shard_size=2", "extraction.ensemble=1", "extraction.timesteps=[195]")
    return load_config(world / "config.yaml", (*sets, f"dataset.root={pictures}"))


@pytest.fixture
def n_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file was read, and bytes were hashed, in this process."""
    calls: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            calls[name] += 1
            return call(*arguments)

        return counting

    reading = counted("read", pipeline.datasets.files.read_image_file)
    hashing = counted("hash", content_hash)
    monkeypatch.setattr(pipeline.datasets.files, "read_image_file", reading)
    monkeypatch.setattr(pipeline.inputs.collection, "content_hash", hashing)
    monkeypatch.setattr(pipeline.inputs.loader, "content_hash", hashing)
    return calls


def test_a_process_hashes_each_picture_once(
    config: Config, tmp_path: Path, n_calls: Counter[str]
) -> None:
    """It reads them twice: to list them, and to decode them."""
    precompute(config, tmp_path / "s")
    assert n_calls == {"read": 12, "hash": 6}


def test_later_parts_and_runs_read_what_they_compute(
    config: Config, tmp_path: Path, n_calls: Counter[str]
) -> None:
    precompute(config, tmp_path / "s", Part(1, 3))
    assert n_calls == {"read": 6 + 2, "hash": 6}
    for part in (Part(2, 3), Part(3, 3)):
        n_calls.clear()
        precompute(config, tmp_path / "s", part)
        assert n_calls == {"read": 2, "hash": 2}  # Hashed when decoded: an index is no proof.
    n_calls.clear()
    assert precompute(config, tmp_path / "s").n_already_there == 6
    assert n_calls == {}
    (tmp_path / "s.hashes.jsonl").unlink()
    precompute(config, tmp_path / "whole")
    assert array_bytes(tmp_path / "s") == array_bytes(tmp_path / "whole")
    assert verify_store(tmp_path / "s").notes == ()


def test_parts_that_begin_together_list_the_pictures_once(
    config: Config, tmp_path: Path, n_calls: Counter[str]
) -> None:
    begun = CONTEXT.Barrier(3)
    results = CONTEXT.SimpleQueue()

    def work(part: Part) -> None:
        def log(line: str) -> None:
            if line.startswith("hashing"):
                begun.wait()

        precompute(config, tmp_path / "s", part, log=log)
        results.put(n_calls["read"])

    processes = [CONTEXT.Process(target=work, args=(Part(k, 3),)) for k in (1, 2, 3)]
    for process in processes:
        process.start()
    total = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert total == 6 + 6  # Each once to list them, and once to decode them.


def test_a_picture_replaced_after_it_was_stored_is_an_error(
    config: Config, pictures: Path, tmp_path: Path
) -> None:
    """Of the same length and with the same modification time."""
    precompute(config, tmp_path / "s")
    picture = sorted(pictures.iterdir())[0]
    status, data = picture.stat(), bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 1
    picture.write_bytes(data)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert picture.stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(StoreError, match="its file has changed since it was stored"):
        precompute(config, tmp_path / "s")


def test_a_picture_replaced_while_precompute_runs_is_not_taken(
    config: Config, pictures: Path, tmp_path: Path
) -> None:
    first, second = sorted(pictures.iterdir())[:2]

    def replace(line: str) -> None:
        if line.startswith("store"):
            shutil.copy(second, first)

    report = precompute(config, tmp_path / "s", log=replace)
    assert list(report.quarantined) == [first.name]
    assert "changed after it was listed" in report.quarantined[first.name]


def test_an_index_that_lies_puts_no_wrong_number_into_a_store(
    config: Config, pictures: Path, tmp_path: Path
) -> None:
    """What it says is compared with the bytes that are decoded."""
    dataset = open_dataset("folder", pictures)
    name = dataset.ids[0]
    index = HashIndex.beside(tmp_path / "s")
    signature = dataset.signature(name)
    assert signature is not None
    index.add(ImageRecord(name, "0" * 64, 8, 8), signature)
    index.save()
    report = precompute(config, tmp_path / "s")
    assert list(report.quarantined) == [name]


@pytest.mark.parametrize("damage", ["flipped", "cut", "folder", "words"])
def test_a_damaged_index_costs_only_time(
    config: Config, tmp_path: Path, n_calls: Counter[str], damage: str
) -> None:
    store, index = tmp_path / "s", tmp_path / "s.hashes.jsonl"
    precompute(config, store, Part(1, 3))
    data = index.read_bytes()
    index.unlink()
    match damage:
        case "flipped":
            index.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
        case "cut":
            index.write_bytes(data[: len(data) // 2])
        case "folder":
            index.mkdir()
        case "words":
            index.write_text("[[[\n{}")
    n_calls.clear()
    assert precompute(config, store).n_computed == 4
    assert n_calls == {"read": 6 + 4, "hash": 6}
    assert len(FeatureStore.open(store).readable(["sd/t195/s3"])) == 6


def test_times_of_files_that_changed_just_now_are_not_trusted(tmp_path: Path) -> None:
    tiny.write_images(tmp_path, 2)
    dataset = open_dataset("folder", tmp_path)
    assert dataset.signature(dataset.ids[0]) is None
    collection = scan(dataset, index=HashIndex(tmp_path / "index"))
    assert collection.hashed == {}
    assert not (tmp_path / "index").exists()


def test_an_index_forgets_nothing_that_another_process_saved(tmp_path: Path) -> None:
    here, there = HashIndex(tmp_path / "index"), HashIndex(tmp_path / "index")
    records = [ImageRecord(name, name * 64, 1, 2) for name in "ab"]
    here.add(replace(records[1], sha256="c" * 64), "an older signature")
    for index, record in zip((here, there), records, strict=True):
        index.add(record, f"signature of {record.id}")
        index.save()
    again = HashIndex(tmp_path / "index")
    assert [again.get(record.id, f"signature of {record.id}") for record in records] == records
    assert again.get("a", "another signature") is None
    assert again.get("a", None) is None
