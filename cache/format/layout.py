"""Names, array documents and shard arithmetic of a store: docs/store-format.md as code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cache.errors import DamagedStore, StoreError
from cache.format.checksums import Json
from cache.storage.remote import AnyPath

FORMAT_VERSION = 1
DEFAULT_SHARD_SIZE = 64
MAX_SHARD_SIZE = 65_536
MAX_RECORD_BYTES = 2**30
"""Bounds on what a store from a stranger can make a reader allocate."""
DESCRIPTOR_CHUNK_ROWS = 1024
"""Rows per chunk of a descriptor array, before rounding to a multiple of the shard size."""

DOCUMENT = "zarr.json"
IMAGES = "images.jsonl"
COMMITS = "commits"
LOCK = ".lock"

SCALE_SUFFIX = "_scale"
CRC_BYTES = 4
INT8_HOLE = -128
"""Marks a missing or quarantined int8 value; quantised values stay within -127..127."""

FEATURE_DTYPES = ("float32", "float16", "int8")
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in FEATURE_DTYPES}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")
_CHUNK_NAME = re.compile(r"c\.(\d+)(?:\.0)+")
_RESERVED = {COMMITS}
_DIMENSIONS = ("image", "channel", "y", "x")


@dataclass(frozen=True)
class ArraySpec:
    """One kind of feature: ``shape`` is per image, (C, H, W) for a map, (D,) for a descriptor.

    int8 maps are quantised symmetrically per image and channel; descriptors are never int8.
    Raises StoreError for a name, shape or dtype that a store cannot hold.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not _NAME.fullmatch(self.name) or self.name.split("/")[0] in _RESERVED:
            raise StoreError(f"array {self.name!r}: use letters, digits, - and _ between slashes")
        if self.name.endswith(SCALE_SUFFIX):
            raise StoreError(f"array {self.name}: names ending in {SCALE_SUFFIX} are reserved")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise StoreError(f"array {self.name}: shape {self.shape} is neither C, H, W nor D")
        if self.dtype not in FEATURE_DTYPES:
            raise StoreError(
                f"array {self.name}: dtype {self.dtype} is not one of {', '.join(FEATURE_DTYPES)}"
            )
        if self.zarr_arrays[0].record_bytes > MAX_RECORD_BYTES:
            raise StoreError(f"array {self.name}: shape {self.shape} is over 1 GiB per image")
        if self.dtype == "int8" and len(self.shape) == 1:
            raise StoreError(f"array {self.name}: descriptors are float32 or float16, not int8")

    @property
    def zarr_arrays(self) -> tuple[ZarrArray, ...]:
        """What is on disk for it: the array itself and, for int8, its scales."""
        main = ZarrArray(self.name, self.shape, self.dtype, sharded=len(self.shape) == 3)
        if self.dtype != "int8":
            return (main,)
        scale = ZarrArray(self.name + SCALE_SUFFIX, self.shape[:1], "float32", sharded=True)
        return (main, scale)


@dataclass(frozen=True)
class ZarrArray:
    """One Zarr array of a store; a record is one image's part of it."""

    name: str
    shape: tuple[int, ...]
    """Per image."""
    dtype: str
    sharded: bool
    """One inner chunk per image inside shard files; otherwise plain chunks of many rows."""

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little-endian dtype of the bytes on disk."""
        return DTYPES[self.dtype]

    @property
    def record_bytes(self) -> int:
        """Bytes of one image's values, without its checksum."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    @property
    def hole(self) -> float:
        """The fill value: what a row that was never computed reads as in a plain Zarr reader."""
        return INT8_HOLE if self.dtype == "int8" else float("nan")

    def hole_record(self) -> np.ndarray:
        """One record of fill values, as written for a quarantined image."""
        return np.full(self.shape, self.hole, self.numpy_dtype)


@dataclass(frozen=True)
class ShardGrid:
    """Which rows lie in which file."""

    shard_size: int
    """Images per shard."""

    def shard_of(self, row: int) -> int:
        """The shard that holds a row."""
        return row // self.shard_size

    def rows_of(self, shard: int, n_images: int) -> range:
        """The rows of a shard in a store of ``n_images``; shorter for the last shard."""
        start = shard * self.shard_size
        return range(start, max(start, min(start + self.shard_size, n_images)))

    def n_shards(self, n_images: int) -> int:
        """Shards that ``n_images`` need."""
        return -(-n_images // self.shard_size)

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk of a descriptor array: the multiple of shard_size nearest 1,024."""
        return max(1, round(DESCRIPTOR_CHUNK_ROWS / self.shard_size)) * self.shard_size

    def file_rows(self, array: ZarrArray) -> int:
        """Rows per file of an array."""
        return self.shard_size if array.sharded else self.chunk_rows

    def file_of(self, store: AnyPath, array: ZarrArray, row: int) -> AnyPath:
        """The file that holds a row of an array."""
        key = ".".join([str(row // self.file_rows(array)), *("0" for _ in array.shape)])
        return cast(AnyPath, store / array.name / f"c.{key}")


def chunk_of(name: str) -> int | None:
    """The number in the name of a data file; None for any other name."""
    match = _CHUNK_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def commit_path(store: AnyPath, shard: int) -> AnyPath:
    """The file whose presence makes a shard exist."""
    return cast(AnyPath, store / COMMITS / f"{shard:06d}.json")


def claim_path(store: Path, shard: int) -> Path:
    """The temporary that says that a process is computing a shard."""
    return store / COMMITS / f".claim-{shard:06d}.tmp"


def document_bytes(document: dict[str, Json]) -> bytes:
    """A ``zarr.json`` as this store writes it."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def group_document(attributes: dict[str, Json]) -> bytes:
    """``zarr.json`` of a group."""
    return document_bytes({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def array_document(array: ZarrArray, shard_size: int, n_images: int, images_crc: str) -> bytes:
    """``zarr.json`` of an array with ``n_images`` rows.

    ``images_crc`` is the CRC-32C of the first ``n_images`` lines of ``images.jsonl``: it ties
    the rows to the images that they belong to.
    """
    record: list[Json] = list(array.shape)
    endian: dict[str, Json] = {"name": "bytes"}
    if array.numpy_dtype.itemsize > 1:
        endian["configuration"] = {"endian": "little"}
    record_codecs: list[Json] = [endian, {"name": "crc32c"}]
    index_codecs: list[Json] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
    ]
    sharding: dict[str, Json] = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *record],
            "codecs": record_codecs,
            "index_codecs": index_codecs,
            "index_location": "end",
        },
    }
    file_rows = ShardGrid(shard_size).file_rows(array)
    return document_bytes(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n_images, *record],
            "data_type": array.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [file_rows, *record]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": INT8_HOLE if array.dtype == "int8" else "NaN",
            "codecs": [sharding] if array.sharded else record_codecs,
            "dimension_names": list(_DIMENSIONS[: 1 + len(record)]),
            "attributes": {"images_crc32c": images_crc},
        }
    )


@dataclass(frozen=True)
class ArrayDocument:
    """What an array's ``zarr.json`` says."""

    array: ZarrArray
    n_images: int
    images_crc: str


def parse_array_document(name: str, data: bytes, shard_size: int) -> ArrayDocument:
    """Read an array's ``zarr.json``; DamagedStore unless it is byte for byte as we write it."""
    try:
        document = json.loads(data)
        n_images, *record = document["shape"]
        if not all(type(size) is int and size >= 0 for size in document["shape"]):
            raise ValueError("a shape is made of whole numbers")
        array = ZarrArray(
            name=name,
            shape=tuple(record),
            dtype=document["data_type"],
            sharded=document["codecs"][0]["name"] == "sharding_indexed",
        )
        parsed = ArrayDocument(array, n_images, document["attributes"]["images_crc32c"])
        as_written = array_document(array, shard_size, n_images, parsed.images_crc)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DamagedStore(
            f"{name}/{DOCUMENT}: not the description of a feature array ({error!r})"
        ) from error
    if as_written != data:
        raise DamagedStore(f"{name}/{DOCUMENT}: differs from what the store wrote")
    return parsed


def specs_of(arrays: Sequence[ZarrArray]) -> dict[str, ArraySpec]:
    """The features behind the arrays on disk, by name; DamagedStore where they do not fit.

    Scales are written before the map they belong to, so scales alone are a map that was being
    added when its writer died; they are no feature yet.
    """
    by_name = {array.name: array for array in arrays}
    specs = {
        name: ArraySpec(name, array.shape, array.dtype)
        for name, array in sorted(by_name.items())
        if not name.endswith(SCALE_SUFFIX)
    }
    expected = {array.name: array for spec in specs.values() for array in spec.zarr_arrays}
    for name, array in expected.items():
        if by_name.get(name) != array:
            raise DamagedStore(f"{name}/{DOCUMENT}: missing, or not what its feature needs")
    return specs
