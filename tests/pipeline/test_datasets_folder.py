"""`folder`, and what every dataset of files does alike."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline.datasets import open_dataset
from pipeline.datasets.base import DatasetError, Label
from pipeline.datasets.folder import FolderDataset
from pipeline.pictures.strokes import RENDER_SIDE
from tests.pipeline.trees import image_bytes, write_images, write_text


def test_class_folders(tmp_path):
    write_images(tmp_path, ["cat/1.png", "cat/2.jpg", "hot-air_Balloon/1.png"])
    dataset = FolderDataset(tmp_path)
    assert dataset.ids == ("cat/1.png", "cat/2.jpg", "hot-air_Balloon/1.png")
    assert dataset.annotations.labels == {
        "cat/1.png": Label("cat"),
        "cat/2.jpg": Label("cat"),
        "hot-air_Balloon/1.png": Label("hot air balloon"),
    }
    assert dataset.annotations.pairs == [] and not dataset.annotations.masks


def test_flat_and_nested(tmp_path):
    write_images(tmp_path, ["1.png", "animals/big/bear/1.png"])
    labels = FolderDataset(tmp_path).annotations.labels
    assert labels == {"1.png": Label(), "animals/big/bear/1.png": Label("bear")}


def test_photo_and_sketch_folders_at_the_top_are_domains(tmp_path):
    write_images(
        tmp_path, ["Photos/cat/1.png", "sketch/cat/1.png", "sketches/1.png", "a/photo/1.png"]
    )
    assert FolderDataset(tmp_path).annotations.labels == {
        "Photos/cat/1.png": Label("cat", "photo"),
        "sketch/cat/1.png": Label("cat", "sketch"),
        "sketches/1.png": Label(None, "sketch"),
        "a/photo/1.png": Label("photo"),
    }


def test_reading_and_decoding(tmp_path):
    write_images(tmp_path, ["cat/1.png"])
    (tmp_path / "cat" / "2.png").write_bytes(image_bytes(7, (5, 9), "JPEG"))  # misnamed
    write_text(
        tmp_path,
        "cat/3.svg",
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path d="M0 0h5v10H0"/></svg>',
    )
    dataset = FolderDataset(tmp_path)
    sizes = [(8, 6), (5, 9), (RENDER_SIDE, RENDER_SIDE)]
    for image_id, size in zip(dataset.ids, sizes, strict=True):
        data = dataset.read(image_id)
        assert data == (tmp_path / image_id).read_bytes()
        assert dataset.size(image_id, data) == dataset.decode(image_id, data).size == size
    drawing = np.asarray(dataset.decode("cat/3.svg", dataset.read("cat/3.svg")))
    assert (drawing[:, : RENDER_SIDE // 2] == 0).all()
    assert (drawing[:, RENDER_SIDE // 2 :] == 255).all()


def test_limit_spreads_over_classes_and_keeps_the_order(tmp_path):
    write_images(tmp_path, [f"{c}/{n}.png" for c in ("a", "b", "c") for n in range(4)])
    assert FolderDataset(tmp_path, limit=4).ids == ("a/0.png", "a/1.png", "b/0.png", "c/0.png")
    assert len(FolderDataset(tmp_path, limit=100).ids) == 12
    assert set(FolderDataset(tmp_path, limit=4).annotations.labels) == {
        "a/0.png",
        "a/1.png",
        "b/0.png",
        "c/0.png",
    }


def test_a_dataset_pickles(tmp_path):
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    dataset = FolderDataset(tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.ids == dataset.ids
    assert copy.read("a/1.png") == dataset.read("a/1.png")


def test_roots_that_cannot_be_used(tmp_path):
    file = write_text(tmp_path, "file.txt", "")
    cases = [
        (None, "folder: needs a root: set dataset.root to the folder"),
        (tmp_path / "missing", f"folder: root {tmp_path / 'missing'} does not exist"),
        (file, f"folder: root {file} is not a folder"),
    ]
    for root, message in cases:
        with pytest.raises(DatasetError) as caught:
            FolderDataset(root)
        assert str(caught.value) == message


def test_a_root_without_images_says_what_was_there(tmp_path):
    with pytest.raises(DatasetError, match="the folder is empty"):
        FolderDataset(tmp_path)
    write_text(tmp_path, "notes.txt", "")
    write_text(tmp_path, ".hidden", "")
    with pytest.raises(DatasetError) as caught:
        FolderDataset(tmp_path)
    message = str(caught.value)
    assert "2 skipped: 1 hidden, 1 other extension (.txt)" in message and "\n" not in message


def test_a_limit_below_one_is_refused(tmp_path):
    write_images(tmp_path, ["1.png"])
    with pytest.raises(DatasetError, match="limit is 0"):
        FolderDataset(tmp_path, limit=0)


def test_open_dataset(tmp_path):
    write_images(tmp_path, ["a/1.png", "a/2.png"])
    assert open_dataset("folder", tmp_path, None).ids == ("a/1.png", "a/2.png")
    assert open_dataset("folder", tmp_path, 1).ids == ("a/1.png",)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sketchi", {}, "no dataset 'sketchi'; did you mean 'sketchy'?"),
        (
            "imagenet",
            {},
            "no dataset 'imagenet'; choose from"
            " folder, psc6k, quickdraw, shapes, sketchy, tuberlin",
        ),
        ("folder", {"size": 3}, "folder: no option 'size'; choose from rendering"),
        ("psc6k", {"size": 3}, "psc6k: no option 'size'; it takes none"),
        ("sketchy", {"mask": "x"}, "sketchy: no option 'mask'; did you mean 'masks'?"),
        (
            "shapes",
            {"masks": "x"},
            "shapes: no option 'masks'; choose from pixels, seed, size, unseen",
        ),
    ],
)
def test_wrong_names_and_options_name_the_right_ones(tmp_path, name, options, message):
    with pytest.raises(DatasetError) as caught:
        open_dataset(name, tmp_path, None, **options)
    assert str(caught.value) == message


def test_shapes_through_the_registry(tmp_path):
    assert len(open_dataset("shapes", None, None, size=7, seed=3, pixels=48).ids) == 7
    assert len(open_dataset("shapes", None, 4, size=7).ids) == 4
    with pytest.raises(DatasetError, match="takes no root"):
        open_dataset("shapes", tmp_path)
