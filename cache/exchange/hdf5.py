"""HDF5, in two layouts.

`hdf5`: one dataset [N, C, H, W] per feature, one image a chunk, and the dataset `ids`.
`hdf5-images`: one group per image, named by its id, with one dataset [C, H, W] per feature, as
hloc and others lay out feature files. In both, attributes of the file hold the description (what
is no string or number as JSON) and `images`, one JSON line per image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.errors import StoreError
from cache.exchange.contents import (
    Contents,
    Description,
    ExportedImage,
    Records,
    parse_json,
    unicode_id,
)
from cache.format.layout import SCALE_SUFFIX, ZarrArray

STACKED, PER_IMAGE = "hdf5", "hdf5-images"
_IDS = "ids"
_IMAGES = "images"
_AS_JSON = ("recipe", "provenance", "arrays", "quarantined")
_TEXT = h5py.string_dtype("utf-8")
_LIBVER = ("v108", "v108")
"""Read by every HDF5 since 1.8, the first whose attributes may exceed 64 KiB."""
_MAX_CHUNK_BYTES = 2**20
"""Of datasets with several rows a chunk: HDF5 caches chunks up to this size."""
_DECODING = "values x {scale}, per channel"


def write_stacked(path: Path, contents: Contents, done: Callable[[int], None]) -> None:
    """Write the layout `hdf5`; ``done`` hears the number of images so far."""
    described = contents.description
    if _IDS in described.arrays:
        raise StoreError(
            f"array {_IDS}: HDF5 needs this name for the image ids; export as npy or webdataset"
        )
    ids: list[str] = []
    lines: list[str] = []
    with h5py.File(path, "w", libver=_LIBVER) as file:
        datasets = {
            array.name: _new_dataset(file, array, described.n_images)
            for array in described.zarr_arrays.values()
        }
        for exported, records in contents.rows():
            for name, record in records.items():
                datasets[name][len(lines)] = record
            ids.append(unicode_id(exported.image.id))
            lines.append(exported.to_line())
            done(len(lines))
        file.create_dataset(_IDS, data=ids, shape=(len(ids),), dtype=_TEXT)
        _write_attributes(file, described, lines)


def write_per_image(path: Path, contents: Contents, done: Callable[[int], None]) -> None:
    """Write the layout `hdf5-images`; ``done`` hears the number of images so far."""
    arrays = contents.description.zarr_arrays
    lines: list[str] = []
    with h5py.File(path, "w", libver=_LIBVER) as file:
        for exported, records in contents.rows():
            group = _new_group(file, exported.image.id)
            for name, record in records.items():
                _describe(group.create_dataset(name, data=record), arrays[name])
            lines.append(exported.to_line())
            done(len(lines))
        _write_attributes(file, contents.description, lines)


class Hdf5Source:
    """An HDF5 export opened for an import. A stranger may have written the file.

    Nothing outside of it is followed: soft and external links, external storage and virtual
    datasets are refused; so are filters, which could unpack to any size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise StoreError(f"{path}: not a readable HDF5 file ({error})") from error
        try:
            self.description = self._read_description()
            self.images = self._read_images()
            if self.description.layout == STACKED:
                self._stacks = {
                    array.name: self._dataset(
                        array.name, (self.description.n_images, *array.shape), array
                    )
                    for array in self.description.zarr_arrays.values()
                }
                self._check_ids()
        except BaseException as error:
            self._file.close()
            if isinstance(error, _HDF5_ERRORS):
                raise self._damaged("its description", error) from error
            raise

    def read(self, index: int) -> Records:
        """The records of image ``index``."""
        described = self.description
        if described.layout == STACKED:
            return {name: self._values(dataset, index) for name, dataset in self._stacks.items()}
        image_id = self.images[index].image.id
        return {
            name: self._values(self._dataset(f"{image_id}/{name}", array.shape, array), ())
            for name, array in described.zarr_arrays.items()
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_description(self) -> Description:
        document: dict[str, Any] = {}
        for key in self._file.attrs:
            if key == _IMAGES:
                continue
            value = self._attribute(key)
            if key in _AS_JSON and isinstance(value, str):
                value = parse_json(value, f"{self._path}: attribute {key}")
            document[key] = value
        described = Description.from_json(document, str(self._path))
        if described.layout not in (STACKED, PER_IMAGE):
            raise StoreError(f"{self._path}: layout {described.layout!r} is none of HDF5")
        return described

    def _read_images(self) -> Sequence[ExportedImage]:
        lines = self._attribute(_IMAGES) if _IMAGES in self._file.attrs else None
        if not isinstance(lines, list) or len(lines) != self.description.n_images:
            raise StoreError(f"{self._path}: its list of images is missing or has another length")
        where = f"{self._path}: image"
        return [
            ExportedImage.from_line(line, f"{where} {number}") for number, line in enumerate(lines)
        ]

    def _check_ids(self) -> None:
        """The ids that users read must be those that the import goes by."""
        dataset = self._linked(_IDS)
        expected = [unicode_id(exported.image.id).encode() for exported in self.images]
        if dataset.shape != (len(expected),) or self._values(dataset, ()).tolist() != expected:
            raise StoreError(f"{self._path}: the dataset {_IDS} is not the list of its images")

    def _attribute(self, key: str) -> Any:
        """An attribute's value as plain Python; refused where it claims more than the file has."""
        try:
            attribute = self._file.attrs.get_id(key)
            n_values = attribute.get_space().get_simple_extent_npoints()
            if n_values > os.path.getsize(self._path):
                raise StoreError(f"{self._path}: attribute {key} is larger than the file")
            value = self._file.attrs[key]
        except _HDF5_ERRORS as error:
            raise self._damaged(f"attribute {key}", error) from error
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    def _dataset(self, name: str, shape: tuple[int, ...], array: ZarrArray) -> h5py.Dataset:
        dataset = self._linked(name)
        if dataset.shape != shape or dataset.dtype != array.numpy_dtype:
            raise StoreError(
                f"{self._path}: dataset {name} is {dataset.dtype} {dataset.shape}, its "
                f"description says {array.dtype} {shape}"
            )
        return dataset

    def _linked(self, name: str) -> h5py.Dataset:
        """The dataset of this name, reached by hard links and stored in this very file."""
        node: Any = self._file
        try:
            for part in name.split("/"):
                link = (
                    node.get(part, getlink=True)
                    if isinstance(node, h5py.Group) and part not in ("", ".")
                    else None
                )
                if not isinstance(link, h5py.HardLink):
                    raise StoreError(
                        f"{self._path}: no dataset {name} in the file itself; no link is followed"
                    )
                node = node[part]
            if (
                not isinstance(node, h5py.Dataset)
                or node.is_virtual
                or node.external
                or node.id.get_create_plist().get_nfilters()
            ):
                raise StoreError(
                    f"{self._path}: {name} is not a plain dataset without filters; export it again"
                )
        except _HDF5_ERRORS as error:
            raise self._damaged(name, error) from error
        return node

    def _values(self, dataset: h5py.Dataset, index: int | tuple[()]) -> np.ndarray:
        try:
            return np.asarray(dataset[index])
        except _HDF5_ERRORS as error:
            raise self._damaged(dataset.name, error) from error

    def _damaged(self, what: str | None, error: Exception) -> StoreError:
        reason = " ".join(str(error).split())
        return StoreError(f"{self._path}: cannot read {what} ({reason}); export it again")


_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises for a damaged file."""


def _new_dataset(file: h5py.File, array: ZarrArray, n_images: int) -> h5py.Dataset:
    rows = 1 if len(array.shape) == 3 else max(1, _MAX_CHUNK_BYTES // array.record_bytes)
    dataset = file.create_dataset(
        array.name,
        shape=(n_images, *array.shape),
        dtype=array.numpy_dtype,
        chunks=(min(rows, n_images), *array.shape) if n_images else None,
        fillvalue=array.hole,
    )
    _describe(dataset, array)
    return dataset


def _describe(dataset: h5py.Dataset, array: ZarrArray) -> None:
    """An int8 dataset says how to decode it."""
    if array.dtype == "int8":
        dataset.attrs["decode"] = _DECODING.format(scale=f"{array.name}{SCALE_SUFFIX}")


def _new_group(file: h5py.File, image_id: str) -> h5py.Group:
    parts = image_id.split("/")
    try:
        if "" in parts or "." in parts:
            raise ValueError
        image_id.encode()
        return file.create_group(image_id)
    except ValueError:
        raise StoreError(
            f"image {unicode_id(image_id)}: its id cannot name a group of HDF5; "
            f"use --format {STACKED}"
        ) from None


def _write_attributes(file: h5py.File, described: Description, lines: list[str]) -> None:
    for key, value in described.to_json().items():
        file.attrs[key] = json.dumps(value) if key in _AS_JSON else value
    file.attrs.create(_IMAGES, lines, shape=(len(lines),), dtype=_TEXT)
