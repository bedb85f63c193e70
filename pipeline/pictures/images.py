"""From the bytes of an image file to the square both networks see.

A picture becomes features of the right numbers only if every decoder agrees on what it shows, so
the awkward cases have one answer each: the format is taken from the content and not from the
name, EXIF orientation is applied, transparency is laid over white, 16-bit samples keep their high
byte, an animation is its first frame. What a PNG holds besides its picture is not read. Whatever
cannot be decoded completely is an `ImageError`.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from pipeline.pictures.png import picture_chunks

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header, before any memory is spent on them."""

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read: threads hold several in memory at a time."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
"""Raster formats with a signature of their own and no outside program behind them."""

Pad = Literal["edge", "black", "white", "stretch"]
ClipInput = Literal["square", "centre-crop"]

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_PNG_EXIF_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_PNG_BIT_DEPTH_AT = 24
_warnings_lock = threading.Lock()


class ImageError(ValueError):
    """An image that cannot be used; the message is a short reason without the path."""


def decode_image(data: bytes) -> Image.Image:
    """The picture in `data`, upright, in RGB, at full size. Raises `ImageError`."""
    with _reasons():
        data = picture_chunks(data)
        image = _open(data)
        if image.format == "PNG":
            # Pillow does not check the checksums of pixel data while decoding.
            image.verify()
            image = _open(data)
        image.load()
        orientation = _orientation(image)
        rgb = _to_rgb(image, data)
        return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as they stand in the file, before any turning; decodes nothing.

    Raises `ImageError`.
    """
    with _reasons():
        return _open(picture_chunks(data)).size


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, from the header. Raises `ImageError`."""
    with _reasons():
        data = picture_chunks(data)
        image = _open(data)
        width, height = image.size
        # Pillow decodes a whole PNG in search of EXIF data that may follow the pixels.
        if image.format == "PNG" and not any(mark in data for mark in _PNG_EXIF_MARKS):
            return width, height
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def decode_foreground(data: bytes) -> np.ndarray:
    """The mask in `data` as bool [H, W]: true where any channel but alpha is not zero.

    In the file's own pixels, unturned. Raises `ImageError`.
    """
    with _reasons():
        image = _open(picture_chunks(data))
        image.load()
        values = np.atleast_3d(np.asarray(image))
        return np.any(values[..., :-1] if image.mode in ("LA", "RGBA") else values, axis=-1)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageError` of one line."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        # Decoders meet hostile bytes with almost any type: OSError, SyntaxError, struct.error,
        # zlib.error, KeyError, OverflowError, MemoryError...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Pillow's warnings: each becomes an error of ours or does not matter.

    The lock is there because `catch_warnings` changes global state and images are decoded in
    threads; only headers are read under it.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    """The image with its header read and its size checked, not yet decoded."""
    if not data:
        raise ImageError("empty file")
    with _quiet():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8; broken EXIF data counts as none."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow applies a TIFF's orientation itself, to the header's size too.
    try:
        with _quiet():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # A picture with damaged metadata is still a picture; viewers show it unturned.
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """A decoded image of any mode as RGB, transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _deep_grey_to_8_bits(image)
        if "transparency" in image.info:
            grey[np.asarray(image) == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.format == "PNG" and "transparency" in image.info and image.mode in ("L", "RGB"):
        _scale_png_transparency(image, bit_depth=data[_PNG_BIT_DEPTH_AT])
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _scale_png_transparency(image: Image.Image, bit_depth: int) -> None:
    """Bring a PNG's transparent grey (tRNS) from the file's sample depth to Pillow's 8 bits."""
    if bit_depth == 16:
        raise ImageError("16-bit colour with a transparent colour, which Pillow cannot tell apart")
    if image.mode == "L":
        image.info["transparency"] = image.info["transparency"] * 255 // (2**bit_depth - 1)


def _deep_grey_to_8_bits(image: Image.Image) -> np.ndarray:
    """Grey samples of more than 8 bits as uint8 [H, W].

    Integers are 16-bit samples (12-bit in some TIFF files) and keep their high byte, as Pillow
    does with 16-bit colour. Floats have no fixed range: up to 1 they are fractions, up to 255
    bytes, up to 65,535 16-bit samples.
    """
    samples = np.asarray(image)
    low, high = samples.min(), samples.max()
    if not (low >= 0 and high <= 65535):  # also refuses NaN
        raise ImageError(f"grey samples from {low} to {high} have no defined brightness")
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode == "F":
        full = next(value for value in (1.0, 255.0, 65535.0) if high <= value)
        grey = np.rint(samples * np.float32(255.0 / full)).astype(np.uint8)
    elif tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,)) == (12,):
        grey = (samples >> 4).astype(np.uint8)
    else:
        grey = (samples >> 8).astype(np.uint8)
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return 255 - grey if white_is_zero else grey


@dataclass(frozen=True)
class Letterbox:
    """Where an image of `width` x `height` pixels lands in a square of `resolution` pixels.

    Points are (x, y) from the upper left corner, in pixels: the first pixel's centre is (0.5, 0.5)
    and an image `width` pixels wide spans 0 to `width`.
    """

    width: int
    height: int
    resolution: int
    pad: Pad = "edge"

    def __post_init__(self) -> None:
        if self.pad not in get_args(Pad):
            raise ValueError(f"pad is {self.pad!r}; choose from {', '.join(get_args(Pad))}")
        if min(self.width, self.height, self.resolution) < 1:
            raise ValueError("a letterbox needs a width, height and resolution of at least 1 pixel")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the resized image inside the square, in pixels."""
        if self.pad == "stretch":
            return self.resolution, self.resolution
        longer = max(self.width, self.height)
        width, height = (
            self.resolution if side == longer else max(1, round(self.resolution * side / longer))
            for side in (self.width, self.height)
        )
        return width, height

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the resized image in the square, in whole pixels."""
        width, height = self.size
        left, top = (self.resolution - width) // 2, (self.resolution - height) // 2
        return left, top, left + width, top + height

    def to_square(self, points: np.ndarray) -> np.ndarray:
        """Points [K, 2] of the image as points [K, 2] of the square."""
        scale, offset = self._scale_and_offset()
        return np.asarray(points, np.float64) * scale + offset

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Points [K, 2] of the square as points [K, 2] of the image; the inverse of `to_square`."""
        scale, offset = self._scale_and_offset()
        return (np.asarray(points, np.float64) - offset) / scale

    def _scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        left, top, right, bottom = self.box
        scale = np.array([(right - left) / self.width, (bottom - top) / self.height])
        return scale, np.array([left, top], np.float64)


def letterbox(image: Image.Image, resolution: int, pad: Pad = "edge") -> np.ndarray:
    """An RGB image resized with Lanczos and padded to a square: uint8 [R, R, 3].

    `pad` fills the sides with the image's own edge pixels, with black or with white; "stretch"
    leaves none by giving up the aspect. An image that already fits is not resampled.
    """
    geometry = Letterbox(image.width, image.height, resolution, pad)
    if image.size != geometry.size:
        image = image.resize(geometry.size, Image.Resampling.LANCZOS)
    left, top, right, bottom = geometry.box
    margins = ((top, resolution - bottom), (left, resolution - right), (0, 0))
    pixels = np.asarray(image)
    if pad in ("black", "white"):
        return np.pad(pixels, margins, constant_values=255 if pad == "white" else 0)
    return np.pad(pixels, margins, mode="edge")


def centre_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """CLIP's own input of an RGB image: uint8 [R, R, 3].

    The shorter side becomes `resolution`, bicubic, the longer one is rounded down, and the middle
    of it is kept: torchvision's `Resize` and `CenterCrop`, as OpenAI's preprocessing has them.
    """
    shorter = min(image.size)
    width, height = (resolution * side // shorter for side in image.size)
    # Python rounds halves to even, as torchvision does.
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    if width * height > MAX_PIXELS:
        # A strip, of which all but the middle would be resampled in vain, if it fits into memory.
        across, down = image.width / width, image.height / height
        right, bottom = (left + resolution) * across, (top + resolution) * down
        box = (left * across, top * down, min(right, image.width), min(bottom, image.height))
        return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + resolution, top + resolution)))


def network_input(
    image: Image.Image, resolution: int, pad: Pad, clip_input: ClipInput = "square"
) -> np.ndarray:
    """What the networks see of an RGB image: uint8 [3, R, R], or [6, R, R].

    The letterboxed square is everybody's; with a centre crop CLIP's own square follows it.
    """
    squares = [letterbox(image, resolution, pad)]
    if clip_input == "centre-crop":
        squares.append(centre_crop(image, resolution))
    return np.concatenate(squares, axis=-1).transpose(2, 0, 1)
