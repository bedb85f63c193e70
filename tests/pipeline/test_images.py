"""Decoding: every awkward file is read right or refused with a reason, never read wrong."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.pictures.images import (
    MAX_PIXELS,
    ImageError,
    Letterbox,
    decode_image,
    image_size,
    letterbox,
)

HEIGHT, WIDTH = 24, 31


@pytest.fixture
def rgb() -> np.ndarray:
    """A smooth picture that looks different after every mirror and rotation: [24, 31, 3]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 8, y * 10, (x + 2 * y) * 3], axis=-1).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    assert image.size == image_size(data)
    return np.asarray(image)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Compositing in floating point: the oracle for every kind of transparency."""
    share = alpha.astype(np.float64)[..., None] / 255
    return colour * share + 255 * (1 - share)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, **chunks) -> bytes:
    """A PNG written by hand, for the sample formats Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    extra = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def with_orientation(image: np.ndarray, format: str, orientation: int, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, format, exif=exif, **options)


LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(rgb, format, options):
    np.testing.assert_array_equal(decoded(encode(rgb, format, **options)), rgb)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(rgb, format):
    difference = np.abs(decoded(encode(rgb, format, quality=95)).astype(int) - rgb)
    assert difference.mean() < 3


def test_the_result_does_not_depend_on_trailing_bytes(rgb):
    np.testing.assert_array_equal(decoded(encode(rgb, "PNG") + b"left over"), rgb)


# --- transparency ---------------------------------------------------------------------------


def test_rgba_is_composited_over_white(rgb):
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    found = decoded(encode(np.dstack([rgb, alpha]), "PNG"))
    assert np.abs(found - over_white(rgb, alpha)).max() <= 1
    np.testing.assert_array_equal(found[alpha == 0], 255)
    np.testing.assert_array_equal(found[alpha == 255], rgb[alpha == 255])


def test_grey_with_alpha_is_composited_over_white(rgb):
    grey, alpha = rgb[..., 0], rgb[..., 1]
    found = decoded(encode(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG"))
    assert np.abs(found - over_white(np.dstack([grey] * 3), alpha)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(format):
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8) % 4
    palette = np.array([[200, 0, 0], [0, 150, 0], [0, 0, 100], [10, 20, 30]], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    expected = palette[indices]
    expected[indices == 2] = 255
    np.testing.assert_array_equal(decoded(encode(image, format, transparency=2)), expected)


def test_a_palette_with_graded_transparency_is_composited():
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8) % 3
    palette = np.array([[200, 0, 0], [0, 150, 0], [0, 0, 100]], np.uint8)
    alphas = np.array([0, 128, 255], np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    found = decoded(encode(image, "PNG", transparency=alphas.tobytes()))
    assert np.abs(found - over_white(palette[indices], alphas[indices])).max() <= 1


def test_the_transparent_colour_of_an_rgb_png_is_white(rgb):
    rgb[3, 4] = rgb[10, 11] = (1, 2, 3)
    expected = rgb.copy()
    expected[3, 4] = expected[10, 11] = 255
    np.testing.assert_array_equal(
        decoded(encode(rgb, "PNG", transparency=(1, 2, 3))),
        expected,
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_white_at_every_sample_depth(depth):
    top = 2**depth - 1
    values = [0, top // 2, top] * 8  # 24 pixels fill whole bytes at every depth
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    data = png(len(values), 1, depth, 0, b"\0" + row, tRNS=struct.pack(">H", top // 2))
    greys = [255 if value == top // 2 else value * 255 // top for value in values]
    np.testing.assert_array_equal(decoded(data)[0, :, 0], greys)


def test_a_transparent_16_bit_colour_is_refused(rgb):
    row = b"\0" + rgb[:1].astype(">u2").tobytes()
    data = png(WIDTH, 1, 16, 2, row, tRNS=struct.pack(">HHH", 1, 2, 3))
    with pytest.raises(ImageError, match="16-bit"):
        decode_image(data)


# --- sample types ---------------------------------------------------------------------------


def test_16_bit_grey_keeps_its_high_byte(rgb):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH) * 88
    values = values.astype(np.uint16)
    assert values.max() > 65000
    for format in ("PNG", "TIFF", "PPM"):
        found = decoded(encode(values, format))
        np.testing.assert_array_equal(found, np.dstack([values >> 8] * 3), err_msg=format)


def test_16_bit_grey_and_16_bit_colour_agree():
    values = np.arange(0, 65536, 257, dtype=np.uint16)
    grey = png(256, 1, 16, 0, b"\0" + values.astype(">u2").tobytes())
    colour = png(256, 1, 16, 2, b"\0" + np.repeat(values, 3).astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded(grey), decoded(colour))
    np.testing.assert_array_equal(decoded(grey)[0, :, 0], np.arange(256))


def test_16_bit_grey_with_a_transparent_value():
    values = np.array([0, 1000, 65535, 1000], np.uint16)
    data = png(4, 1, 16, 0, b"\0" + values.astype(">u2").tobytes(), tRNS=struct.pack(">H", 1000))
    np.testing.assert_array_equal(decoded(data)[0, :, 0], [0, 255, 255, 255])


def test_16_bit_colour_with_alpha(rgb):
    wide = np.dstack([rgb, rgb[..., :1]]).astype(np.uint32) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    found = decoded(png(WIDTH, HEIGHT, 16, 6, rows))
    assert np.abs(found - over_white(rgb, rgb[..., 0])).max() <= 1


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255.0), (255.0, 1.0), (65535.0, 1 / 257)])
def test_float_samples(top, scale):
    values = np.linspace(0, top, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    found = decoded(encode(values, "TIFF"))[..., 0]
    assert np.abs(found - values * scale).max() <= 0.51


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e6])
def test_samples_without_a_brightness_are_refused(bad):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 2] = bad
    with pytest.raises(ImageError, match="brightness"):
        decode_image(encode(values, "TIFF"))


def test_one_bit_pictures(rgb):
    bits = rgb[..., 0] > 100
    found = decoded(encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(found, np.dstack([bits * np.uint8(255)] * 3))


def test_a_16_bit_tiff_in_which_zero_is_white():
    """Pillow inverts such a picture at 8 bits but not at 16."""
    values = np.array([[0, 256, 65535]], np.uint16)
    data = bytearray(encode(values, "TIFF"))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8] = 0  # photometric interpretation: white is zero
    np.testing.assert_array_equal(decoded(bytes(data))[0, :, 0], [255, 254, 0])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(rgb, format):
    ink = 255 - rgb
    cmyk = Image.fromarray(np.dstack([ink, np.full((HEIGHT, WIDTH), 40, np.uint8)]), "CMYK")
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    expected = rgb.astype(float) * (255 - 40) / 255
    difference = np.abs(decoded(encode(cmyk, format, **options)) - expected)
    assert difference.mean() < 2


def test_lab(rgb):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(rgb), *profiles, outputMode="LAB")
    difference = np.abs(decoded(encode(lab, "TIFF")).astype(int) - rgb)
    assert difference.mean() < 4


# --- orientation ----------------------------------------------------------------------------

# What a viewer must do with the stored pixels, from the EXIF standard's table, in numpy terms.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_exif_orientation(rgb, orientation, format, options):
    data = with_orientation(rgb, format, orientation, **options)
    np.testing.assert_array_equal(decoded(data), UPRIGHT[orientation](rgb))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_of_jpeg(rgb, orientation):
    upright = UPRIGHT[orientation](rgb).astype(int)
    found = decoded(with_orientation(rgb, "JPEG", orientation, quality=95))
    assert np.abs(found - upright).mean() < 3


def test_orientation_applies_with_transparency(rgb):
    rgba = np.dstack([rgb, rgb[..., 0]])
    found = decoded(with_orientation(rgba, "PNG", 6))
    upright = UPRIGHT[6](over_white(rgb, rgb[..., 0]))
    assert np.abs(found - upright).max() <= 1


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_impossible_orientation_is_ignored(rgb, orientation):
    np.testing.assert_array_equal(decoded(with_orientation(rgb, "PNG", orientation)), rgb)


def test_broken_exif_data_is_ignored(rgb):
    data = encode(rgb, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01garbage")
    np.testing.assert_array_equal(decoded(data), rgb)


# --- animations and names -------------------------------------------------------------------


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(format):
    frames = [
        Image.new("RGB", (WIDTH, HEIGHT), colour)
        for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    ]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    expected = np.broadcast_to(np.array([255, 0, 0], np.uint8), (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(decoded(data), expected)


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"just some text, renamed to photo.jpg",
        b"<html><body>404 Not Found</body></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"II*\0\xff\xff\xff\xff",
        bytes(range(256)) * 20,
    ],
)
def test_what_is_no_image_is_refused_with_one_line(data):
    for function in (decode_image, image_size):
        with pytest.raises(ImageError) as caught:
            function(data)
        message = str(caught.value)
        assert message and "\n" not in message and "BytesIO" not in message


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("BMP", {}),
        ("PPM", {}),
    ],
)
def test_a_truncated_file_is_refused_or_still_complete(rgb, format, options):
    """Cut anywhere: pixels are the whole file's or there are none."""
    noise = np.random.default_rng(0).integers(0, 256, rgb.shape, np.uint8)
    image = Image.fromarray(noise // 2 + rgb // 2)
    data = encode(image.convert("P") if format == "GIF" else image, format, **options)
    whole = decoded(data)
    for cut in range(0, len(data) - 1, 7):
        try:
            found = np.asarray(decode_image(data[:cut]))
        except ImageError:
            continue
        assert cut > len(data) * 0.9
        np.testing.assert_array_equal(found, whole)


def test_a_flipped_bit_of_a_png_never_changes_the_picture(rgb):
    data = encode(rgb, "PNG")
    refused = 0
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        try:
            found = np.asarray(decode_image(bytes(broken)))
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, rgb)
    assert len(data) - refused <= 12  # the end mark, whose length and checksum change nothing


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_never_raise_anything_else(data):
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM"]))
    broken = bytearray(encode(pixels, format))
    positions = st.integers(0, len(broken) - 1)
    for position, value in data.draw(
        st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        broken[position] = value
    for function in (decode_image, image_size):
        try:
            function(bytes(broken))
        except ImageError as error:
            assert "\n" not in str(error)


def test_a_huge_image_is_refused_before_it_is_decoded():
    """The header promises 30 GB of pixels; there are none behind it."""
    for side in (10_001, 100_000):
        data = png(side, side, 8, 2, b"")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for function in (decode_image, image_size):
                with pytest.raises(ImageError, match="pixels"):
                    function(data)


def test_the_limit_itself_is_allowed_and_warns_of_nothing():
    """Pillow warns from 89 million pixels on; a filter that raises must not refuse the image."""
    side = 10_000
    assert side * side == MAX_PIXELS
    data = png(side, side, 1, 0, zlib.compress(b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(data) == (side, side)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ImageError):
        decode_image(png(*size, 8, 2, b""))


def test_decoding_is_safe_in_threads(rgb):
    files = [encode(rgb, "PNG"), encode(rgb, "BMP"), b"broken", encode(rgb, "PPM")] * 25

    def attempt(data: bytes) -> np.ndarray | None:
        try:
            return np.asarray(decode_image(data))
        except ImageError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, files))
    assert [result is None for result in results] == [data == b"broken" for data in files]
    assert all(result is None or (result == rgb).all() for result in results)


# --- letterbox ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "resolution", "box"),
    [
        ((400, 200), 96, (0, 24, 96, 72)),
        ((200, 400), 96, (24, 0, 72, 96)),
        ((333, 100), 96, (0, 33, 96, 62)),  # 28.83 -> 29 rows, 33 above and 34 below
        ((1000, 1), 96, (0, 47, 96, 48)),
        ((1, 1), 96, (0, 0, 96, 96)),
        ((96, 96), 96, (0, 0, 96, 96)),
        ((97, 96), 96, (0, 0, 96, 95)),
        ((500, 375), 336, (0, 42, 336, 294)),
    ],
)
def test_letterbox_box(size, resolution, box):
    assert Letterbox(*size, resolution).box == box


def test_stretch_fills_the_square():
    assert Letterbox(500, 20, 96, "stretch").box == (0, 0, 96, 96)


@pytest.mark.parametrize("pad", ["edge", "black", "white"])
def test_padding(rgb, pad):
    image = Image.fromarray(rgb)
    square = letterbox(image, 60, pad)
    assert square.shape == (60, 60, 3) and square.dtype == np.uint8
    height = round(60 * HEIGHT / WIDTH)
    top = (60 - height) // 2
    inside = np.asarray(image.resize((60, height), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(square[top : top + height], inside)
    above, below = square[:top], square[top + height :]
    assert len(below) - len(above) in (0, 1)
    fill = {"black": (0, 0), "white": (255, 255), "edge": (inside[0], inside[-1])}[pad]
    np.testing.assert_array_equal(above, np.broadcast_to(fill[0], above.shape))
    np.testing.assert_array_equal(below, np.broadcast_to(fill[1], below.shape))


def test_an_image_that_fits_is_not_resampled():
    noise = np.random.default_rng(1).integers(0, 256, (20, 32, 3), np.uint8)
    square = letterbox(Image.fromarray(noise), 32)
    np.testing.assert_array_equal(square[6:26], noise)


def test_stretch_resizes_both_sides(rgb):
    image = Image.fromarray(rgb)
    expected = np.asarray(image.resize((40, 40), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(letterbox(image, 40, "stretch"), expected)


def test_points_follow_the_pixels():
    """A bright dot is found where `to_square` says it went."""
    for width, height, pad in [(90, 60, "edge"), (40, 120, "white"), (90, 60, "stretch")]:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[40:43, 20:23] = 255  # centred on (21.5, 41.5)
        geometry = Letterbox(width, height, 180, pad)
        square = letterbox(Image.fromarray(pixels), 180, pad)[..., 0].astype(float)
        left, top, right, bottom = geometry.box
        square[:top] = square[bottom:] = 0
        square[:, :left] = square[:, right:] = 0
        y, x = np.mgrid[:180, :180]
        centre = np.array([(x * square).sum(), (y * square).sum()]) / square.sum() + 0.5
        np.testing.assert_allclose(geometry.to_square([[21.5, 41.5]])[0], centre, atol=0.05)


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(8, 512),
    st.sampled_from(["edge", "black", "white", "stretch"]),
)
@settings(deadline=None)
def test_letterbox_geometry(width, height, resolution, pad):
    geometry = Letterbox(width, height, resolution, pad)
    left, top, right, bottom = geometry.box
    assert 0 <= left < right <= resolution and 0 <= top < bottom <= resolution
    assert max(right - left, bottom - top) == resolution
    assert resolution - right - left in (0, 1) and resolution - bottom - top in (0, 1)
    corners = np.array([[0, 0], [width, height]])
    np.testing.assert_allclose(geometry.to_square(corners), [[left, top], [right, bottom]])
    points = np.array([[0.0, 0.0], [width / 3, height / 7], [width, height]])
    np.testing.assert_allclose(geometry.to_image(geometry.to_square(points)), points, atol=1e-6)


def test_a_letterbox_refuses_nonsense():
    with pytest.raises(ValueError, match="choose from edge, black, white, stretch"):
        Letterbox(10, 10, 96, "mirror")
    with pytest.raises(ValueError, match="at least 1"):
        Letterbox(10, 0, 96)
