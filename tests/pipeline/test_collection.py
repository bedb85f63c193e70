"""Scanning a dataset into a collection."""

from __future__ import annotations

import hashlib
import json

from cache import ImageRecord
from pipeline.datasets import open_dataset
from pipeline.inputs.collection import scan
from pipeline.pictures.strokes import RENDER_SIDE
from tests.pipeline.trees import image_bytes, write_images, write_text


def test_records_hold_hash_and_upright_size(tmp_path):
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "b" / "3.jpg").write_bytes(image_bytes(9, (20, 10), "JPEG"))
    collection = scan(open_dataset("folder", tmp_path), workers=2)
    assert collection.images == tuple(
        ImageRecord(image_id, hashlib.sha256((tmp_path / image_id).read_bytes()).hexdigest(), *size)
        for image_id, size in [("a/1.png", (8, 6)), ("b/2.png", (8, 6)), ("b/3.jpg", (20, 10))]
    )
    assert collection.skipped == ()


def test_an_image_that_cannot_be_decoded_is_listed_without_a_size(tmp_path):
    write_images(tmp_path, ["1.png"])
    write_text(tmp_path, "2.png", "no picture")
    write_text(tmp_path, "3.png", "")
    images = scan(open_dataset("folder", tmp_path)).images
    assert [(image.width, image.height) for image in images] == [(8, 6), (None, None), (None, None)]
    assert images[2].sha256 == hashlib.sha256(b"").hexdigest()


def test_a_file_that_vanished_is_skipped(tmp_path):
    write_images(tmp_path, ["1.png", "2.png", "notes.txt"])
    dataset = open_dataset("folder", tmp_path)
    (tmp_path / "1.png").unlink()
    collection = scan(dataset)
    assert [image.id for image in collection.images] == ["2.png"]
    assert [(entry.path, entry.reason) for entry in collection.skipped] == [
        ("notes.txt", "other extension (.txt)"),
        ("1.png", "cannot be read (No such file or directory)"),
    ]


def test_order_and_values_do_not_depend_on_the_threads(tmp_path):
    write_images(tmp_path, [f"{n:04d}.png" for n in range(1500)])  # more than one window
    dataset = open_dataset("folder", tmp_path)
    done: list[int] = []
    collection = scan(dataset, workers=1, progress=done.append)
    assert collection == scan(dataset, workers=7)
    assert [image.id for image in collection.images] == list(dataset.ids)
    assert sum(done) == 1500
    assert len({image.sha256 for image in collection.images}) == 1500


def test_drawings_have_the_size_they_are_rendered_at(tmp_path):
    line = json.dumps({"key_id": "7", "word": "cat", "drawing": [[[0, 1], [0, 1]]]})
    write_text(tmp_path, "cat.ndjson", line + "\n")
    (image,) = scan(open_dataset("quickdraw", tmp_path)).images
    assert image == ImageRecord(
        "cat.ndjson/7", hashlib.sha256(line.encode()).hexdigest(), RENDER_SIDE, RENDER_SIDE
    )


def test_shapes(tmp_path):
    collection = scan(open_dataset("shapes", None, size=6))
    assert [(image.width, image.height) for image in collection.images] == [(96, 96)] * 6
    assert len({image.sha256 for image in collection.images}) == 6
