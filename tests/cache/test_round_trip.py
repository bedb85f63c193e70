"""Random shapes, dtypes, shard sizes and growths, read by us and by plain zarr-python."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import ArraySpec, FeatureStore, StoreWriter, verify_store
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    RECIPE,
    S3,
    array_contents,
    assert_holds,
    contents,
    fill,
    image_records,
    write,
)

sizes = st.integers(1, 5)
maps = st.tuples(sizes, sizes, sizes)
specs = st.one_of(
    st.builds(ArraySpec, st.just("x"), maps, st.sampled_from(["float32", "float16", "int8"])),
    st.builds(ArraySpec, st.just("x"), st.tuples(sizes), st.sampled_from(["float32", "float16"])),
)


@st.composite
def growths(draw):
    """Steps of (number of images, arrays asked for), and rows that are unreadable."""
    arrays = [
        ArraySpec(name, spec.shape, spec.dtype)
        for name, spec in zip(
            ["sd/t1/s3", "sd/t20/s3", "clip/tokens", "pooled"],
            draw(st.lists(specs, min_size=1, max_size=4)),
            strict=False,
        )
    ]
    counts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3))
    steps = [(n, draw(st.lists(st.sampled_from(arrays), min_size=1, unique=True))) for n in counts]
    return steps, draw(st.sets(st.integers(0, 11), max_size=3))


@settings(deadline=None, max_examples=40)
@given(growths(), st.integers(1, 6))
def test_what_was_put_is_read_whatever_the_growth(growth, shard_size):
    steps, quarantined = growth
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        expected: dict[str, int] = {}
        for n_images, arrays in steps:
            writer = StoreWriter.open(path, RECIPE, image_records(n_images), arrays, shard_size)
            fill(writer, quarantined)
            assert writer.pending() == []
            for spec in arrays:
                expected[spec.name] = max(expected.get(spec.name, 0), n_images)
        by_name = {spec.name: spec for _, arrays in steps for spec in arrays}
        check_store(path, by_name, expected, quarantined)


def check_store(path, by_name, expected, quarantined):
    report = verify_store(path)
    assert report.sound, report.problems
    store = FeatureStore.open(path, RECIPE)
    assert len(store) == max(expected.values())
    assert store.arrays == by_name
    if not len(store):
        return
    assert store.images == image_records(len(store))
    group = zarr.open_group(path, mode="r")
    for name, spec in by_name.items():
        done = np.arange(len(store)) < expected[name]
        np.testing.assert_array_equal(store.committed[name], done)
        readable = [row for row in range(expected[name]) if row not in quarantined]
        assert store.readable([name]) == [store.ids[row] for row in readable]
        array = group[name]
        assert array.shape == (len(store), *spec.shape)
        plain = np.asarray(array[:])
        if spec.dtype == "int8":
            scale = np.asarray(group[f"{name}_scale"][:])
            holes = np.isnan(scale).all(axis=1) & (plain == -128).all(axis=(1, 2, 3))
            plain = plain * scale[:, :, None, None]
        else:
            holes = np.isnan(plain).reshape(len(store), -1).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(~holes), readable)
        for row in readable:
            assert_holds(store, row, spec)
        # In any order, repeated, and in one call: the same as plain zarr.
        rows = readable[::-1] + readable[:2]
        read = store.read([store.ids[row] for row in rows], [name])[name]
        assert read.shape == (len(rows), *spec.shape)
        np.testing.assert_array_equal(read.numpy(), plain[rows].astype(read.numpy().dtype))


def test_all_nodes_are_found_by_plain_zarr(store_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images.jsonl and commits are no part of the hierarchy
        members = dict(zarr.open_group(store_path, mode="r").members(max_depth=None))
    assert {"sd", "sd/t195", "sd/t195/s3", "sd/t195/s4_scale", "clip/pooled"} <= members.keys()
    assert members["sd/t195/s3"].metadata.dimension_names == ("image", "channel", "y", "x")


def test_growing_step_by_step_gives_the_bytes_of_one_go(tmp_path):
    write(tmp_path / "once", 23, quarantined={5, 6, 21})
    write(tmp_path / "steps", 3, [S3])
    write(tmp_path / "steps", 6, [S3, LATENT], quarantined={5, 6, 21})
    write(tmp_path / "steps", 7, ARRAYS, quarantined={5, 6, 21})
    write(tmp_path / "steps", 23, ARRAYS, quarantined={5, 6, 21})
    assert array_contents(tmp_path / "steps") == array_contents(tmp_path / "once")
    assert not [name for name in contents(tmp_path / "steps") if name.endswith(".tmp")]
