"""A folder of `.npy` files, one [N, C, H, W] per feature, and the list of images."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from cache.errors import StoreError
from cache.exchange.contents import Contents, ExportedImage, Records
from cache.exchange.folder import read_description, write_description
from cache.format.layout import IMAGES, ZarrArray
from cache.storage.places import read_file

SUFFIX = ".npy"
_HEADER_ERRORS = (ValueError, SyntaxError, TokenError, RecursionError, MemoryError)
"""What numpy raises for a header that is none: it reads them as Python."""


def write_npy(path: Path, contents: Contents, done: Callable[[int], None]) -> None:
    """Write the folder; ``done`` hears the number of images so far."""
    path.mkdir()
    described = contents.description
    with ExitStack() as stack:
        images = stack.enter_context(open(path / IMAGES, "w", encoding="ascii"))
        files: dict[str, BinaryIO] = {}
        for name, array in described.zarr_arrays.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            files[name] = stack.enter_context(open(path / f"{name}{SUFFIX}", "wb"))
            files[name].write(npy_header(array, (described.n_images, *array.shape)))
        for number, (exported, records) in enumerate(contents.rows(), start=1):
            for name, record in records.items():
                files[name].write(record.data)
            images.write(exported.to_line() + "\n")
            done(number)
    write_description(path, described)


def npy_header(array: ZarrArray, shape: tuple[int, ...]) -> bytes:
    """What comes before the values in a `.npy` file of an array's dtype."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": array.numpy_dtype.str, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def values_offset(
    file: BinaryIO, n_bytes: int, array: ZarrArray, shape: tuple[int, ...], where: str
) -> int:
    """Where the values begin in a `.npy` of ``n_bytes`` that starts at the file's position.

    StoreError unless it is of the array's dtype, of this shape and as long as both demand;
    nothing is allocated by what a header claims.
    """
    start = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        found = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else None
    except _HEADER_ERRORS as error:
        raise StoreError(f"{where}: not a .npy of numbers; export it again") from error
    offset = file.tell() - start
    if found != (shape, False, array.numpy_dtype):
        raise StoreError(f"{where}: not {array.dtype} {shape}, as its description says")
    if n_bytes != offset + math.prod(shape) * array.numpy_dtype.itemsize:
        raise StoreError(f"{where}: {n_bytes} bytes, cut short or too long; fetch it again")
    return start + offset


def read_values(file: BinaryIO, offset: int, array: ZarrArray) -> np.ndarray:
    """One record of an array, from a position of a file."""
    file.seek(offset)
    return np.frombuffer(file.read(array.record_bytes), array.numpy_dtype).reshape(array.shape)


class NpySource:
    """A folder of `.npy` files opened for an import. A stranger may have written them."""

    def __init__(self, path: Path) -> None:
        self.description = read_description(path)
        lines = (read_file(path / IMAGES) or b"").splitlines()
        n_images = self.description.n_images
        if len(lines) != n_images:
            raise StoreError(
                f"{path / IMAGES}: {len(lines)} lines, {n_images} images in the description"
            )
        self.images: Sequence[ExportedImage] = [
            ExportedImage.from_line(line, f"{path / IMAGES}: line {number}")
            for number, line in enumerate(lines, start=1)
        ]
        self._path = path
        self._arrays = self.description.zarr_arrays
        self._offsets = {
            name: self._offset(array, n_images) for name, array in self._arrays.items()
        }

    def read(self, index: int) -> Records:
        """The records of image ``index``."""
        records = {}
        for name, array in self._arrays.items():
            with open(self._file_of(array), "rb") as file:
                offset = self._offsets[name] + index * array.record_bytes
                records[name] = read_values(file, offset, array)
        return records

    def close(self) -> None:
        """Nothing is kept open."""

    def _file_of(self, array: ZarrArray) -> Path:
        return self._path / f"{array.name}{SUFFIX}"

    def _offset(self, array: ZarrArray, n_images: int) -> int:
        """Where the values of an array's file begin; StoreError unless it is what it must be."""
        path = self._file_of(array)
        if not path.is_file():
            raise StoreError(f"{path}: missing; fetch it again")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return values_offset(file, size, array, (n_images, *array.shape), str(path))
