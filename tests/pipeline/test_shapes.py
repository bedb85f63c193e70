"""The shapes dataset: ids, bytes, labels, pairs and masks as the other stages see them."""

from __future__ import annotations

import pickle
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.base import DatasetError
from pipeline.datasets.shapes import SEEN, UNSEEN, UNSEEN_SETS, ShapesDataset


def test_the_first_ids_are_groups_of_a_photo_and_two_sketches():
    assert ShapesDataset(7).ids == [
        "photo/house/000000.png",
        "sketch/house/000000-1.png",
        "sketch/house/000000-2.png",
        "photo/cat/000001.png",
        "sketch/cat/000001-1.png",
        "sketch/cat/000001-2.png",
        "photo/bicycle/000002.png",
    ]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 96, 97])
def test_every_size_gives_a_pair_for_each_of_its_sketches(size):
    dataset = ShapesDataset(size)
    sketches = [name for name in dataset.ids if name.startswith("sketch/")]
    pairs = dataset.annotations.pairs
    assert len(dataset.ids) == len(set(dataset.ids)) == size
    assert len(sketches) == size - -(-size // 3)
    assert [pair.sketch for pair in pairs] == sketches
    assert {pair.photo for pair in pairs} <= set(dataset.ids)


def test_a_larger_world_begins_with_the_smaller():
    small, large = ShapesDataset(20), ShapesDataset(2000)
    assert large.ids[:20] == small.ids
    assert all(large.read(name) == small.read(name) for name in small.ids)


def test_any_96_images_in_a_row_show_every_category_once():
    labels = ShapesDataset(960).annotations.labels
    categories = [label.category for label in labels.values() if label.domain == "photo"]
    for first in (0, 5, 100):
        assert sorted(categories[first : first + 32]) == sorted(SEEN + UNSEEN)


def test_any_120_images_in_a_row_show_every_category_of_the_second_set():
    labels = ShapesDataset(1200, unseen="second").annotations.labels
    categories = [label.category for label in labels.values() if label.domain == "photo"]
    for first in (0, 5, 100):
        row = categories[first : first + 40]
        assert set(row) == {*SEEN, *UNSEEN_SETS["second"]}
        assert [sum(name == each for name in row) for each in UNSEEN_SETS["second"]] == [1] * 10


def test_the_second_set_takes_the_places_of_the_unseen_and_of_nothing_else():
    ours, theirs = ShapesDataset(36, pixels=32), ShapesDataset(36, pixels=32, unseen="second")
    labels = theirs.annotations.labels
    for mine, other in zip(ours.ids, theirs.ids, strict=True):
        if ours.annotations.labels[mine].category in UNSEEN:
            assert labels[other].category in UNSEEN_SETS["second"]
            assert labels[other].split == "test"
        else:
            assert other == mine and theirs.read(mine) == ours.read(mine)
            assert labels[mine] == ours.annotations.labels[mine]
    with pytest.raises(DatasetError, match="no image 'photo/teapot"):
        theirs.read("photo/teapot/000003.png")
    with pytest.raises(DatasetError, match="no image 'photo/windmill"):
        ours.read("photo/windmill/000003.png")


def test_bytes_depend_on_neither_order_nor_process_state():
    dataset = ShapesDataset(30, seed=3, pixels=64)
    forward = {name: dataset.read(name) for name in dataset.ids}
    other = pickle.loads(pickle.dumps(ShapesDataset(300, seed=3, pixels=64)))
    assert {name: other.read(name) for name in reversed(dataset.ids)} == forward
    assert len(set(forward.values())) == 30


def test_another_seed_is_another_world():
    ours, theirs = ShapesDataset(12, seed=0), ShapesDataset(12, seed=1)
    assert ours.ids == theirs.ids
    assert not any(ours.read(name) == theirs.read(name) for name in ours.ids)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**63 - 1),
    place=st.integers(0, 3 * 10**5),
    pixels=st.integers(32, 130),
    unseen=st.sampled_from(list(UNSEEN_SETS)),
)
def test_any_image_of_any_world_can_be_drawn(seed, place, pixels, unseen):
    dataset = ShapesDataset(place + 1, seed=seed, pixels=pixels, unseen=unseen)
    name = dataset.ids[place]
    data = dataset.read(name)
    picture = dataset.decode(name, data)
    assert picture.mode == "RGB"
    assert picture.size == dataset.size(name, data) == (pixels, pixels)
    assert np.asarray(picture).std() > 5
    assert dataset.read(name) == data


@pytest.mark.parametrize(
    "name",
    [
        "",
        "house",
        "photo/house/000000",
        "photo/house/0.png",
        "photo/cat/000000.png",  # instance 0 is a house
        "photo/house/000000-1.png",
        "sketch/house/000000.png",
        "sketch/house/000000-0.png",
        "sketch/house/000000-3.png",
        "sketch/bicycle/000002-1.png",  # the eighth of seven images
        "photo/house/000000.png\n",
        "../photo/house/000000.png",
    ],
)
def test_an_unknown_id_is_one_line(name):
    with pytest.raises(DatasetError, match="no image") as error:
        ShapesDataset(7).read(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"size": -1}, "size"),
        ({"size": 1, "seed": -1}, "seed"),
        ({"size": 1, "pixels": 31}, "pixels"),
        ({"size": 1, "pixels": 2049}, "pixels"),
        ({"size": 1, "unseen": "third"}, "unseen is 'third'; give first or second"),
    ],
)
def test_senseless_settings_are_refused(arguments, word):
    with pytest.raises(DatasetError, match=word):
        ShapesDataset(**arguments)


def test_reading_needs_no_list_of_a_huge_world():
    dataset = ShapesDataset(10**12)
    last_house = 32 * 10**9
    assert dataset.read(f"photo/house/{last_house}.png")[:4] == b"\x89PNG"


def test_labels_follow_the_ids():
    labels = ShapesDataset(9).annotations.labels
    photo, sketch = labels["photo/cat/000001.png"], labels["sketch/cat/000001-2.png"]
    assert (photo.category, photo.domain, photo.source) == ("cat", "photo", None)
    assert (sketch.category, sketch.domain) == ("cat", "sketch")
    assert sketch.source == "photo/cat/000001.png"


def test_splits_hold_whole_instances_and_unseen_categories_are_test_only():
    dataset = ShapesDataset(96 * 40)
    shares: dict[str, list[str]] = defaultdict(list)
    for name, label in dataset.annotations.labels.items():
        if label.source:
            assert dataset.annotations.labels[label.source].split == label.split
        if label.category in UNSEEN:
            assert label.split == "test", name
        elif label.domain == "photo":
            shares[label.category].append(label.split)
    assert set(shares) == set(SEEN)
    for splits in shares.values():
        counts = [splits.count(split) for split in ("train", "val", "test")]
        assert counts == [28, 4, 8]


def test_a_world_of_a_few_hundred_images_has_every_split():
    labels = ShapesDataset(300).annotations.labels.values()
    seen = [label.split for label in labels if label.category in SEEN]
    assert {"train", "val", "test"} == set(seen)


def test_annotations_draw_no_pixels(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("drawn")

    monkeypatch.setattr("pipeline.shapes.raster.Canvas.__init__", refuse)
    annotations = ShapesDataset(60).annotations
    assert len(annotations.labels) == len(annotations.masks) == 60
    assert all(pair.visible.shape == (8,) for pair in annotations.pairs)
    with pytest.raises(AssertionError, match="drawn"):
        annotations.masks["photo/house/000000.png"]()


def test_pairs_behave_like_a_sequence():
    pairs = ShapesDataset(30).annotations.pairs
    assert len(pairs) == 20
    assert pairs[-1].sketch == pairs[19].sketch == "sketch/fish/000009-2.png"
    assert [pair.sketch for pair in pairs[2:6:2]] == [pairs[2].sketch, pairs[4].sketch]
    for index in (20, -21):
        with pytest.raises(IndexError):
            pairs[index]


def test_points_are_in_pixels_of_the_image():
    small = ShapesDataset(6, pixels=64).annotations.pairs[1]
    large = ShapesDataset(6, pixels=256).annotations.pairs[1]
    for points in ("sketch_points", "photo_points"):
        a, b = getattr(small, points), getattr(large, points)
        assert a.shape == (8, 2) and a.dtype == np.float64
        np.testing.assert_allclose(4 * a, b)
    assert small.visible.dtype == bool
    inside = (small.photo_points >= 0).all(1) & (small.photo_points < 64).all(1)
    assert inside[small.visible].all()


def test_masks_are_of_the_image_and_can_be_sent_to_a_worker():
    dataset = ShapesDataset(12, pixels=80, unseen="second")
    for name in dataset.ids:
        mask = pickle.loads(pickle.dumps(dataset.annotations.masks[name]))()
        assert mask.shape == (80, 80) and mask.dtype == bool
        assert 0.02 < mask.mean() < 0.8, name
