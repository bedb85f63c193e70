"""Pictures, drawings and tables from a stranger: read, left out with a reason, or one line."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import open_dataset
from pipeline.datasets.base import DatasetError
from pipeline.datasets.masks import load_mask
from pipeline.datasets.quickdraw import QuickDrawDataset
from pipeline.pictures import images
from pipeline.pictures.images import ImageError, decode_foreground, decode_image, image_size
from pipeline.pictures.strokes import render_strokes, render_svg
from tests.heads.worlds import complaint, ok
from tests.hostile.bounds import bounded
from tests.hostile.mutate import damaged, damaged_json

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 13, 3), np.uint8))
EXIF = Image.Exif()
EXIF[0x0112] = 6


def encoded(kind: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


SPECIMENS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded("PNG", exif=EXIF),
    "palette": lambda: encoded("PNG", PICTURE.convert("P"), transparency=3),
    "png with alpha": lambda: encoded("PNG", PICTURE.convert("LA")),
    "16 bits": lambda: encoded(
        "PNG", Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8))
    ),
    "jpeg": lambda: encoded("JPEG", exif=EXIF),
    "gif": lambda: encoded("GIF", save_all=True, append_images=[PICTURE.rotate(9)]),
    "bmp": lambda: encoded("BMP"),
    "webp": lambda: encoded("WEBP", exif=EXIF),
    "tiff": lambda: encoded("TIFF", save_all=True, append_images=[PICTURE]),
    "lzw tiff": lambda: encoded("TIFF", compression="tiff_lzw"),
    "ppm": lambda: encoded("PPM"),
    "avif": lambda: encoded("AVIF"),
}


def decodes_or_says_why(data: bytes) -> None:
    for decode in (decode_image, image_size, decode_foreground):
        try:
            decode(data)
        except ImageError as error:
            assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", SPECIMENS)
def test_damaged_pictures(kind: str) -> None:
    for data in damaged(SPECIMENS[kind](), 100, seed=1):
        decodes_or_says_why(data)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        out += struct.pack(">I", len(data)) + kind + data + checksum
    return out


ZEROS = zlib.compress(bytes(64 * 2**20), 9)
BOMBS = {
    "60,000 squared": png(60_000, 60_000, (b"IDAT", ZEROS)),
    "below 100 megapixels, without data": png(9_999, 9_999, (b"IDAT", b"")),
    "text": png(4, 4, (b"zTXt", b"a\0\0" + ZEROS), (b"IDAT", zlib.compress(bytes(52)))),
    "colour profile": png(4, 4, (b"iCCP", b"a\0\0" + ZEROS), (b"IDAT", zlib.compress(bytes(52)))),
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x01\x4c\0;",
    "bmp": b"BM" + struct.pack("<IIIIiiHH24x", 60, 0, 54, 40, 2**30, 2**30, 1, 24),
    "ppm": b"P6 99999999 99999999 255 ",
    "ppm of many digits": b"P6 " + b"9" * 10_000 + b" 1 255 ",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory(name: str) -> None:
    found = bounded(lambda: decode_image(BOMBS[name]), mib=450)
    if name in ("text", "colour profile"):  # nothing that the picture needs
        assert "size=4x4" in found
    else:
        assert found.startswith("ImageError: "), found


@pytest.mark.parametrize("name", ["60,000 squared", "gif", "bmp", "ppm"])
def test_absurd_sizes_are_refused_by_the_header(name: str) -> None:
    assert bounded(lambda: image_size(BOMBS[name]), mib=16).startswith("ImageError: ")


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encoded("PNG"))
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**42)  # takes no room on the disk
    dataset = open_dataset("folder", tmp_path)
    assert "larger than 256 MiB" in bounded(lambda: dataset.read("huge.png"), mib=64)
    assert dataset.read("small.png") == encoded("PNG")


def test_a_mask_is_no_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand PostScript to an outside program, whatever the file is called."""
    (tmp_path / "photo.png").write_bytes(encoded("PNG"))
    mask = tmp_path / "mask.png"
    for data in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        BOMBS["60,000 squared"],
        b"",
    ):
        mask.write_bytes(data)
        with pytest.raises(DatasetError, match=r"mask\.png"):
            load_mask(mask, tmp_path / "photo.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    mask.write_bytes(encoded("PNG"))
    with pytest.raises(DatasetError, match="more than 100"):
        load_mask(mask, tmp_path / "photo.png")


SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 80"><style>.a{stroke-width:2px}
</style><g transform="scale(2)" fill="none" stroke="#000"><path class="a" d="M1 2C3 4 5 6 7 8"/>
<circle cx="9" cy="9" r="4" stroke-width="2" opacity="0.5"/></g></svg>"""


def test_damaged_svg() -> None:
    for data in damaged(SVG, 150, seed=2):
        try:
            assert render_svg(data, 96).size == (96, 96)
        except ImageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE s [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><svg viewBox="0 0 9 9">&b;</svg>',
        b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg viewBox="0 0 9 9">&a;</svg>',
        b'<svg viewBox="0 0 9 9"><image href="/etc/passwd"/></svg>',
        b'<svg viewBox="0 0 1e-30 1e-30"><path d="M0 0h9"/></svg>',
        b'<svg viewBox="0 0 9 9">' + b"<g>" * 50_000,
        b'<svg width="1e9" height="1e9"><path stroke-dasharray="1e-9" d="M0 0h1e9"/></svg>',
    ],
)  # fmt: skip
def test_hostile_svg_is_not_drawn(data: bytes) -> None:
    assert bounded(lambda: render_svg(data, 96), mib=256).startswith("ImageError: ")


DRAWING = {"word": "cat", "key_id": "5", "drawing": [[[0, 9, 250], [3, 4, 5]], [[1], [2], [0]]]}


def test_damaged_drawings() -> None:
    for document in damaged_json(DRAWING["drawing"], 60, seed=3):
        try:
            assert render_strokes(document, 96).size == (96, 96)
        except ImageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "strokes",
    [
        [[["1", "2"], [3, 4]]],
        [[[[1, 2]], [[3, 4]]]],
        [[[True], [1]]],
        [[[0.0] * 20_000] * 2],
        [[[1e400], [0]]],
    ],
)
def test_strokes_of_anything_but_some_numbers_are_refused(strokes: Any) -> None:
    with pytest.raises(ImageError):
        render_strokes(strokes, 96)


def test_damaged_ndjson(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({**DRAWING, "key_id": str(i)}).encode() + b"\n" for i in range(4))
    for data in damaged(lines, 30, seed=4):
        (tmp_path / "cat.ndjson").write_bytes(data)
        reads_or_says_why(tmp_path)


def test_damaged_npy(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 784), np.uint8))
    for data in damaged(file.getvalue(), 120, seed=5):
        (tmp_path / "cat.npy").write_bytes(data)
        reads_or_says_why(tmp_path)


def reads_or_says_why(root: Path) -> None:
    try:
        dataset = QuickDrawDataset(root)
    except DatasetError as error:
        assert str(root) in str(error)
        return
    for image_id in dataset.ids[:4]:
        assert ".." not in image_id.split("/") and "\n" not in image_id
        data = dataset.read(image_id)
        try:
            dataset.decode(image_id, data)
        except ImageError as error:
            assert "\n" not in str(error)


def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    line = json.dumps(DRAWING).encode() + b"\n"
    with (tmp_path / "cat.ndjson").open("wb") as file:
        file.write(line)
        file.seek(64 * 2**20, os.SEEK_CUR)
        file.write(b"\n" + line.replace(b'"5"', b'"6"'))
    dataset = QuickDrawDataset(tmp_path)
    assert dataset.ids == ("cat.ndjson/5", "cat.ndjson/6")
    assert dataset.read("cat.ndjson/6") == line.replace(b'"5"', b'"6"').strip()
    assert [entry.reason for entry in dataset.skipped] == ["a drawing of over 256 KiB"]
    assert "QuickDrawDataset" in bounded(lambda: QuickDrawDataset(tmp_path), mib=32)


@pytest.mark.parametrize("shape", ["(1000000000000000, 784)", "(-5, 784)", "(True, 784)"])
def test_an_absurd_npy_takes_no_memory(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with (tmp_path / "b.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1))
        file.truncate(2**33)
    assert "DatasetError" in bounded(lambda: QuickDrawDataset(tmp_path), mib=64)


def test_objects_in_npy_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="no bitmaps"):
        QuickDrawDataset(tmp_path)


TABLE = b"photo,sketch,class,XA,YA,XB,YB\nphoto/cat/a.png,sketch/cat/a-1.png,cat,1;2,3;4,5;6,7;8\n"


def test_damaged_tables(tmp_path: Path) -> None:
    for name in ("photo/cat/a.png", "sketch/cat/a-1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(encoded("PNG"))
    for data in damaged(TABLE, 150, seed=6):
        (tmp_path / "test_pairs_ps.csv").write_bytes(data)
        try:
            dataset = open_dataset("psc6k", tmp_path)
            assert set(dataset.ids) <= {"photo/cat/a.png", "sketch/cat/a-1.png"}
            assert len(dataset.annotations.pairs) <= len(data)
        except DatasetError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "photo/../../cat/a.png"])
def test_a_table_names_nothing_outside_the_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    for name in ("photo/cat/a.png", "sketch/cat/a-1.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(encoded("PNG"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(encoded("PNG"))
    (root / "test_pairs_ps.csv").write_bytes(TABLE.replace(b"photo/cat/a.png", path.encode()))
    try:
        assert set(open_dataset("psc6k", root).ids) <= {"photo/cat/a.png", "sketch/cat/a-1.png"}
    except DatasetError as error:
        assert "not under the root" in str(error)


def test_names_that_are_terminal_codes_links_and_pipes(tmp_path: Path) -> None:
    """The command ends well, lists one picture, and sends no control character."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "good.png").write_bytes(encoded("PNG"))
    (root / "evil\x1b[31m\n.png").write_bytes(b"torn")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.png")
    (root / os.fsdecode(b"\xff\xfe.png")).write_bytes(encoded("PNG"))
    sets = ["--set", "dataset=folder", "--set", f"dataset.root={root}"]
    made = ok("precompute", "demo", "--out", tmp_path / "store", *sets)
    assert "1 images computed" in made.stdout or "2 images computed" in made.stdout
    assert "\x1b" not in made.output
    assert "quarantined evil\\x1b[31m\\n.png" in made.stdout
    found = json.loads(ok("cache", "info", tmp_path / "store", "--json").stdout)
    assert found["n_images"] == 2
    line = complaint("plan", "demo", *sets[:2], "--set", "dataset.root=/dev/null")
    assert "is not a folder" in line
