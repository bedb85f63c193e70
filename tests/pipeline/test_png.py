"""A PNG's picture is the same whatever else the file holds."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.pictures.images import ImageError, decode_foreground, decode_image, image_size
from tests.hostile.bounds import bounded

MIB = 2**20
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 13, 3), np.uint8)
BOMB = zlib.compress(bytes(64 * MIB), 9)
"""64 KB that unpack to 64 MiB."""
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
"""An orientation of 6: a quarter turn clockwise."""


def plain(image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(data: bytes, *chunks: bytes, after: bool = False) -> bytes:
    """The PNG with more chunks, before its pixels or after them."""
    at = data.index(b"IEND") - 4 if after else 33
    return data[:at] + b"".join(chunks) + data[at:]


REFUSED = {
    "compressed text": chunk(b"zTXt", b"prompt\0\0" + BOMB),
    "compressed international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + BOMB),
    "plain text": chunk(b"tEXt", b"prompt\0" + bytes(4 * MIB)),
    "plain international text": chunk(b"iTXt", b"workflow\0\0\0\0\0" + bytes(4 * MIB)),
    "colour profile": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "colour profile of an unknown kind": chunk(b"iCCP", b"profile\0\1" + BOMB),
    "text of an unknown kind": chunk(b"zTXt", b"prompt\0\1" + BOMB),
    "orientation of a megabyte": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "metadata of a megabyte": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "short resolution": chunk(b"pHYs", b""),
    "text with the name of a setting": chunk(b"tEXt", b"transparency\0yes"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_pillow_refuses_beside_the_pixels_does_not_matter(monkeypatch, name, after):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 3 * MIB)  # 64 MiB, but slower
    data = with_chunks(plain(), REFUSED[name], after=after)
    with pytest.raises((ValueError, TypeError, Image.UnidentifiedImageError, SyntaxError)):
        Image.open(io.BytesIO(data)).convert("RGBA")
    np.testing.assert_array_equal(decode_image(data), PIXELS)
    np.testing.assert_array_equal(decode_foreground(data), PIXELS.any(axis=-1))
    assert image_size(data) == (13, 20)


@pytest.mark.parametrize(
    "more",
    [
        [chunk(b"zTXt", b"a\0\0" + BOMB)] * 20,
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)] * 20,
        [chunk(b"iCCP", b"a\0\0" + BOMB)],
    ],
    ids=["text", "metadata", "profile"],
)
def test_text_takes_little_memory(more):
    """Twice the file and 1 MiB to look into a text, beside what the interpreter takes."""
    data = with_chunks(plain(), *more)
    mib = 16 + 2 * len(data) // MIB
    assert bounded(lambda: decode_image(data).size, mib=mib) == "(13, 20)"


UPRIGHT = {None: PIXELS, 6: np.rot90(PIXELS, -1), 8: np.rot90(PIXELS)}


@pytest.mark.parametrize(
    ("chunks", "orientation"),
    [
        ([chunk(b"eXIf", EXIF)], 6),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)], 6),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))], 6),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * 2 * MIB + XMP)], 6),
        (
            [
                chunk(
                    b"zTXt",
                    b"Raw profile type exif\0\0"
                    + zlib.compress(b"\nexif\n32\n" + (b"Exif\0\0" + EXIF).hex().encode()),
                )
            ],
            6,
        ),
        (
            [
                chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
                chunk(b"eXIf", EXIF.replace(b"\x06", b"\x08", 1)),
            ],
            8,
        ),
        ([chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)], None),
    ],
    ids=["exif", "xmp", "packed xmp", "long xmp", "raw profile", "exif beside a bomb", "bomb"],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_orientation_is_kept_beside_text(chunks, orientation, after):
    data = with_chunks(plain(), REFUSED["compressed text"], *chunks, after=after)
    expected = UPRIGHT[orientation]
    np.testing.assert_array_equal(decode_image(data), expected)
    assert image_size(data) == expected.shape[1::-1]


def test_transparency_palettes_and_animations_are_kept_beside_text():
    palette = Image.fromarray(PIXELS).convert("P")
    frames = [Image.fromarray(PIXELS[::step]) for step in (1, -1)]
    for data in (
        plain(palette, transparency=3),
        plain(palette, transparency=bytes(range(256))),
        plain(Image.fromarray(PIXELS), transparency=tuple(PIXELS[0, 0].tolist())),
        plain(Image.fromarray(PIXELS[..., 0]), transparency=int(PIXELS[0, 0, 0])),
        plain(Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]]))),
        plain(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
        plain(frames[0], save_all=True, append_images=frames[1:]),
    ):
        expected = np.asarray(decode_image(data))
        for after in (False, True):
            found = with_chunks(data, REFUSED["compressed text"], after=after)
            np.testing.assert_array_equal(decode_image(found), expected)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_damage_is_still_found(after):
    """A wrong checksum or a cut, in a text or in the pixels, refuses the picture as ever."""
    text = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(MIB // 2)))
    data = with_chunks(plain(), text, after=after)
    for at in (data.index(text) + 30, data.index(b"IDAT") + 20):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(ImageError):
            decode_image(bytes(broken))
    with pytest.raises(ImageError):
        decode_image(data[: data.index(text) + 20])


def test_texts_of_a_renderer_are_safe_in_threads():
    data = with_chunks(plain(), REFUSED["compressed international text"])
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: np.asarray(decode_image(data)), range(40)))
    assert all((pixels == PIXELS).all() for pixels in found)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
