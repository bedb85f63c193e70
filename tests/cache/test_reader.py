import os
import threading

import numpy as np
import pytest
import torch

from cache import (
    ArraySpec,
    CorruptShard,
    DamagedStore,
    FeatureStore,
    NotAStore,
    NotCommitted,
    QuarantinedImage,
    Recipe,
    RecipeMismatch,
    StoreError,
    StoreWriter,
    UnknownImage,
)
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    POOLED,
    QUANTISED,
    RECIPE,
    S3,
    assert_holds,
    image_records,
    values,
    write,
)


def test_a_store_knows_what_it_holds(store_path):
    store = FeatureStore.open(store_path, RECIPE)
    assert store.fingerprint == RECIPE.fingerprint
    assert store.recipe.differences(RECIPE) == []
    assert store.images == image_records(11)
    assert store.arrays == {spec.name: spec for spec in ARRAYS}
    assert len(store) == 11
    assert image_records(1)[0].id in store and "nobody.png" not in store
    assert store.quarantined == {store.ids[5]: "cannot be decoded"}


def test_batches_come_in_the_order_asked_for(store_path):
    store = FeatureStore.open(store_path)
    rows = [10, 0, 3, 3, 8]
    batch = store.read([store.ids[row] for row in rows], [S3.name, POOLED.name])
    assert batch[S3.name].dtype == torch.float16
    for position, row in enumerate(rows):
        expected = values(row, S3).astype(np.float16)
        np.testing.assert_array_equal(batch[S3.name][position].numpy(), expected)
        np.testing.assert_array_equal(batch[POOLED.name][position].numpy(), values(row, POOLED))


def test_buffers_are_reused(store_path):
    store = FeatureStore.open(store_path)
    out = {
        S3.name: torch.full((4, *S3.shape), 9, dtype=torch.float16),
        QUANTISED.name: torch.empty((4, *QUANTISED.shape)),
    }
    batch = store.read(store.ids[:3], [S3.name, QUANTISED.name, LATENT.name], out=out)
    assert batch[S3.name].data_ptr() == out[S3.name].data_ptr()
    assert batch[S3.name].shape == (3, *S3.shape)
    assert (out[S3.name][3] == 9).all()
    fresh = store.read(store.ids[:3], [S3.name, QUANTISED.name])
    assert torch.equal(batch[S3.name], fresh[S3.name])
    assert torch.equal(out[QUANTISED.name][:3], fresh[QUANTISED.name])


@pytest.mark.parametrize(
    "buffer",
    [
        torch.empty(2, *S3.shape, dtype=torch.float16),
        torch.empty(3, *S3.shape),
        torch.empty(3, 3, 4, 6, dtype=torch.float16),
        torch.empty(3, 3, 5, 4, dtype=torch.float16).transpose(2, 3),
    ],
)
def test_unfit_buffers_are_refused(store_path, buffer):
    store = FeatureStore.open(store_path)
    with pytest.raises(StoreError, match=f"buffer for {S3.name}"):
        store.read(store.ids[:3], [S3.name], out={S3.name: buffer})


def test_each_kind_of_hole_has_its_error(tmp_path):
    write(tmp_path, 3, [S3], quarantined={1})
    StoreWriter.open(tmp_path, RECIPE, image_records(9), [S3, LATENT])
    store = FeatureStore.open(tmp_path)
    with pytest.raises(UnknownImage, match="nobody"):
        store.read(["nobody"], [S3.name])
    with pytest.raises(QuarantinedImage, match="cannot be decoded"):
        store.read([store.ids[1]], [S3.name])
    for row, name in ((3, S3.name), (8, S3.name), (0, LATENT.name), (1, LATENT.name)):
        with pytest.raises(NotCommitted, match="same precompute"):
            store.read([store.ids[row]], [name])
    with pytest.raises(StoreError, match=r"no array clip/tokens; it holds sd/t195/s3"):
        store.read([store.ids[0]], ["clip/tokens"])
    assert store.readable([S3.name]) == [store.ids[0], store.ids[2]]
    assert store.readable([S3.name, LATENT.name]) == []


def test_another_recipe_is_refused_by_field(store_path):
    with pytest.raises(RecipeMismatch, match="seed: store has 0, requested 1"):
        FeatureStore.open(store_path, Recipe({**RECIPE.fields, "seed": 1}))


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(NotAStore):
        FeatureStore.open(tmp_path)
    with pytest.raises(NotAStore):
        FeatureStore.open(tmp_path / "absent")
    (tmp_path / "zarr.json").write_text('{"attributes": {}}')
    with pytest.raises(NotAStore):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"attributes": []}', "[" * 100_000, "\xff"])
@pytest.mark.parametrize("file", ["zarr.json", f"{S3.name}/zarr.json", "images.jsonl"])
def test_foreign_metadata_is_refused(store_path, file, text):
    (store_path / file).write_text(text, encoding="latin-1")
    with pytest.raises(StoreError):
        store = FeatureStore.open(store_path)
        # An array whose document says nothing of an array is gone.
        store.read(store.ids[:1], [S3.name])


@pytest.mark.parametrize("size", [0, 1, 60, 100, 500, -1, -4, -70])
def test_a_shard_that_was_cut_off_is_an_error(store_path, size):
    shard = store_path / S3.name / "c.0.0.0.0"
    os.truncate(shard, size if size >= 0 else shard.stat().st_size + size)
    store = FeatureStore.open(store_path)
    with pytest.raises(CorruptShard, match="cache verify"):
        store.read(store.ids[:1], [S3.name])


def test_a_missing_shard_or_chunk_is_an_error(store_path):
    store = FeatureStore.open(store_path)
    for name, file in ((LATENT.name, "c.0.0.0.0"), (POOLED.name, "c.0.0")):
        (store_path / name / file).unlink()
        with pytest.raises(CorruptShard, match="No such file"):
            store.read(store.ids[:1], [name])


def test_a_chunk_of_descriptors_that_was_cut_off_is_an_error(store_path):
    chunk = store_path / POOLED.name / "c.0.0"
    os.truncate(chunk, chunk.stat().st_size - 1)
    store = FeatureStore.open(store_path)
    with pytest.raises(CorruptShard):
        store.read(store.ids[:1], [POOLED.name])


@pytest.mark.parametrize("spec", ARRAYS)
def test_checking_finds_a_changed_record(store_path, spec):
    file = store_path / spec.name / ("c.0.0" if spec is POOLED else "c.0.0.0.0")
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    store = FeatureStore.open(store_path)
    store.read(store.ids[:1], [spec.name])
    with pytest.raises(CorruptShard, match=r"class 0/0\.png"):
        store.read(store.ids[:1], [spec.name], check=True)
    store.read(store.ids[1:2], [spec.name], check=True)


def test_a_damaged_index_is_an_error(store_path):
    shard = store_path / S3.name / "c.1.0.0.0"
    data = bytearray(shard.read_bytes())
    data[-12] ^= 1
    shard.write_bytes(data)
    store = FeatureStore.open(store_path)
    with pytest.raises(CorruptShard, match="index"):
        store.read(store.ids[4:5], [S3.name])


def test_a_damaged_commit_is_an_error(store_path):
    commit = store_path / "commits" / "000000.json"
    commit.write_bytes(commit.read_bytes().replace(b'"quarantined":{}', b'"quarantined":[]'))
    with pytest.raises(DamagedStore, match=r"000000\.json"):
        store = FeatureStore.open(store_path)
        store.read(store.ids[:1], [S3.name])


def test_swapped_image_lines_are_an_error(store_path):
    images = store_path / "images.jsonl"
    lines = images.read_bytes().splitlines(keepends=True)
    images.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DamagedStore, match=r"images\.jsonl"):
        FeatureStore.open(store_path)


def test_few_files_stay_open(store_path, monkeypatch):
    monkeypatch.setattr("cache.reading.mapped._MAX_MAPPED_FILES", 2)
    store = FeatureStore.open(store_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(2):
        for row in (0, 4, 8, 1, 9):
            for spec in ARRAYS:
                assert_holds(store, row, spec)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_an_open_store_keeps_reading_while_the_store_grows(tmp_path):
    write(tmp_path, 6)
    store = FeatureStore.open(tmp_path)
    assert_holds(store, 4, S3)
    assert_holds(store, 4, POOLED)
    write(tmp_path, 11)
    for row in range(6):
        for spec in ARRAYS:
            assert_holds(store, row, spec)
    assert len(store) == 6 and len(FeatureStore.open(tmp_path)) == 11


def test_descriptors_committed_after_the_chunk_was_first_mapped_are_seen(tmp_path):
    writer = StoreWriter.open(tmp_path, RECIPE, image_records(8), [POOLED], shard_size=4)
    store = FeatureStore.open(tmp_path)
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                shard.put(row, {POOLED.name: values(row, POOLED)})
            shard.commit()
        assert_holds(store, task.rows[-1], POOLED)


def test_several_threads_read_one_store(store_path, monkeypatch):
    monkeypatch.setattr("cache.reading.mapped._MAX_MAPPED_FILES", 2)
    store = FeatureStore.open(store_path)
    wrong = []

    def read_all() -> None:
        try:
            for row in [0, 9, 4, 2, 8, 7] * 20:
                for spec in ARRAYS:
                    assert_holds(store, row, spec)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_int8_is_read_as_float32(store_path):
    store = FeatureStore.open(store_path)
    read = store.read(store.ids[:2], [QUANTISED.name])[QUANTISED.name]
    assert read.dtype == torch.float32
    assert store.arrays[QUANTISED.name] == ArraySpec(QUANTISED.name, QUANTISED.shape, "int8")


def test_asking_for_no_array_is_answered_too(tmp_path):
    StoreWriter.open(tmp_path, RECIPE, [], [S3])
    store = FeatureStore.open(tmp_path)
    assert store.readable([]) == store.readable([S3.name]) == []
    assert store.read([], [S3.name])[S3.name].shape == (0, *S3.shape)
