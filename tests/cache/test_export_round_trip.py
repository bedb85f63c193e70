"""Whatever a store holds, an export of it becomes the same store again, byte for byte."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import (
    ArraySpec,
    FeatureStore,
    ImageRecord,
    Recipe,
    StoreError,
    StoreWriter,
    verify_store,
)
from cache.exchange import export_store
from cache.exchange.imports import import_store
from cache.format.layout import commit_path
from tests.cache.stores import (
    ARRAYS,
    POOLED,
    RECIPE,
    S3,
    array_contents,
    contents,
    fill,
    image_records,
    values,
    write,
)

FORMATS = ("hdf5", "hdf5-images", "webdataset", "npy")

sizes = st.integers(1, 4)
maps = st.tuples(sizes, sizes, sizes)
specs = st.one_of(
    st.tuples(maps, st.sampled_from(["float32", "float16", "int8"])),
    st.tuples(st.tuples(sizes), st.sampled_from(["float32", "float16"])),
)
names = st.text('ab./%_ é\n\\"漢🙂\udce9', min_size=1, max_size=8)


def path_like(name: str) -> bool:
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts)


@st.composite
def collections(draw):
    """Images, features of them, rows that are unreadable, a shard size."""
    # With an ending, no id is the folder of another one.
    ids = draw(st.lists(names.filter(path_like), max_size=9, unique=True))
    images = [
        ImageRecord(f"{name}.png", hashlib.sha256(repr(name).encode()).hexdigest(), None, 7)
        for name in ids
    ]
    chosen = draw(st.lists(specs, min_size=1, max_size=4))
    arrays = [
        ArraySpec(name, shape, dtype)
        for name, (shape, dtype) in zip(
            ["sd/t1/s3", "sd/t20/s3", "clip-tokens", "pooled"], chosen, strict=False
        )
    ]
    rows = draw(st.sets(st.integers(0, 8), max_size=3))
    return images, arrays, rows, draw(st.integers(1, 5))


@settings(deadline=None, max_examples=60)
@given(collections(), st.sampled_from(["hdf5", "webdataset", "npy"]))
def test_the_round_trip_is_exact(collection, layout):
    images, arrays, quarantined, shard_size = collection
    with tempfile.TemporaryDirectory() as folder:
        store, out, back = (Path(folder, name) for name in ("store", "out", "back"))
        provenance = {"device": "cpu", "injection": {}}
        fill(StoreWriter.open(store, RECIPE, images, arrays, shard_size, provenance), quarantined)
        export_store(store, out, layout)
        import_store(out, back)
        assert_equal_stores(store, back)


def assert_equal_stores(store: Path, back: Path) -> None:
    """Every byte but the timings."""
    assert array_contents(back) == array_contents(store)
    assert FeatureStore.open(back).quarantined == FeatureStore.open(store).quarantined
    for shard in range(len(list((store / "commits").iterdir()))):
        before, after = (
            json.loads(commit_path(path, shard).read_bytes()) for path in (store, back)
        )
        assert {**before, "timings": 0, "checksum": 0} == {**after, "timings": 0, "checksum": 0}
    report = verify_store(back)
    assert report.sound
    assert not report.notes


@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_round_trips_a_store_with_all_kinds_of_arrays(tmp_path, store_path, layout):
    report = export_store(store_path, tmp_path / "out", layout)
    assert (report.n_images, report.n_quarantined, report.n_unfinished) == (10, 1, 0)
    imported = import_store(tmp_path / "out", tmp_path / "back")
    assert (imported.n_images, imported.n_written, imported.n_quarantined) == (11, 11, 1)
    assert imported.fingerprint == RECIPE.fingerprint
    assert_equal_stores(store_path, tmp_path / "back")
    # And what comes out of the copy is the same file again.
    export_store(tmp_path / "back", tmp_path / "again", layout)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


def files_of(path: Path) -> dict[str, bytes]:
    return contents(path) if path.is_dir() else {"": path.read_bytes()}


def test_quantising_a_decoded_map_gives_it_again():
    """Whatever the scale: all mantissas of the largest magnitude, and subnormal numbers."""
    mantissas = np.arange(2**23, dtype=np.uint32)
    for largest in (mantissas | np.uint32(127 << 23), mantissas[1::2]):
        scale = largest.view(np.float32) / np.float32(127)
        decoded = scale * np.float32(127)
        assert (decoded / np.float32(127) == scale).all()


@pytest.mark.parametrize("layout", FORMATS)
def test_unfinished_images_and_other_arrays_stay_out(tmp_path, layout):
    store = tmp_path / "store"
    write(store, 11, ARRAYS, quarantined={5})
    write(store, 13, [S3], quarantined={5})
    # Shard 3 has 12 only of S3, and of the others nothing of 11 and 12.
    report = export_store(store, tmp_path / "out", layout, ["sd/*/s4", "clip/pooled"])
    assert report.arrays == ["clip/pooled", "sd/t195/s4"]
    assert (report.n_images, report.n_unfinished) == (10, 2)
    import_store(tmp_path / "out", tmp_path / "back")
    back = FeatureStore.open(tmp_path / "back")
    assert back.ids == FeatureStore.open(store).ids[:11]
    assert list(back.arrays) == ["clip/pooled", "sd/t195/s4"]
    assert verify_store(back.path).sound


def test_an_interrupted_import_goes_on(tmp_path, store_path, monkeypatch):
    export_store(store_path, tmp_path / "out", "hdf5")

    def stop(done: int, n_images: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_store(tmp_path / "out", tmp_path / "back", stop)
    assert verify_store(tmp_path / "back").sound
    assert FeatureStore.open(tmp_path / "back").committed["clip/pooled"].sum() == 4
    seen: list[tuple[int, int]] = []
    report = import_store(tmp_path / "out", tmp_path / "back", lambda *news: seen.append(news))
    assert (seen[0], seen[-1], report.n_written) == ((5, 11), (11, 11), 7)
    assert_equal_stores(store_path, tmp_path / "back")
    assert import_store(tmp_path / "out", tmp_path / "back").n_written == 0


def test_two_exports_of_one_recipe_join_in_one_store(tmp_path, store_path):
    export_store(store_path, tmp_path / "maps", "npy", ["sd/*", "vae/*"])
    export_store(store_path, tmp_path / "rest", "webdataset", ["clip/*"])
    import_store(tmp_path / "maps", tmp_path / "back")
    import_store(tmp_path / "rest", tmp_path / "back")
    assert_equal_stores(store_path, tmp_path / "back")


def test_another_recipe_or_a_store_with_gaps_is_refused(tmp_path, store_path):
    export_store(store_path, tmp_path / "out.h5", "hdf5")
    other = tmp_path / "other"
    fill(StoreWriter.open(other, Recipe({"seed": 1}), image_records(3), ARRAYS, 4))
    with pytest.raises(StoreError, match="another recipe"):
        import_store(tmp_path / "out.h5", other)
    gaps = tmp_path / "gaps"
    StoreWriter.open(gaps, RECIPE, [ImageRecord("mine.png", "0" * 64, 1, 1)], ARRAYS, 4)
    with pytest.raises(StoreError, match=r"mine\.png is not computed there"):
        import_store(tmp_path / "out.h5", gaps)


@pytest.mark.parametrize("layout", (*FORMATS, "parquet"))
def test_an_export_is_there_whole_or_not_at_all(tmp_path, store_path, layout):
    commit = json.loads(commit_path(store_path, 1).read_bytes())
    assert commit["shard"] == 1
    shard = store_path / POOLED.name / "c.0.0"
    data = bytearray(shard.read_bytes())
    data[9 * 7 * 4 + 1] ^= 1  # row 9
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"clip/pooled of class 0/9\.png does not fit"):
        export_store(store_path, tmp_path / "out", layout, descriptors=layout == "parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("layout", FORMATS)
def test_what_exists_is_replaced_on_demand_only(tmp_path, store_path, layout):
    out = tmp_path / "out"
    export_store(store_path, out, layout, ["clip/pooled"])
    before = files_of(out)
    with pytest.raises(StoreError, match="exists already"):
        export_store(store_path, out, layout)
    assert files_of(out) == before
    export_store(store_path, out, layout, ["vae/latent"], force=True)
    assert files_of(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    with pytest.raises(StoreError, match="a folder that is no export"):
        export_store(store_path, store_path, layout, force=True)
    assert verify_store(store_path).sound


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("layout", ["hdf5", "npy"])
def test_a_replacement_that_is_stopped_leaves_one_of_the_two(
    tmp_path, store_path, monkeypatch, layout, at
):
    out = tmp_path / "out"
    export_store(store_path, out, layout, ["clip/pooled"])
    before = files_of(out)
    replace, n_calls = os.replace, 0

    def stopped(source, target):
        nonlocal n_calls
        n_calls += Path(source).parent.name.startswith(".out") or Path(source) == out
        if n_calls == at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        export_store(store_path, out, layout, ["vae/latent"], force=True)
    monkeypatch.undo()
    # Where nothing had to be moved away, the second call is never made.
    assert files_of(out) == before or (layout == "hdf5" and at == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_what_a_killed_export_left_goes_with_the_next(tmp_path, store_path):
    leftover = tmp_path / ".out.h5.0123456789ab.tmp"
    leftover.mkdir()
    (leftover / "new").write_bytes(b"half")
    export_store(store_path, tmp_path / "out.h5", "hdf5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "store"]


def test_ids_that_hdf5_cannot_name_a_group_by(tmp_path):
    images = [ImageRecord("caf\udce9.png", "0" * 64, 1, 1)]
    fill(StoreWriter.open(tmp_path / "store", RECIPE, images, [POOLED], 4))
    with pytest.raises(StoreError, match=r"caf\\udce9.png: its id cannot name a group"):
        export_store(tmp_path / "store", tmp_path / "out", "hdf5-images")


def test_numbers_in_an_export_are_those_that_were_put(tmp_path, store_path):
    export_store(store_path, tmp_path / "out", "npy", ["clip/pooled"])
    loaded = np.load(tmp_path / "out" / "clip/pooled.npy", allow_pickle=False)
    rows = [row for row in range(11) if row != 5]
    np.testing.assert_array_equal(loaded, [values(row, POOLED) for row in rows])
