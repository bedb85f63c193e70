"""Readers other than zarr-python, where they are installed."""

import numpy as np
import pytest

from cache import FeatureStore
from tests.cache.stores import ARRAYS


def test_tensorstore_reads_a_store(store_path):
    tensorstore = pytest.importorskip("tensorstore")
    store = FeatureStore.open(store_path)
    readable = [row for row in range(len(store)) if row != 5]
    for spec in ARRAYS:
        if spec.dtype == "int8":
            continue
        array = tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(store_path / spec.name)},
            }
        ).result()
        plain = array.read().result()
        ours = store.read([store.ids[row] for row in readable], [spec.name])[spec.name].numpy()
        np.testing.assert_array_equal(plain[readable], ours)
        assert np.isnan(plain[5]).all()
