import json
import os

import numpy as np
import pytest
import torch
import zarr

from cache import (
    ArraySpec,
    CorruptShard,
    FeatureStore,
    ImageRecord,
    NonFiniteError,
    Recipe,
    RecipeMismatch,
    ShardTask,
    StoreError,
    StoreWriter,
    describe_store,
    verify_store,
)
from cache.format.checksums import canonical_json, sealed
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    POOLED,
    QUANTISED,
    RECIPE,
    S3,
    contents,
    fill,
    image_records,
    values,
    write,
)
from tests.object_store import new_place


def open_writer(path, n_images=11, arrays=ARRAYS, **options):
    return StoreWriter.open(path, RECIPE, image_records(n_images), arrays, shard_size=4, **options)


def test_the_work_is_whole_shards(tmp_path):
    writer = open_writer(tmp_path)
    names = tuple(spec.name for spec in ARRAYS)
    assert writer.pending() == [
        ShardTask(0, range(0, 4), names),
        ShardTask(1, range(4, 8), names),
        ShardTask(2, range(8, 11), names),
    ]
    assert writer.images == image_records(11)


def test_committed_shards_are_skipped(tmp_path):
    writer = open_writer(tmp_path)
    first, *rest = writer.pending()
    assert not writer.is_committed(first)
    with writer.shard(first) as shard:
        for row in first.rows:
            shard.put(row, {spec.name: values(row, spec) for spec in ARRAYS})
        shard.commit()
    assert writer.is_committed(first)
    assert writer.pending() == rest
    assert open_writer(tmp_path).pending() == rest


def test_new_images_complete_the_last_shard_and_new_arrays_join(tmp_path):
    write(tmp_path, 6, [S3])
    assert open_writer(tmp_path, 10, [S3, LATENT]).pending() == [
        ShardTask(0, range(0, 4), (LATENT.name,)),
        ShardTask(1, range(4, 8), (LATENT.name,)),
        ShardTask(1, range(6, 8), (S3.name,)),
        ShardTask(2, range(8, 10), (S3.name, LATENT.name)),
    ]


def test_new_images_are_appended_in_the_order_given(tmp_path):
    images = image_records(6)
    StoreWriter.open(tmp_path, RECIPE, images[3:], [S3])
    writer = StoreWriter.open(tmp_path, RECIPE, images[::-1], [S3])
    assert writer.images == [*images[3:], images[2], images[1], images[0]]


def test_only_what_was_asked_for_is_pending(store_path):
    other = [ImageRecord(f"other/{n}.png", f"{n:064x}", 1, 1) for n in range(3)]
    writer = StoreWriter.open(store_path, RECIPE, other, [S3])
    assert writer.pending() == [
        ShardTask(2, range(11, 12), (S3.name,)),
        ShardTask(3, range(12, 14), (S3.name,)),
    ]
    # The first images alone are fine too; an image behind others brings these along, since a
    # shard's rows have no gaps.
    new = ArraySpec("sd/t5/s3", (1, 1, 1), "float32")
    assert open_writer(store_path, 2, [new]).pending() == [ShardTask(0, range(2), (new.name,))]
    behind = StoreWriter.open(store_path, RECIPE, image_records(3)[2:], [new])
    assert behind.pending() == [ShardTask(0, range(3), (new.name,))]


def test_a_changed_file_is_refused_only_where_features_of_the_old_one_exist(tmp_path):
    images = image_records(8)
    writer = StoreWriter.open(tmp_path, RECIPE, images, [S3], shard_size=4)
    with writer.shard(writer.pending()[0]) as shard:
        shard.put(0, {S3.name: values(0, S3)})
        shard.quarantine(1, "broken")
        for row in (2, 3):
            shard.put(row, {S3.name: values(row, S3)})
        shard.commit()

    def changed(row: int) -> list[ImageRecord]:
        other = ImageRecord(images[row].id, "f" * 64, 1, 1)
        return [*images[:row], other, *images[row + 1 :]]

    with pytest.raises(StoreError, match=f"{images[0].id}: its file has changed"):
        StoreWriter.open(tmp_path, RECIPE, changed(0), [S3])
    for row in (1, 5):  # quarantined, not yet computed
        again = StoreWriter.open(tmp_path, RECIPE, changed(row), [S3])
        assert again.images == images
        assert again.pending() == [ShardTask(1, range(4, 8), (S3.name,))]


def test_an_existing_store_keeps_its_shard_size_and_provenance(tmp_path):
    open_writer(tmp_path, provenance={"device": "cpu"})
    again = StoreWriter.open(
        tmp_path, RECIPE, image_records(11), [S3], shard_size=99, provenance={"device": "cuda"}
    )
    assert again.shard_size == 4
    assert FeatureStore.open(tmp_path).provenance == {"device": "cpu"}


def test_another_recipe_is_refused_by_field(store_path):
    before = contents(store_path)
    other = Recipe({**RECIPE.fields, "seed": 7})
    with pytest.raises(RecipeMismatch, match="seed: store has 0, requested 7"):
        StoreWriter.open(store_path, other, image_records(20), [S3])
    assert contents(store_path) == before


def test_an_image_that_changed_is_refused(store_path):
    before = contents(store_path)
    changed = [ImageRecord(image_records(1)[0].id, "f" * 64, 10, 20)]
    with pytest.raises(StoreError, match=r"class 0/0\.png.*changed"):
        StoreWriter.open(store_path, RECIPE, changed, [S3])
    assert contents(store_path) == before


def test_an_array_of_another_shape_or_dtype_is_refused(store_path):
    with pytest.raises(StoreError, match=r"sd/t195/s3: store holds float16 \(3, 4, 5\)"):
        open_writer(store_path, arrays=[ArraySpec(S3.name, (3, 4, 6), "float16")])
    with pytest.raises(StoreError, match="requested float32"):
        open_writer(store_path, arrays=[ArraySpec(S3.name, S3.shape, "float32")])


@pytest.mark.parametrize("image_id", ["", "/etc/passwd", "../a.png", "a/../../b.png", "a\0b"])
def test_ids_that_leave_the_collection_are_refused(tmp_path, image_id):
    with pytest.raises(StoreError, match="relative path"):
        StoreWriter.open(tmp_path, RECIPE, [ImageRecord(image_id, "0", 1, 1)], [S3])


def test_ids_with_odd_but_legal_names_are_kept(tmp_path):
    odd = ["..a", "a..b/c", "line\nbreak", "\u2028", "é/ü.png", "\udcff.png", '"quoted"']
    images = [ImageRecord(image_id, "0", 1, 1) for image_id in odd]
    fill(StoreWriter.open(tmp_path, RECIPE, images, [S3], shard_size=3))
    assert FeatureStore.open(tmp_path).ids == odd
    assert verify_store(tmp_path).sound


def test_an_image_listed_twice_is_refused(tmp_path):
    with pytest.raises(StoreError, match="listed twice"):
        StoreWriter.open(tmp_path, RECIPE, image_records(2) + image_records(1), [S3])


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holiday\.jpg.*empty folder"):
        open_writer(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_a_foreign_zarr_group_is_refused(tmp_path):
    zarr.open_group(tmp_path, mode="w")
    with pytest.raises(StoreError, match="no feature store"):
        open_writer(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("../x", (1, 1, 1), "float32"),
        ("/x", (1, 1, 1), "float32"),
        ("a//b", (1, 1, 1), "float32"),
        ("commits/x", (1, 1, 1), "float32"),
        ("x_scale", (1, 1, 1), "float32"),
        ("x", (1, 1), "float32"),
        ("x", (0, 1, 1), "float32"),
        ("x", (1, 1, 1), "float64"),
        ("x", (1,), "int8"),
        ("x", (2**20, 2**20, 1), "float32"),
    ],
)
def test_arrays_that_a_store_cannot_hold_are_refused(name, shape, dtype):
    with pytest.raises(StoreError, match="array"):
        ArraySpec(name, shape, dtype)


def test_leaving_without_a_commit_leaves_nothing(tmp_path):
    writer = open_writer(tmp_path)
    before = contents(tmp_path)
    task = writer.pending()[0]
    with pytest.raises(KeyboardInterrupt), writer.shard(task) as shard:
        shard.put(0, {spec.name: values(0, spec) for spec in ARRAYS})
        assert contents(tmp_path) != before
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_rows_must_come_in_order_and_all_of_them(tmp_path):
    writer = open_writer(tmp_path, arrays=[S3])
    task = writer.pending()[0]
    with writer.shard(task) as shard:
        with pytest.raises(StoreError, match="row 1 came where row 0"):
            shard.put(1, {S3.name: values(1, S3)})
        shard.put(0, {S3.name: values(0, S3)})
        for row in (0, 4, -1):
            with pytest.raises(StoreError, match=f"row {row} came where row 1"):
                shard.put(row, {S3.name: values(0, S3)})
        with pytest.raises(StoreError, match="rows 1 to 3 are missing"):
            shard.commit()
    assert writer.pending()[0] == task


def test_wrong_shapes_dtypes_and_names_are_refused(tmp_path):
    writer = open_writer(tmp_path, arrays=[S3])
    with writer.shard(writer.pending()[0]) as shard:
        with pytest.raises(StoreError, match=r"shape \(3, 4, 4\), the store holds \(3, 4, 5\)"):
            shard.put(0, {S3.name: np.zeros((3, 4, 4), np.float32)})
        with pytest.raises(StoreError, match="float64"):
            shard.put(0, {S3.name: np.zeros(S3.shape)})
        with pytest.raises(StoreError, match="the task needs sd/t195/s3"):
            shard.put(0, {"sd/t195/s4": values(0, S3)})


@pytest.mark.parametrize("spec", [S3, LATENT, QUANTISED, POOLED])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_can_be_quarantined(tmp_path, spec, bad):
    writer = open_writer(tmp_path, 1, [spec])
    broken = values(0, spec)
    broken.flat[-1] = bad
    with writer.shard(writer.pending()[0]) as shard:
        with pytest.raises(NonFiniteError, match=rf"class 0/0\.png: {spec.name} .*precision"):
            shard.put(0, {spec.name: broken})
        shard.quarantine(0, "not finite")
        shard.commit()
    assert FeatureStore.open(tmp_path).quarantined == {"class 0/0.png": "not finite"}
    assert verify_store(tmp_path).sound


def test_overflow_in_float16_is_refused_with_a_hint(tmp_path):
    writer = open_writer(tmp_path, 1, [S3])
    large = values(0, S3)
    large[0, 0, 0] = 65520
    with writer.shard(writer.pending()[0]) as shard:
        with pytest.raises(NonFiniteError, match=r"reaches 65520.*store_dtype to float32"):
            shard.put(0, {S3.name: large})
        large[0, 0, 0] = 65519
        shard.put(0, {S3.name: large})
        shard.commit()
    store = FeatureStore.open(tmp_path)
    assert store.read(store.ids, [S3.name])[S3.name].max() == 65504


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 128, 128), (3, 121, 113), (1, 1, 2**16 + 1)])
def test_float32_is_cast_whatever_the_size_and_the_threads(tmp_path, shape, threads):
    """As numpy casts it: maps of fewer, of just as many and of more values than one piece."""
    spec = ArraySpec("sd/t1/s3", shape, "float16")
    given = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)[..., ::-1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        writer = open_writer(tmp_path, 2, [spec])
        with writer.shard(writer.pending()[0]) as shard:
            for row in range(2):
                shard.put(row, {spec.name: given[row]})
            shard.commit()
    finally:
        torch.set_num_threads(before)
    store = FeatureStore.open(tmp_path)
    read = store.read(store.ids, [spec.name])[spec.name].numpy()
    np.testing.assert_array_equal(read, given.astype(np.float16))


def test_float16_input_is_stored_as_it_is(tmp_path):
    writer = open_writer(tmp_path, 1, [S3])
    half = values(0, S3).astype(np.float16)[:, ::-1]
    with writer.shard(writer.pending()[0]) as shard:
        shard.put(0, {S3.name: half})
        shard.commit()
    store = FeatureStore.open(tmp_path)
    np.testing.assert_array_equal(store.read(store.ids, [S3.name])[S3.name][0].numpy(), half)


def test_constant_and_tiny_channels_survive_int8(tmp_path):
    writer = open_writer(tmp_path, 1, [QUANTISED])
    features = np.zeros(QUANTISED.shape, np.float32)
    features[1] = np.float32(1e-44)
    with writer.shard(writer.pending()[0]) as shard:
        shard.put(0, {QUANTISED.name: features})
        shard.commit()
    store = FeatureStore.open(tmp_path)
    read = store.read(store.ids, [QUANTISED.name])[QUANTISED.name].numpy()
    np.testing.assert_allclose(read[0], features, atol=1e-43)
    assert verify_store(tmp_path).sound


def test_an_image_stays_quarantined_when_arrays_are_added(tmp_path):
    write(tmp_path, 6, [S3], quarantined={2, 5})
    writer = open_writer(tmp_path, 6, [S3, LATENT])
    first, second = writer.pending()
    with writer.shard(first) as shard:
        for row in first.rows:  # put for row 2 is accepted, and ignored
            shard.put(row, {LATENT.name: values(row, LATENT)})
        shard.commit()
    with writer.shard(second) as shard:
        shard.put(4, {LATENT.name: values(4, LATENT)})
        shard.commit()  # row 5 need not be given at all
    store = FeatureStore.open(tmp_path)
    assert store.readable([LATENT.name]) == [store.ids[row] for row in (0, 1, 3, 4)]
    plain = zarr.open_group(tmp_path, mode="r")[LATENT.name][:]
    assert np.isnan(plain).all(axis=(1, 2, 3)).tolist() == [row in (2, 5) for row in range(6)]


def test_growth_does_not_carry_damage_along(tmp_path):
    write(tmp_path, 6, [S3])
    with open(tmp_path / S3.name / "c.1.0.0.0", "r+b") as shard:
        shard.seek(20)
        shard.write(b"\xff\xff")
    writer = open_writer(tmp_path, 8, [S3])
    with pytest.raises(CorruptShard, match="have changed"):
        fill(writer)
    assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]


def test_timings_of_a_shard_add_up(tmp_path):
    write(tmp_path, 2, [S3])
    write(tmp_path, 4, [S3, LATENT])
    (commit,) = [data for name, data in contents(tmp_path, "commits").items()]
    assert b'"timings":{"compute":1.5}' in commit


def test_a_store_without_arrays_is_refused(tmp_path):
    with pytest.raises(StoreError, match="at least one"):
        open_writer(tmp_path, arrays=[])


def test_a_commit_says_what_computed_each_part_of_a_shard(tmp_path):
    """Equal machines once; a store that does not say so is read as before."""
    machines = [{"device": "cuda:0", "batch_size": 64}, {"device": "cpu", "batch_size": 4}]
    for n_images, machine in ((1, None), (2, machines[0]), (3, machines[0]), (4, machines[1])):
        writer = open_writer(tmp_path, n_images, [S3])
        (task,) = writer.pending()
        with writer.shard(task) as shard:
            for row in task.rows:
                shard.put(row, {S3.name: values(row, S3)})
            assert shard.commit(computed_by=machine)
    found = FeatureStore.open(tmp_path)
    assert found.computed_by == [(machines[1], 1), (machines[0], 1)]
    assert describe_store(tmp_path).computed_by == [
        {**machines[1], "shards": 1},
        {**machines[0], "shards": 1},
    ]
    assert verify_store(tmp_path).notes == ()
    commit = json.loads((tmp_path / "commits" / "000000.json").read_text())
    del commit["computed_by"]
    data = canonical_json(sealed(commit)) + b"\n"
    (tmp_path / "commits" / "000000.json").write_bytes(data)
    assert FeatureStore.open(tmp_path).computed_by == []
    (tmp_path / "commits" / "000000.json").write_bytes(
        canonical_json(sealed(commit | {"computed_by": "cpu"})) + b"\n"
    )
    assert not verify_store(tmp_path).sound


@pytest.mark.parametrize("remote", [False, True])
def test_a_commit_that_came_second_says_so(tmp_path, remote):
    place = new_place("memory") if remote else tmp_path
    first, second = (open_writer(place, 2, [S3, POOLED]) for _ in range(2))
    (task,) = first.pending()
    with first.shard(task) as faster, second.shard(task) as slower:
        for shard in (faster, slower):
            for row in task.rows:
                shard.put(row, {spec.name: values(row, spec) for spec in (S3, POOLED)})
        assert faster.commit()
        assert not slower.commit()
