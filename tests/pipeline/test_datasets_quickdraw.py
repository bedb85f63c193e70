"""Quick, Draw! in its three published formats."""

from __future__ import annotations

import io
import json
import pickle
import re

import numpy as np
import pytest

from pipeline.datasets.base import DatasetError, Label
from pipeline.datasets.quickdraw import QuickDrawDataset
from pipeline.pictures.images import ImageError
from pipeline.pictures.strokes import RENDER_SIDE, render_strokes
from tests.pipeline.trees import write_images, write_text

STROKES = [[[0, 50, 255], [0, 90, 10]], [[20], [30]]]


def drawing(key: str | int | None, strokes=STROKES, **extra) -> str:
    record = {"word": "The Eiffel Tower", "recognized": False, "drawing": strokes} | extra
    return json.dumps(record if key is None else {**record, "key_id": key})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def skipped(dataset) -> dict[str, str]:
    return {entry.path: entry.reason for entry in dataset.skipped}


# --- ndjson ---------------------------------------------------------------------------------


def test_every_line_is_an_image(tmp_path):
    lines = [drawing("5152802093400064"), drawing("6622904974311424", [[[0, 9], [9, 0]]])]
    write_text(tmp_path, "ndjson/tower.ndjson", "\n".join(lines) + "\n")
    dataset = QuickDrawDataset(tmp_path)
    ids = ("ndjson/tower.ndjson/5152802093400064", "ndjson/tower.ndjson/6622904974311424")
    assert dataset.ids == ids
    assert [dataset.read(image_id) for image_id in ids] == [line.encode() for line in lines]
    assert dataset.annotations.labels[ids[0]] == Label("the eiffel tower", "sketch")
    image = dataset.decode(ids[0], dataset.read(ids[0]))
    assert image.size == dataset.size(ids[0], lines[0].encode()) == (RENDER_SIDE, RENDER_SIDE)
    np.testing.assert_array_equal(image, render_strokes(STROKES, RENDER_SIDE))


def test_line_ends_and_blank_lines_do_not_matter(tmp_path):
    lines = [drawing("1"), drawing("2"), drawing("3")]
    (tmp_path / "a.ndjson").write_bytes("\r\n\r\n".join(lines).encode() + b"\n\n  \n")
    dataset = QuickDrawDataset(tmp_path)
    assert [dataset.read(image_id).decode() for image_id in dataset.ids] == lines
    assert not dataset.skipped


def test_bytes_beyond_ascii_do_not_shift_the_records(tmp_path):
    lines = [
        json.dumps(
            {"key_id": str(n), "word": "café 😀" * n, "drawing": STROKES}, ensure_ascii=False
        )
        for n in range(5)
    ]
    write_text(tmp_path, "a.ndjson", "\n".join(lines))
    dataset = QuickDrawDataset(tmp_path)
    assert [dataset.read(f"a.ndjson/{n}").decode() for n in range(5)] == lines


def test_drawings_without_a_usable_key_or_word(tmp_path):
    lines = [
        json.dumps({"drawing": STROKES}),
        drawing("../../up"),
        drawing(12345),
        drawing(""),
        drawing("ok", word=7),
        drawing("ok"),
    ]
    write_text(tmp_path, "full_simplified_hot dog.ndjson", "\n".join(lines))
    dataset = QuickDrawDataset(tmp_path)
    file = "full_simplified_hot dog.ndjson"
    assert set(dataset.ids) == {
        f"{file}/{key}" for key in ("000001", "000002", "000004", "12345", "ok")
    }
    labels = dataset.annotations.labels
    assert labels[f"{file}/000001"].category == labels[f"{file}/ok"].category == "hot dog"
    assert skipped(dataset) == {f"{file}/ok": "key of an earlier drawing"}


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"key_id": "1"}', '{"drawing": 3}', "\x00", "[" * 100_000]
)
def test_malformed_lines_are_reported(tmp_path, line):
    write_text(tmp_path, "a.ndjson", f"{drawing('1')}\n{line}\n{drawing('2')}\n")
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.ids == ("a.ndjson/1", "a.ndjson/2")
    assert list(skipped(dataset)) == ["a.ndjson:2"]
    assert skipped(dataset)["a.ndjson:2"].startswith("malformed drawing")


def test_a_file_cut_in_the_middle_loses_only_its_last_line(tmp_path):
    text = f"{drawing('1')}\n{drawing('2')}\n"
    write_text(tmp_path, "a.ndjson", text[:-30])
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.ids == ("a.ndjson/1",) and list(skipped(dataset)) == ["a.ndjson:2"]


@pytest.mark.parametrize("strokes", [[], [[[1, 2], [3]]], [["a", "b"]], [7]])
def test_a_drawing_without_sound_strokes_is_listed_and_refused_when_decoded(tmp_path, strokes):
    write_text(tmp_path, "a.ndjson", drawing("1", strokes))
    dataset = QuickDrawDataset(tmp_path)
    with pytest.raises(ImageError, match="strokes"):
        dataset.decode("a.ndjson/1", dataset.read("a.ndjson/1"))


def test_limit_reads_no_more_of_a_file_than_it_must(tmp_path):
    for name in ("a", "b"):
        lines = [drawing(f"{n:02d}", word=name) for n in range(4)] + ["not read"]
        write_text(tmp_path, f"{name}.ndjson", "\n".join(lines))
    dataset = QuickDrawDataset(tmp_path, limit=3)
    assert dataset.ids == ("a.ndjson/00", "a.ndjson/01", "b.ndjson/00")
    assert not dataset.skipped
    whole = QuickDrawDataset(tmp_path, limit=7)
    assert len(whole.ids) == 7 and len(whole.skipped) == 2


def test_the_dataset_pickles(tmp_path):
    write_text(tmp_path, "a.ndjson", f"{drawing('1')}\n{drawing('2')}\n")
    dataset = QuickDrawDataset(tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert [copy.read(i) for i in copy.ids] == [dataset.read(i) for i in dataset.ids]


# --- npy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 784), (3, 28, 28)])
def test_bitmaps_are_inverted_to_dark_on_white(tmp_path, shape):
    ink = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "full_numpy_bitmap_lion.npy").write_bytes(npy(ink))
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.ids == tuple(f"full_numpy_bitmap_lion.npy/{n:06d}" for n in range(3))
    for row, image_id in zip(ink, dataset.ids, strict=True):
        data = dataset.read(image_id)
        assert data == row.tobytes()
        assert dataset.size(image_id, data) == (28, 28)
        expected = 255 - row.reshape(28, 28)
        np.testing.assert_array_equal(dataset.decode(image_id, data), np.dstack([expected] * 3))
        assert dataset.annotations.labels[image_id] == Label("lion", "sketch")


def test_limit_of_bitmaps(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.npy").write_bytes(npy(np.zeros((50, 784), np.uint8)))
    assert QuickDrawDataset(tmp_path, limit=3).ids == (
        "a.npy/000000",
        "a.npy/000001",
        "b.npy/000000",
    )


class Evil:
    """Unpickling this would raise; loading it as an array must not get so far."""

    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "magic"),
        (b"not an array", "magic"),
        (npy(np.zeros((2, 784), np.uint8))[:-1], "truncated"),
        (npy(np.zeros((2, 784), np.float32)), "float32"),
        (npy(np.zeros((2, 100), np.uint8)), r"\[2, 100\]"),
        (npy(np.zeros((), np.uint8)), "expected uint8"),
        (npy(np.asfortranarray(np.zeros((2, 784), np.uint8))), "column by column"),
        (npy(np.array([Evil()], dtype=object)), "object"),
    ],
)
def test_a_bad_array_is_skipped(tmp_path, data, reason):
    (tmp_path / "bad.npy").write_bytes(data)
    write_text(tmp_path, "a.ndjson", drawing("1"))
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.ids == ("a.ndjson/1",)
    (entry,) = dataset.skipped
    assert entry.path == "bad.npy" and "\n" not in entry.reason
    assert re.search(reason, entry.reason)


# --- PNG folders and mixtures ---------------------------------------------------------------


def test_png_folders_and_photos(tmp_path):
    write_images(
        tmp_path,
        [
            "QuickDraw_sketches_final/cat/1.png",
            "QuickDraw_images_final/cat/2.jpg",
            "dog/3.png",
            "loose.png",
        ],
    )
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.annotations.labels == {
        "QuickDraw_images_final/cat/2.jpg": Label("cat", "photo"),
        "QuickDraw_sketches_final/cat/1.png": Label("cat", "sketch"),
        "dog/3.png": Label("dog", "sketch"),
    }
    assert skipped(dataset) == {"loose.png": "not in a class folder"}
    data = dataset.read("dog/3.png")
    assert dataset.decode("dog/3.png", data).size == dataset.size("dog/3.png", data) == (8, 6)


def test_all_formats_together_are_sorted(tmp_path):
    """Each class in a format of its own; of one in several, test_datasets_renderings."""
    write_text(tmp_path, "a.ndjson", "\n".join(drawing(key) for key in ("9", "10", "1")))
    (tmp_path / "b.npy").write_bytes(npy(np.zeros((2, 784), np.uint8)))
    write_images(tmp_path, ["a/1.png"])
    ids = QuickDrawDataset(tmp_path).ids
    assert list(ids) == sorted(ids) and len(ids) == 6


def test_nothing_to_find(tmp_path):
    write_text(tmp_path, "a.ndjson", "not JSON\n")
    with pytest.raises(DatasetError, match=r"looked for <class>.ndjson.*malformed drawing"):
        QuickDrawDataset(tmp_path)
