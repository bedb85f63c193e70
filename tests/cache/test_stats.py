"""Statistics against plain numpy over everything at once."""

import math

import numpy as np
import pytest

from cache import ArraySpec, FeatureStore, StoreError, StoreWriter
from cache.insight import stats
from cache.insight.spectrum import power_spectrum, radial_spectrum
from cache.insight.stats import dask_array, store_stats
from tests.cache.stores import ARRAYS, RECIPE, image_records, write


@pytest.fixture
def small_blocks(monkeypatch):
    """Two or three images a block, so that sums are really added."""
    monkeypatch.setattr(stats, "_BLOCK_BYTES", 3 * 32 * 8)
    monkeypatch.setattr(stats, "_FAN_IN", 2)


def everything(path, name):
    store = FeatureStore.open(path)
    return store.read(store.readable([name]), [name])[name].numpy().astype(np.float64)


@pytest.mark.usefixtures("small_blocks")
def test_every_number_is_that_of_numpy(store_path):
    found = {array.name: array for array in store_stats(store_path)}
    assert list(found) == sorted(spec.name for spec in ARRAYS)
    for spec in ARRAYS:
        array, x = found[spec.name], everything(store_path, spec.name)
        assert (array.n_images, array.shape, array.dtype) == (10, spec.shape, spec.dtype)
        assert array.mean == pytest.approx(x.mean(), rel=1e-12, abs=1e-12)
        assert array.deviation == pytest.approx(x.std(), rel=1e-12)
        assert (array.minimum, array.maximum) == (x.min(), x.max())
        assert array.of_float16 == np.abs(x).max() / 65504
        assert array.non_finite == 0
        vectors = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        spread = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
        shares = spread / spread.sum()
        assert array.pca_shares == pytest.approx(shares[:10].tolist(), abs=1e-12)
        assert array.pca_90 == int(np.searchsorted(shares.cumsum(), 0.9)) + 1
        if x.ndim == 2:
            assert array.spectrum is None
        else:
            spectrum = radial_spectrum(power_spectrum(x))
            assert array.spectrum == pytest.approx(spectrum.power.tolist(), rel=1e-9)
            assert array.mean_frequency == pytest.approx(spectrum.mean_frequency, rel=1e-9)


@pytest.mark.usefixtures("small_blocks")
def test_variance_far_from_zero_is_not_lost(tmp_path):
    spec = ArraySpec("m", (2, 2, 2), "float32")
    writer = StoreWriter.open(tmp_path, RECIPE, image_records(40), [spec], 8)
    rng = np.random.default_rng(0)
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                shard.put(row, {"m": (1e6 + rng.standard_normal((2, 2, 2))).astype(np.float32)})
            shard.commit()
    (array,) = store_stats(tmp_path)
    assert array.deviation == pytest.approx(everything(tmp_path, "m").std(), rel=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_hole_in_a_damaged_store_is_counted_and_left_out(tmp_path):
    spec = ArraySpec("m", (2, 4, 4), "float32")
    write(tmp_path, 6, [spec])
    clean = everything(tmp_path, "m")
    file = tmp_path / "m" / "c.0.0.0.0"
    data = bytearray(file.read_bytes())
    data[4:8] = np.float32("nan").tobytes()  # channel 0, cell (0, 1) of image 0
    file.write_bytes(data)
    (array,) = store_stats(tmp_path)
    assert array.non_finite == 1 / clean.size
    vectors = np.moveaxis(clean, 1, -1).reshape(-1, 2)
    rest = np.delete(vectors, 1, axis=0)
    assert array.mean == pytest.approx(rest.mean(), rel=1e-12)
    assert (array.minimum, array.maximum) == (rest.min(), rest.max())
    power = radial_spectrum(power_spectrum(clean[1:])).power
    assert array.spectrum == pytest.approx(power.tolist(), rel=1e-9)


def test_a_store_of_nothing_but_holes_is_an_error(tmp_path):
    spec = ArraySpec("m", (1, 1, 1), "float32")
    write(tmp_path, 1, [spec])
    file = tmp_path / "m" / "c.0.0.0.0"
    file.write_bytes(np.float32("inf").tobytes() + file.read_bytes()[4:])
    with pytest.raises(StoreError, match="m holds no number at all"):
        store_stats(tmp_path)


def test_only_what_is_computed_counts(tmp_path):
    write(tmp_path, 3)
    StoreWriter.open(tmp_path, RECIPE, image_records(9), [*ARRAYS, ArraySpec("x", (1,), "float32")])
    found = store_stats(tmp_path, ["sd/*", "x"])
    assert [(array.name, array.n_images) for array in found] == [
        ("sd/t195/s3", 3),
        ("sd/t195/s4", 3),
    ]
    with pytest.raises(StoreError, match="no array nothing"):
        store_stats(tmp_path, ["nothing"])


def test_the_dask_array_is_the_feature(store_path):
    store = FeatureStore.open(store_path)
    lazy = dask_array(store, "sd/t195/s3")
    assert (lazy.shape, lazy.dtype) == ((10, 3, 4, 5), np.float16)
    means = lazy.mean(axis=(0, 2, 3), dtype="float64").compute(scheduler="threads")
    expected = everything(store_path, "sd/t195/s3").mean(axis=(0, 2, 3))
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert math.isfinite(means.sum())
