"""Exports read as other people's tools read them: plain h5py, numpy, tarfile, WebDataset, Arrow."""

import io
import json
import tarfile

import h5py
import numpy as np
import pytest

from cache import FeatureStore, StoreError
from cache.exchange import export_store
from cache.exchange.webdataset import key_of
from tests.cache.stores import POOLED, RECIPE, S3, values

ROWS = [row for row in range(11) if row != 5]
IDS = [f"class {row % 3}/{row}.png" for row in ROWS]


def test_hdf5_is_read_by_array(tmp_path, store_path):
    export_store(store_path, tmp_path / "out.h5", "hdf5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["ids"].asstr()[:].tolist() == IDS
        maps = file["sd/t195/s3"]
        assert (maps.shape, maps.dtype, maps.chunks) == ((10, 3, 4, 5), "<f2", (1, 3, 4, 5))
        assert np.isnan(maps.fillvalue)
        np.testing.assert_array_equal(maps[7], values(ROWS[7], S3).astype(np.float16))
        int8, scale = file["sd/t195/s4"], file["sd/t195/s4_scale"]
        assert int8.attrs["decode"] == "values x sd/t195/s4_scale, per channel"
        decoded = int8[:] * scale[:][:, :, None, None]
        read = FeatureStore.open(store_path).read(IDS, ["sd/t195/s4"])["sd/t195/s4"]
        np.testing.assert_array_equal(decoded, read.numpy())
        assert json.loads(file.attrs["recipe"]) == RECIPE.fields
        assert file.attrs["fingerprint"] == RECIPE.fingerprint
        (quarantined,) = json.loads(file.attrs["quarantined"])
        assert (quarantined["id"], quarantined["row"]) == ("class 2/5.png", 5)
        assert quarantined["reason"] == "cannot be decoded"
        assert json.loads(file.attrs["images"][0])["id"] == IDS[0]


def test_hdf5_is_read_by_image(tmp_path, store_path):
    """As hloc reads its feature files: one group per image, named as its file."""
    export_store(store_path, tmp_path / "out.h5", "hdf5-images")
    with h5py.File(tmp_path / "out.h5") as file:
        for row, image_id in zip(ROWS, IDS, strict=True):
            found = file[image_id]["sd/t195/s3"].__array__()
            np.testing.assert_array_equal(found, values(row, S3).astype(np.float16))
        assert "class 2/5.png" not in file


def test_tars_are_read_by_tarfile_and_depend_on_the_store_alone(tmp_path, store_path):
    export_store(store_path, tmp_path / "out", "webdataset", tar_bytes=30_000)
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in tars] == ["features-000000.tar", "features-000001.tar"]
    with tarfile.open(tars[0]) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert {member.mtime for member in tar} == {0}
    key = "class%200/0%2Epng"
    assert json.loads(members[f"{key}.json"])["id"] == IDS[0]
    loaded = np.load(io.BytesIO(members[f"{key}.sd.t195.s3.npy"]), allow_pickle=False)
    np.testing.assert_array_equal(loaded, values(0, S3).astype(np.float16))


def test_tars_are_read_by_webdataset(tmp_path, store_path):
    wds = pytest.importorskip("webdataset")
    export_store(store_path, tmp_path / "out", "webdataset", tar_bytes=30_000)
    url = str(tmp_path / "out" / "features-{000000..000001}.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False).decode())
    assert [sample["json"]["id"] for sample in samples] == IDS
    for row, sample in zip(ROWS, samples, strict=True):
        np.testing.assert_array_equal(sample["clip.pooled.npy"], values(row, POOLED))


def test_keys_differ_where_ids_do_and_have_no_dot():
    ids = ["a.b", "a%2Eb", "a b", "é", "a/b.c.png", "a/b", "\udce9"]
    keys = [key_of(image_id) for image_id in ids]
    assert len(set(keys)) == len(ids)
    assert not any("." in key for key in keys)


def test_npy_files_are_mapped_by_numpy(tmp_path, store_path):
    export_store(store_path, tmp_path / "out", "npy")
    maps = np.load(tmp_path / "out/sd/t195/s3.npy", mmap_mode="r", allow_pickle=False)
    assert maps.shape == (10, 3, 4, 5)
    np.testing.assert_array_equal(maps[9], values(10, S3).astype(np.float16))
    lines = (tmp_path / "out/images.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == IDS
    assert json.loads((tmp_path / "out/description.json").read_text())["recipe"] == RECIPE.fields


def test_parquet_is_read_by_arrow(tmp_path, store_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(StoreError, match="add --descriptors"):
        export_store(store_path, tmp_path / "out.parquet", "parquet")
    export_store(store_path, tmp_path / "out.parquet", "parquet", descriptors=True)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "sha256", "width", "height", "clip/pooled"]
    assert table["id"].to_pylist() == IDS
    assert table["width"].to_pylist()[:5] == [10, 11, 12, 13, None]
    vectors = np.array(table["clip/pooled"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, [values(row, POOLED) for row in ROWS])
    assert json.loads(table.schema.metadata[b"sketchfusion"])["fingerprint"] == RECIPE.fingerprint
