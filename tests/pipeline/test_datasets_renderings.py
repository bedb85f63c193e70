"""Trees that hold the same images several times are read once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from configs import load_config
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.datasets.files import FileDataset
from pipeline.datasets.folder import FolderDataset
from pipeline.datasets.psc6k import PSC6KDataset
from pipeline.datasets.quickdraw import QuickDrawDataset
from pipeline.datasets.sketchy import SketchyDataset
from pipeline.datasets.tuberlin import TUBerlinDataset
from pipeline.datasets.union import UnionDataset
from pipeline.inputs.collection import scan
from pipeline.inputs.loader import RowBatch, load_squares
from pipeline.pictures.strokes import render_svg
from tests.heads.worlds import ok
from tests.pipeline.trees import write_images, write_pictures, write_text

RAW, READY = "tx_000000000000", "tx_000000000000_ready"


def sketchy_tree(rendering: str, extended: str) -> list[str]:
    """Two photos, a sketch of each, and an extended photo, as they lie in the download."""
    return [
        f"256x256/photo/{rendering}/bat/n2_5.jpg",
        f"256x256/photo/{rendering}/cow/n3_1.jpg",
        f"256x256/sketch/{rendering}/bat/n2_5-1.png",
        f"256x256/sketch/{rendering}/cow/n3_1-2.png",
        f"{extended}/bat/ext_7.jpg",
    ]


ORIGINAL = sketchy_tree(RAW, "EXTEND_image_sketchy")
PREPROCESSED = sketchy_tree(READY, "EXTEND_image_sketchy_ready")


def without_repeats(dataset: Dataset) -> bool:
    """Whether no two images of one domain have the same class and file name."""
    names = [
        (label.domain, label.category, Path(image_id).stem)
        for image_id, label in dataset.annotations.labels.items()
    ]
    return len(names) == len(set(names)) > 0


# --- Sketchy --------------------------------------------------------------------------------


def test_the_preprocessed_sketchy_beside_the_original_is_not_read(tmp_path):
    write_images(tmp_path, ORIGINAL)
    alone = SketchyDataset(tmp_path)
    assert alone.notes == ()
    write_images(tmp_path, PREPROCESSED, size=(5, 5))
    both = SketchyDataset(tmp_path)
    assert both.ids == alone.ids == tuple(sorted(ORIGINAL))
    assert both.annotations.labels == alone.annotations.labels
    assert {pair.photo for pair in both.annotations.pairs} == set(ORIGINAL[:2])
    assert {entry.path: entry.reason for entry in both.skipped} == {
        f"256x256/photo/{READY}": f"other rendering of the images in {RAW}",
        f"256x256/sketch/{READY}": f"other rendering of the images in {RAW}",
        "EXTEND_image_sketchy_ready": "other rendering of the images in EXTEND_image_sketchy",
    }
    (note,) = both.notes
    assert note == (
        "sketchy: images that are there several times are read once: "
        f"256x256/photo/{RAW}, not {READY} (2 images); "
        f"256x256/sketch/{RAW}, not {READY} (2 images); "
        "EXTEND_image_sketchy, not EXTEND_image_sketchy_ready (1 image) "
        "(dataset.rendering names another to read)"
    )


def test_a_lone_preprocessed_sketchy_is_read_as_ever(tmp_path):
    write_images(tmp_path, PREPROCESSED)
    dataset = SketchyDataset(tmp_path)
    assert dataset.ids == tuple(sorted(PREPROCESSED)) and dataset.notes == ()
    assert len(dataset.annotations.pairs) == 2


def test_a_key_chooses_the_rendering(tmp_path):
    write_images(tmp_path, [*ORIGINAL, *PREPROCESSED])
    every = [READY, "EXTEND_image_sketchy_ready"]
    sets = [f"dataset.root={tmp_path}", f"dataset.rendering=[{','.join(every)}]"]
    config = load_config("demo", ["dataset=sketchy", *sets])
    assert config.dataset.options() == {"rendering": tuple(every)}
    dataset = open_dataset("sketchy", tmp_path, **config.dataset.options())
    assert dataset.ids == tuple(sorted(PREPROCESSED))
    assert len(dataset.annotations.pairs) == 2
    partly = SketchyDataset(tmp_path, rendering=[READY])
    assert partly.ids == tuple(sorted([*PREPROCESSED[:4], ORIGINAL[4]]))
    with pytest.raises(DatasetError, match=r"dataset.rendering: no .*'tx_0_ready'.*did you mean"):
        SketchyDataset(tmp_path, rendering=["tx_0_ready"])


@pytest.mark.parametrize("name", ["photo_ready", "photo"])
def test_renderings_may_lie_further_up(tmp_path, name):
    write_images(tmp_path, ["photo/tx_000100000000/bat/n2_5.jpg", f"{name}/{READY}/bat/n2_5.jpg"])
    dataset = SketchyDataset(tmp_path)
    assert len(dataset.ids) == 1 and without_repeats(dataset)


PHOTOS = [f"bat/n{n}.jpg" for n in range(6)]


def test_a_second_copy_of_a_tree_is_not_read(tmp_path):
    """Of copies that are not called renderings the one is read that has all the images."""
    for folder, names in (
        ("a_few/photo", PHOTOS[:2]),
        ("data/photo", PHOTOS),
        ("zip/photo", PHOTOS),
    ):
        write_pictures(tmp_path, [f"{folder}/{name}" for name in names], range(len(names)))
    dataset = SketchyDataset(tmp_path)
    assert dataset.ids == tuple(f"data/photo/{name}" for name in PHOTOS)
    assert SketchyDataset(tmp_path, rendering=["zip"]).ids == tuple(
        f"zip/photo/{name}" for name in PHOTOS
    )


def test_copies_that_both_lack_images_are_an_error_that_names_them(tmp_path):
    for folder, start in (("a/photo", 0), ("b/photo", 2)):
        names = [f"{folder}/bat/n{n}.jpg" for n in range(start, start + 4)]
        write_pictures(tmp_path, names, range(start, start + 4))
    with pytest.raises(
        DatasetError, match=r"a/photo and b/photo have 2 images .*dataset.rendering"
    ):
        SketchyDataset(tmp_path)
    assert len(SketchyDataset(tmp_path, rendering=["b"]).ids) == 4


def test_other_images_under_the_same_names_are_images_of_their_own(tmp_path):
    for seed, folder in enumerate(("train/photo", "test/photo")):
        write_pictures(tmp_path, [f"{folder}/{name}" for name in PHOTOS], range(seed, 60, 10))
    dataset = SketchyDataset(tmp_path)
    assert len(dataset.ids) == 12 and dataset.notes == ()


def test_a_file_type_beside_another_is_read_once(tmp_path):
    for suffix, side in (("jpg", 64), ("png", 32)):
        names = [f"photo/bat/n{n}.{suffix}" for n in range(3)]
        write_pictures(tmp_path, names, range(3), side)
    dataset = SketchyDataset(tmp_path)
    assert dataset.ids == tuple(f"photo/bat/n{n}.jpg" for n in range(3))
    assert "photo/bat/*.jpg, not *.png (3 images)" in dataset.notes[0]
    assert SketchyDataset(tmp_path, rendering=["png"]).ids == tuple(
        f"photo/bat/n{n}.png" for n in range(3)
    )


# --- TU-Berlin ------------------------------------------------------------------------------


def drawing_svg(seed: int) -> str:
    points = np.random.default_rng(seed).integers(50, 750, (12, 2))
    path = " ".join(f"{x} {y}" for x, y in points)
    return (
        '<svg viewBox="0 0 800 800" xmlns="http://www.w3.org/2000/svg">'
        f'<path fill="none" stroke="black" stroke-width="8" d="M{path}"/></svg>'
    )


@pytest.fixture
def tuberlin(tmp_path) -> Path:
    for number in range(1, 6):
        svg = drawing_svg(number)
        write_text(tmp_path, f"svg/ant/{number}.svg", svg)
        for tree, side in (("png", 333), ("png_ready", 224)):
            (tmp_path / tree / "ant").mkdir(parents=True, exist_ok=True)
            drawn = render_svg(svg.encode(), side)
            drawn.save(tmp_path / tree / "ant" / f"{number}.png")
    write_images(tmp_path, ["ImageResized/ant/n1.jpg", "ImageResized_ready/ant/n1.jpg"])
    return tmp_path


def test_tuberlin_is_read_once(tuberlin):
    dataset = TUBerlinDataset(tuberlin)
    assert dataset.ids == ("ImageResized/ant/n1.jpg", *(f"png/ant/{n}.png" for n in range(1, 6)))
    (note,) = dataset.notes
    for part in ("png, not png_ready (5", "png, not svg (5", "ImageResized, not ImageResized_r"):
        assert part in note


@pytest.mark.parametrize(
    ("rendering", "first"), [("svg", "svg/ant/1.svg"), ("png_ready", "png_ready/ant/1.png")]
)
def test_another_tree_of_tuberlin_is_read_on_request(tuberlin, rendering, first):
    ids = TUBerlinDataset(tuberlin, rendering=[rendering]).ids
    assert len(ids) == 6 and first in ids


# --- folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "copy"),
    [("sketch", "sketches"), ("photos", "photos_256"), ("original", "processed"), (".", "small")],
)
def test_resized_copies_of_a_folder_are_not_read(tmp_path, folder, copy):
    for above, side in ((folder, 64), (copy, 20)):
        names = [f"{above}/cat/{n}.png" for n in range(6)]
        write_pictures(tmp_path, names, range(6), side)
    prefix = "" if folder == "." else folder + "/"
    dataset = FolderDataset(tmp_path)
    assert dataset.ids == tuple(f"{prefix}cat/{n}.png" for n in range(6))
    assert f"{folder}, not {copy} (6 images)" in dataset.notes[0]
    assert FolderDataset(tmp_path, rendering=[copy]).ids[0] == f"{copy}/cat/0.png"


def test_folders_that_count_their_pictures_alike_are_all_read(tmp_path):
    """Classes, parts of a dataset, sketches beside photos, and what cannot be compared."""
    for seed, folder in enumerate(("train/cat", "train/dog", "test/cat", "sketch/cat")):
        write_pictures(tmp_path, [f"{folder}/{n}.png" for n in range(5)], range(seed, 50, 10))
    write_pictures(tmp_path, [f"photo/cat/{n}.png" for n in range(5)], range(3, 50, 10))
    for tree in ("a", "b"):
        write_text(tmp_path, f"{tree}/bird/0.png", "no picture")
    dataset = FolderDataset(tmp_path)
    assert len(dataset.ids) == 27 and dataset.notes == ()


# --- QuickDraw ------------------------------------------------------------------------------

KEYS = ["5152802093400064", "6622904974311424", "4503626191994880"]


def ndjson(root: Path, file: str, word: str, keys: list[str]) -> None:
    lines = [
        json.dumps({"word": word, "key_id": key, "drawing": [[[0, 90, n], [0, 9, 50]]]})
        for n, key in enumerate(keys)
    ]
    write_text(root, file, "\n".join(lines))


def bitmaps(root: Path, file: str, n: int, seed: int = 0) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / file, np.random.default_rng(seed).integers(0, 256, (n, 784), np.uint8))


@pytest.fixture
def quickdraw(tmp_path) -> Path:
    """Cats in three formats, dogs as bitmaps alone, and a photo of a cat."""
    ndjson(tmp_path, "simplified/cat.ndjson", "cat", KEYS)
    bitmaps(tmp_path, "full_numpy_bitmap_cat.npy", 3)
    bitmaps(tmp_path, "full_numpy_bitmap_dog.npy", 2)
    write_images(tmp_path, ["png/cat/1.png", "images/cat/2.jpg"])
    return tmp_path


def test_a_class_of_quickdraw_is_read_in_one_format(quickdraw):
    dataset = QuickDrawDataset(quickdraw)
    files = {image_id.rpartition("/")[0] for image_id in dataset.ids}
    assert files == {"simplified/cat.ndjson", "full_numpy_bitmap_dog.npy", "images/cat"}
    assert len(dataset.ids) == 6
    assert {(entry.path, entry.reason) for entry in dataset.skipped} == {
        ("full_numpy_bitmap_cat.npy", "cat is read as ndjson"),
        ("png/cat", "cat is read as ndjson"),
    }
    (note,) = dataset.notes
    assert "ndjson, not npy (3 images)" in note and "ndjson, not png (1 image)" in note


@pytest.mark.parametrize(
    ("rendering", "source"), [("npy", "full_numpy_bitmap_cat.npy"), ("png", "png/cat")]
)
def test_another_format_of_quickdraw_is_read_on_request(quickdraw, rendering, source):
    ids = QuickDrawDataset(quickdraw, rendering=[rendering]).ids
    assert {image_id.rpartition("/")[0] for image_id in ids} == {
        source, "full_numpy_bitmap_dog.npy", "images/cat",
    }  # fmt: skip


def test_files_of_the_same_drawings_are_read_once(quickdraw):
    ndjson(quickdraw, "raw/cat.ndjson", "cat", KEYS)
    bitmaps(quickdraw, "again/dog.npy", 2)
    bitmaps(quickdraw, "more/dog.npy", 2, seed=1)
    dataset = QuickDrawDataset(quickdraw)
    files = {image_id.rpartition("/")[0] for image_id in dataset.ids}
    assert files == {"raw/cat.ndjson", "again/dog.npy", "more/dog.npy", "images/cat"}
    assert "raw/cat.ndjson, not simplified/cat.ndjson (3 images)" in dataset.notes[0]
    chosen = QuickDrawDataset(quickdraw, rendering=["simplified"])
    assert "simplified/cat.ndjson/" + KEYS[0] in chosen.ids
    assert not any(image_id.startswith("raw/") for image_id in chosen.ids)


def test_files_that_share_some_drawings_are_an_error_that_names_them(tmp_path):
    ndjson(tmp_path, "a.ndjson", "cat", KEYS[:2])
    ndjson(tmp_path, "b.ndjson", "cat", KEYS[1:])
    with pytest.raises(DatasetError, match=r"a.ndjson and b.ndjson have 1 image"):
        QuickDrawDataset(tmp_path)
    ndjson(tmp_path, "b.ndjson", "cat", ["1", "2"])
    ndjson(tmp_path, "c.ndjson", "cat", ["1", "2"])  # keys that were counted
    assert len(QuickDrawDataset(tmp_path).ids) == 6


# --- PSC6K and several datasets -------------------------------------------------------------


def test_a_preprocessed_rendering_has_not_the_points_of_the_original(tmp_path):
    row = "{photo},sketch/tx_000100000000/bat/n1-2.png,bat,1,2,3,4"
    photo = "photo/tx_000100000000/bat/n1.jpg"
    write_text(
        tmp_path, "test_pairs_ps.csv", f"photo,sketch,class,XA,YA,XB,YB\n{row.format(photo=photo)}"
    )
    others = [photo.replace("000/", "000_ready/"), "sketch/tx_000100000000/bat/n1-2.png"]
    write_images(tmp_path, [photo, *others])
    assert photo in PSC6KDataset(tmp_path).ids
    (tmp_path / photo).unlink()
    with pytest.raises(DatasetError, match="only as another rendering"):
        PSC6KDataset(tmp_path)
    with pytest.raises(DatasetError, match="no option 'rendering'"):
        open_dataset("psc6k", tmp_path, rendering=[READY])


def test_datasets_that_overlap_are_an_error_that_names_them(tmp_path):
    write_images(tmp_path, [*ORIGINAL, "other/photo/bat/n9.jpg"])
    whole, part, apart = (
        SketchyDataset(tmp_path / below) for below in (".", "256x256", "EXTEND_image_sketchy")
    )
    for parts in ([whole, part], [part, whole]):
        with pytest.raises(DatasetError, match="4 images in common") as caught:
            UnionDataset(parts)
        assert f"{parts[0].root} and {parts[1].root}" in str(caught.value)
    assert len(UnionDataset([part, apart]).ids) == 5
    link = tmp_path.with_name(tmp_path.name + "-link")
    os.symlink(tmp_path / "256x256", link)
    with pytest.raises(DatasetError, match="4 images in common"):
        UnionDataset([whole, SketchyDataset(link)])


def test_a_copy_under_another_root_is_an_error_that_names_both(tmp_path):
    for tree, rendering, side in (("a", RAW, 64), ("b", READY, 20)):
        names = [f"photo/{rendering}/{name}" for name in PHOTOS]
        write_pictures(tmp_path / tree, names, range(6), side)
    write_pictures(tmp_path / "c", [f"photo/tx_1/{name}" for name in PHOTOS], range(10, 16))
    a, b, c = (SketchyDataset(tmp_path / tree) for tree in "abc")
    with pytest.raises(DatasetError, match=r"/a and .*/b have 6 images in common"):
        UnionDataset([c, a, b])
    assert len(UnionDataset([a, c]).ids) == 12


def test_plan_and_precompute_say_what_is_read(tmp_path):
    root = tmp_path / "pictures"
    for tree, side in (("sketch", 64), ("sketches", 20)):
        write_pictures(root, [f"{tree}/cat/1.png", f"{tree}/cat/2.png"], [1, 2], side)
    sets = ["--set", "dataset=folder", "--set", f"dataset.root={root}"]
    (note,) = FolderDataset(root).notes
    assert f"note        {note}" in ok("plan", "demo", *sets).stdout.splitlines()
    made = ok("precompute", "demo", "--out", tmp_path / "store", *sets)
    assert made.stderr.splitlines().count(note) == 1 and "2 images computed" in made.stdout


# --- stores made before ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sketchy", "quickdraw"])
def test_a_store_that_has_an_image_twice_can_still_grow(tmp_path, monkeypatch, quickdraw, kind):
    """Its images that the dataset no longer lists are still read when an array is added."""
    root = quickdraw
    if kind == "sketchy":
        root = tmp_path / "sketchy"
        write_images(root, [*ORIGINAL, *PREPROCESSED])
    with monkeypatch.context() as older:
        older.setattr(FileDataset, "_one_rendering", lambda self, labels, kind=None: dict(labels))
        older.setattr(QuickDrawDataset, "_one_format", lambda self, labels: labels)
        images = scan(open_dataset(kind, root)).images
    dataset = open_dataset(kind, root)
    assert set(dataset.ids) < {image.id for image in images}
    (batch,) = load_squares(
        dataset, images, [RowBatch(0, range(len(images)))], 32, "edge", workers=0
    )
    assert batch.rows == list(range(len(images))) and not batch.unreadable
