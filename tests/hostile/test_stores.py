"""Stores and runs from a stranger: their seals are checksums, and anybody can make one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cache import FeatureStore, StoreError, verify_store
from cache.format.checksums import canonical_json, sealed
from cache.format.layout import document_bytes
from cache.format.metadata import safe_id
from heads.protocols import Parts, RecognitionPart
from heads.training.run import Run, RunError
from tests.cache import stores
from tests.heads.worlds import run
from tests.hostile.bounds import bounded
from tests.hostile.mutate import damaged, damaged_json


@pytest.fixture
def store(tmp_path: Path) -> Path:
    stores.write(tmp_path / "store", 9, quarantined=[3])
    return tmp_path / "store"


def read_everything(path: Path) -> None:
    store = FeatureStore.open(path)
    assert all(safe_id(image_id) for image_id in store.ids)
    ids = store.readable(list(store.arrays))
    store.read(ids[:3], list(store.arrays), check=True)
    assert all(isinstance(reason, str) for reason in store.quarantined.values())


def try_all(store: Path, file: Path, cases: Iterable[bytes]) -> None:
    """Every case is read or refused, and `verify` comes to an end."""
    for data in cases:
        file.write_bytes(data)
        try:
            read_everything(store)
        except StoreError as error:
            assert str(error)
        try:
            verify_store(store)
        except StoreError as error:
            assert str(error)


def encoded(document: Any) -> bytes:
    try:
        return document_bytes(document)
    except ValueError:  # NaN
        return json.dumps(document).encode()


def resealed(document: Any) -> bytes:
    with suppress(LookupError, TypeError, AttributeError, ValueError):
        document["attributes"] = sealed(document["attributes"])
    return encoded(document)


def commit(document: Any) -> bytes:
    try:
        return canonical_json(sealed(document)) + b"\n"
    except (TypeError, AttributeError, ValueError):
        return json.dumps(document).encode()


def test_damaged_roots(store: Path) -> None:
    data = (store / "zarr.json").read_bytes()
    try_all(store, store / "zarr.json", damaged(data, 30, seed=1))
    documents = damaged_json(json.loads(data), 60, seed=2)
    try_all(store, store / "zarr.json", map(resealed, documents))


def test_damaged_image_lists(store: Path) -> None:
    file = store / "images.jsonl"
    try_all(store, file, damaged(file.read_bytes(), 60, seed=3))


@pytest.mark.parametrize("array", ["sd/t195/s3", "sd/t195/s4_scale", "clip/pooled"])
def test_damaged_arrays(store: Path, array: str) -> None:
    file = store / array / "zarr.json"
    documents = damaged_json(json.loads(file.read_bytes()), 60, seed=4)
    try_all(store, file, map(encoded, documents))
    data = next((store / array).glob("c.*"))
    try_all(store, data, damaged(data.read_bytes(), 20, seed=5))


@pytest.mark.parametrize("shard", ["000000", "000002"])
def test_damaged_commits(store: Path, shard: str) -> None:
    file = store / "commits" / f"{shard}.json"
    try_all(store, file, map(commit, damaged_json(json.loads(file.read_bytes()), 80, seed=6)))


@pytest.mark.parametrize(
    "shape", [[10**15, 3, 4, 5], [9, 10**6, 10**6, 5], ["9", 3, 4, 5], [-1, 3, 4, 5]]
)
def test_absurd_shapes_allocate_nothing(store: Path, shape: list[Any]) -> None:
    file = store / "sd/t195/s3/zarr.json"
    document = json.loads(file.read_bytes())
    document["shape"] = shape
    document["chunk_grid"]["configuration"]["chunk_shape"][1:] = shape[1:]
    document["codecs"][0]["configuration"]["chunk_shape"][1:] = shape[1:]
    file.write_bytes(document_bytes(document))
    found = bounded(lambda: read_everything(store), mib=128)
    assert found.startswith(("DamagedStore: ", "StoreError: ")), found


@pytest.mark.parametrize("image_id", ["../x.png", "/x.png", "a/../../x.png", "a\0b.png", ""])
def test_ids_stay_inside_the_collection(store: Path, image_id: str) -> None:
    file = store / "images.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["id"] = image_id
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StoreError, match="line 1 is not an image record"):
        FeatureStore.open(store)


FILES = ["zarr.json", "images.jsonl", "commits/000000.json", "sd/t195/s3/zarr.json"]


@pytest.mark.parametrize("name", [*FILES, "sd/t195/s3/c.0.0.0.0"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "huge"])
def test_pipes_devices_and_endless_files(store: Path, name: str, kind: str) -> None:
    path = store / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    refusals = ("False", "DamagedStore", "StoreError", "CorruptShard", "NotAStore")
    for call in (lambda: read_everything(store), lambda: verify_store(store).sound):
        found = bounded(call, mib=512)
        assert found.split(":")[0] in refusals, found


def test_the_command_says_it_in_one_line(store: Path) -> None:
    for data in damaged((store / "zarr.json").read_bytes(), 6, seed=7):
        (store / "zarr.json").write_bytes(data)
        for command in ("info", "ls", "verify"):
            result = run("cache", command, store)
            assert "Traceback" not in result.output
            assert result.exit_code == 0 or len(result.stderr.strip().splitlines()) <= 1


NOTHING = RecognitionPart((), (), ())
FACTS = {"stores": [{"path": "x", "fingerprint": "f", "recipe": {"a": 1}}], "n": 3}


@pytest.mark.parametrize(
    ("name", "document"),
    [("run.json", FACTS), ("split.json", {"train": ["a"], "val": [], "test": ["b"]})],
)
def test_damaged_runs(tmp_path: Path, name: str, document: Any) -> None:
    kept = Run(tmp_path)
    for changed in [*damaged_json(document, 150, seed=8), "[" * 50_000]:
        text = changed if isinstance(changed, str) else json.dumps(changed)
        (tmp_path / name).write_text(text)
        try:
            if name == "run.json":
                kept.store_paths()
                kept.check_stores([])
            else:
                kept.check_split(Parts(NOTHING, NOTHING, NOTHING))
        except RunError as error:
            assert str(tmp_path) in str(error)


def test_damaged_curves_and_lists(tmp_path: Path) -> None:
    kept = Run(tmp_path)
    line = {"step": 1, "epoch": 1, "loss": 0.5}
    for changed in damaged_json(line, 100, seed=9):
        (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(changed)}\n{'[' * 9999}\n")
        kept.rewind(1, 1)
        assert all(entry["step"] <= 1 for entry in kept.curve())
        (tmp_path / "images.txt").write_text(f"{json.dumps(changed)}\n")
        with pytest.raises(RunError):
            kept.image_ids()
