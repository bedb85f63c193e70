"""Pictures from outside: a path, an image file's bytes, or an image in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from heads.plots.records import Picture
from pipeline.datasets import open_dataset
from pipeline.datasets.listing import read_image_file
from pipeline.pictures.images import ImageError, decode_image
from pipeline.pictures.strokes import RENDER_SIDE, is_svg, render_svg

IN_MEMORY = "picture"
"""What a picture without a file is called."""


class UseError(ValueError):
    """A picture, point or run that cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class LoadedPicture(Picture):
    """A picture with the hex SHA-256 of its file, on which its noise depends."""

    sha256: str


PictureSource = str | Path | bytes | Image.Image | LoadedPicture
"""What may be given where a picture is wanted: a path, a file's bytes, or an image in memory."""


def load_picture(source: PictureSource) -> LoadedPicture:
    """Read and decode as stage 1 does: upright, transparency over white; SVG too.

    An image in memory is known by the bytes it has as a PNG file. Raises UseError.
    """
    if isinstance(source, LoadedPicture):
        return source
    name, data = IN_MEMORY, b""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, Image.Image):
        data = _as_png(source)
    else:
        name = str(source)
        try:
            data = read_image_file(Path(source))
        except OSError as error:
            raise UseError(f"{name}: cannot be read ({error.strerror}); give an image") from None
    try:
        image = render_svg(data, RENDER_SIDE) if is_svg(data) else decode_image(data)
    except ImageError as error:
        raise UseError(f"{name}: {error}; give another image") from None
    return LoadedPicture(name, image, hashlib.sha256(data).hexdigest())


def picture_files(places: Sequence[Path]) -> list[Path]:
    """The image files that are named, and those in folders that are named, in order.

    Raises DatasetError for a folder without images, UseError for a file that is not there.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += [place / name for name in open_dataset("folder", place).ids]
        elif place.exists():
            files.append(place)
        else:
            raise UseError(f"{place}: no such file or folder; give images or folders of them")
    return files


def load_pictures(
    files: Sequence[Path], named: Collection[Path], log: Callable[[str], None]
) -> Iterator[LoadedPicture]:
    """Pictures one by one. One that cannot be used is skipped with a line for the log, unless it
    is among those that were `named`. Raises UseError."""
    for path in files:
        try:
            yield load_picture(path)
        except UseError as error:
            if path in named:
                raise
            log(f"left out {error}")


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        image.save(file, "PNG")
    except OSError:
        # Modes that PNG does not have, such as CMYK.
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()
