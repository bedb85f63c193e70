"""PSC6K: its tables, the images they name, and their points in image pixels."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.base import DatasetError, Label
from pipeline.datasets.psc6k import PSC6KDataset
from tests.pipeline.trees import write_images, write_text

HEADER = "photo,sketch,class,XA,YA,XB,YB"
HEADER_ST = "source_image,target_image,class,XA,YA,XB,YB"
PHOTO, SKETCH = "photo/airplane/n1_1.jpg", "sketch/airplane/n1_1-2.png"
XA, YA = [10.0, 20.5, 255.0], [0.0, 100.0, 31.0]
XB, YB = [1.0, 2.0, 3.0], [40.0, 50.0, 60.0]


def cells(values) -> str:
    return ";".join(str(value) for value in values)


def row(photo: str = PHOTO, sketch: str = SKETCH, points=(XA, YA, XB, YB)) -> str:
    return ",".join([photo, sketch, "0", *map(cells, points)])


def table(root: Path, *rows: str, name: str = "test_pairs_ps.csv", header: str = HEADER) -> Path:
    return write_text(root, name, "\n".join([header, *rows]) + "\n")


def points(xs, ys) -> np.ndarray:
    return np.stack([xs, ys], axis=1)


def test_points_of_a_256_pixel_image_are_the_published_ones(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH], size=(256, 256))
    table(tmp_path, row())
    dataset = PSC6KDataset(tmp_path)
    assert dataset.ids == (PHOTO, SKETCH)
    assert dataset.annotations.labels == {
        PHOTO: Label("airplane", "photo", None, "test"),
        SKETCH: Label("airplane", "sketch", PHOTO, "test"),
    }
    (pair,) = dataset.annotations.pairs
    assert (pair.photo, pair.sketch, pair.category, pair.split) == (
        PHOTO,
        SKETCH,
        "airplane",
        "test",
    )
    np.testing.assert_allclose(pair.photo_points, points(XA, YA))
    np.testing.assert_allclose(pair.sketch_points, points(XB, YB))
    assert pair.visible.tolist() == [True] * 3


def test_points_follow_a_picture_that_was_resized(tmp_path):
    """A dot drawn in the frame and resized with the image lies where the point says."""
    frame = np.zeros((256, 256), np.uint8)
    frame[99:101, 29:31] = 255  # centred on (30, 100), a corner of four pixels
    for path, size in [(PHOTO, (512, 384)), (SKETCH, (128, 100))]:
        (tmp_path / path).parent.mkdir(parents=True)
        resized = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        resized.save((tmp_path / path).with_suffix(".png"))
    table(
        tmp_path,
        row(PHOTO.replace(".jpg", ".png"), SKETCH, ([30], [100], [30], [100])),
    )
    dataset = PSC6KDataset(tmp_path)
    (pair,) = dataset.annotations.pairs
    for image_id, found in [(pair.photo, pair.photo_points), (pair.sketch, pair.sketch_points)]:
        image = np.asarray(dataset.decode(image_id, dataset.read(image_id)))[..., 0].astype(float)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        centre = np.array([(x * image).sum(), (y * image).sum()]) / image.sum() + 0.5
        np.testing.assert_allclose(found[0], centre, atol=0.1)


def test_only_named_images_belong(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH, "photo/airplane/n1_2.jpg", "sketch/cow/n9_9-1.png"])
    table(tmp_path, row())
    dataset = PSC6KDataset(tmp_path)
    assert dataset.ids == (PHOTO, SKETCH)
    assert [entry.reason for entry in dataset.skipped] == ["2 images that no table names"]


@pytest.mark.parametrize(
    "below", ["", "Sketchy/rendered_256x256/256x256/", "data/"], ids=["root", "tree", "folder"]
)
@pytest.mark.parametrize("named", ["", "256x256/", "/elsewhere/Sketchy/256x256/"])
def test_images_are_found_by_the_end_of_their_path(tmp_path, below, named):
    photo, sketch = "photo/tx_000100000000/bat/n1_1.jpg", "sketch/tx_000100000000/bat/n1_1-2.png"
    others = [path.replace("tx_0001", "tx_0000") for path in (photo, sketch)]
    write_images(tmp_path, [below + path for path in (photo, sketch, *others)])
    table(tmp_path, row(named + photo, named + sketch), name="PSC6K/test_pairs_ps.csv")
    assert PSC6KDataset(tmp_path).ids == (below + photo, below + sketch)


def test_a_rendering_is_not_replaced_by_another(tmp_path):
    write_images(tmp_path, ["photo/tx_000000000000/bat/n1_1.jpg", "sketch/bat/n1_1-2.png"])
    table(tmp_path, row("photo/tx_000100000000/bat/n1_1.jpg", "sketch/bat/n1_1-2.png"))
    with pytest.raises(DatasetError, match=r"ps.csv:2: .* only as another rendering"):
        PSC6KDataset(tmp_path)


def test_a_rendering_may_have_been_unpacked_without_its_folder(tmp_path):
    write_images(tmp_path, ["photo/bat/n1_1.jpg", "sketch/bat/n1_1-2.png"])
    table(
        tmp_path,
        row(
            *(
                f"{d}/tx_000100000000/bat/n1_1{e}"
                for d, e in [("photo", ".jpg"), ("sketch", "-2.png")]
            )
        ),
    )
    assert PSC6KDataset(tmp_path).ids == ("photo/bat/n1_1.jpg", "sketch/bat/n1_1-2.png")


def test_an_ambiguous_path_is_refused(tmp_path):
    write_images(tmp_path, [f"photo/tx_000{n}00000000/bat/n1_1.jpg" for n in (0, 1)])
    table(tmp_path, row("bat/n1_1.jpg", "bat/n1_1-2.png"))
    with pytest.raises(DatasetError, match=r"may be .*tx_0000.* or .*tx_0001"):
        PSC6KDataset(tmp_path)


def test_both_directions_of_the_source_target_form_are_one_pair(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH], size=(256, 256))
    forward = row()
    backward = ",".join([SKETCH, PHOTO, "0", cells(XB), cells(YB), cells(XA), cells(YA)])
    for order in ([forward, backward], [backward, forward], [backward]):
        table(tmp_path, *order, name="test_pairs_st.csv", header=HEADER_ST)
        (pair,) = PSC6KDataset(tmp_path).annotations.pairs
        assert (pair.photo, pair.sketch) == (PHOTO, SKETCH)
        np.testing.assert_allclose(pair.photo_points, points(XA, YA))
        np.testing.assert_allclose(pair.sketch_points, points(XB, YB))


def test_the_photo_sketch_form_is_preferred(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    table(tmp_path, row())
    table(tmp_path, "broken", name="test_pairs_st.csv", header=HEADER_ST)
    dataset = PSC6KDataset(tmp_path)
    assert len(dataset.annotations.pairs) == 1
    assert [entry.path for entry in dataset.skipped] == ["test_pairs_st.csv"]


def test_annotated_training_pairs_have_their_split(tmp_path):
    train = ("photo/airplane/n1_5.jpg", "sketch/airplane/n1_5-1.png")
    write_images(tmp_path, [PHOTO, SKETCH, *train])
    table(tmp_path, row())
    table(tmp_path, row(*train), name="train_pairs_ps.csv")
    splits = {pair.photo: pair.split for pair in PSC6KDataset(tmp_path).annotations.pairs}
    assert splits == {PHOTO: "test", train[0]: "train"}


def test_tables_without_points_are_left_out(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    table(tmp_path, row())
    write_text(tmp_path, "train_pairs_ps.csv", "photo,sketch,class,flip\nx.jpg,y.png,0,1\n")
    write_text(tmp_path, "other.csv", "a,b\n1,2\n")
    dataset = PSC6KDataset(tmp_path)
    assert len(dataset.annotations.pairs) == 1
    assert {entry.path: entry.reason for entry in dataset.skipped} == {
        "train_pairs_ps.csv": "table without points",
        "other.csv": "not a table of pairs",
    }


def test_a_repeated_row_counts_once(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    file = table(tmp_path, row(), row())
    dataset = PSC6KDataset(tmp_path)
    assert len(dataset.annotations.pairs) == 1
    assert [(entry.path, entry.reason) for entry in dataset.skipped] == [
        (f"{file}:3", "pair of an earlier row")
    ]


def test_the_class_column_counts_where_it_is_a_name(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    table(tmp_path, row().replace(",0,", ",Hot-air_balloon,"))
    assert PSC6KDataset(tmp_path).annotations.pairs[0].category == "hot air balloon"


def test_limit_keeps_whole_pairs(tmp_path):
    names = [(f"photo/{c}/n1_{n}.jpg", f"sketch/{c}/n1_{n}-1.png") for c in "ab" for n in (1, 2)]
    write_images(tmp_path, [path for pair in names for path in pair])
    table(tmp_path, *(row(*pair) for pair in names))
    dataset = PSC6KDataset(tmp_path, limit=4)
    assert {pair.photo for pair in dataset.annotations.pairs} == {names[0][0], names[2][0]}
    assert len(dataset.ids) == 4


def test_the_dataset_pickles(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    table(tmp_path, row())
    copy = pickle.loads(pickle.dumps(PSC6KDataset(tmp_path)))
    assert len(copy.annotations.pairs) == 1


SHORT = ([1, 2], [3, 4], [5, 6], [7])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(points=SHORT), "2 x but 1 y coordinates"),
        (row(points=([1, 2], [3, 4], [5], [6])), "2 points in XA, YA but 1 in XB, YB"),
        (row(points=(["one"], [3], [5], [6])), "not a number"),
        (row(points=([""], [""], [""], [""])), "not a number"),
        (row(points=(["nan"], [3], [5], [6])), "not finite"),
        (row(photo="photo/airplane/n1_404.jpg"), "n1_404.jpg is not under the root"),
        (row(photo="../../../etc/passwd"), "not under the root"),
        (row(photo=""), "not under the root"),
        (row(photo=SKETCH, sketch=PHOTO), "expected a photo and a sketch"),
        (row(photo=SKETCH), "expected a photo and a sketch"),
        (f"{PHOTO},{SKETCH},0,1", "cells"),
        (f"{row()},more", "cells"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path, bad, message):
    write_images(tmp_path, [PHOTO, SKETCH])
    file = table(tmp_path, row(), bad)
    with pytest.raises(DatasetError) as caught:
        PSC6KDataset(tmp_path)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_tables_that_are_none(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    with pytest.raises(DatasetError, match=r"looked for test_pairs_ps\.csv"):
        PSC6KDataset(tmp_path)
    file = table(tmp_path, row(), header="photo,sketch,class,XA,YA,XB")
    with pytest.raises(DatasetError, match=r"test_pairs_ps\.csv:1: no column YB"):
        PSC6KDataset(tmp_path)
    file.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        PSC6KDataset(tmp_path)


def test_an_unreadable_image_names_its_row(tmp_path):
    write_images(tmp_path, [PHOTO, SKETCH])
    (tmp_path / SKETCH).write_bytes(b"")
    table(tmp_path, row())
    dataset = PSC6KDataset(tmp_path)  # stage 1 still runs, and quarantines it
    with pytest.raises(DatasetError, match=r"ps.csv:2: sketch/.* cannot be read: empty file"):
        _ = dataset.annotations
