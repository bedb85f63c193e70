"""Shard files: records one after the other, each with its CRC-32C, then the index.

A shard file is a Zarr v3 ``sharding_indexed`` chunk whose inner chunks are single images. The
index holds an (offset, bytes) pair per slot and its own CRC-32C; slots without a record hold
2**64 - 1 twice.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from cache.errors import VERIFY_HINT, CorruptShard
from cache.format.checksums import crc32c_of
from cache.format.layout import CRC_BYTES, ZarrArray
from cache.storage.files import Spool, TemporaryFile
from cache.storage.objects import MAX_PUT_BYTES
from cache.storage.places import open_at_once
from cache.storage.remote import RemotePath, StorePath

_ABSENT = np.uint64(2**64 - 1)
_ENTRY_BYTES = 16
_SYNC_AHEAD_BYTES = 8 * 2**20
"""The disk is set to work each time so much has been written: a sync at the end of a shard would
find it idle until then, with everything still to do."""


def index_bytes(shard_size: int) -> int:
    """Bytes of a shard's index with its checksum."""
    return shard_size * _ENTRY_BYTES + CRC_BYTES


def shard_file_bytes(array: ZarrArray, n_rows: int, shard_size: int) -> int:
    """Bytes of a shard file that holds ``n_rows`` records."""
    return n_rows * (array.record_bytes + CRC_BYTES) + index_bytes(shard_size)


def committed_bytes(array: ZarrArray, n_rows: int, shard_size: int) -> int:
    """What a commit says of an array's size: of the shard file, or of descriptors' records."""
    if array.sharded:
        return shard_file_bytes(array, n_rows, shard_size)
    return n_rows * array.record_bytes


def build_index(array: ZarrArray, n_rows: int, shard_size: int) -> bytes:
    """The index of a shard whose first ``n_rows`` slots are filled, in order, without gaps."""
    index = np.full((shard_size, 2), _ABSENT, "<u8")
    stride = array.record_bytes + CRC_BYTES
    index[:n_rows, 0] = np.arange(n_rows, dtype="<u8") * np.uint64(stride)
    index[:n_rows, 1] = stride
    data = index.tobytes()
    return data + crc_suffix(crc32c_of(data))


def parse_index(
    data: bytes, array: ZarrArray, n_rows: int, shard_size: int, path: StorePath
) -> np.ndarray:
    """Offsets of the first ``n_rows`` records from the index at the end of ``path``.

    CorruptShard where it is damaged or has fewer. Where the file ends is for the caller to look.
    """
    whole = len(data) == index_bytes(shard_size)
    if not whole or crc_suffix(crc32c_of(data[:-CRC_BYTES])) != data[-CRC_BYTES:]:
        raise CorruptShard(f"{path}: the index is damaged or cut off; {VERIFY_HINT}")
    index = np.frombuffer(data, "<u8", shard_size * 2).reshape(shard_size, 2)[:n_rows]
    if (index[:, 1] != array.record_bytes + CRC_BYTES).any():
        raise CorruptShard(f"{path}: committed records are missing; {VERIFY_HINT}")
    return index[:, 0]


def crc_suffix(crc: int) -> bytes:
    """A checksum as it follows the bytes it covers."""
    return crc.to_bytes(CRC_BYTES, "little")


class ShardFileWriter:
    """Streams the records of one shard of one array to a temporary file."""

    def __init__(self, path: StorePath, array: ZarrArray, shard_size: int) -> None:
        self.array = array
        self.crcs: list[int] = []
        """Of the records written so far."""
        self._shard_size = shard_size
        self._file: TemporaryFile | Spool = (
            Spool() if isinstance(path, RemotePath) else TemporaryFile(path)
        )
        self._stride = array.record_bytes + CRC_BYTES
        self._syncing_from = 0

    def append(self, record: np.ndarray) -> None:
        """Write the next record: contiguous values in the dtype of the array."""
        crc = crc32c_of(record)
        self._file.write(record, crc_suffix(crc))
        self.crcs.append(crc)
        ahead = len(self.crcs) * self._stride - self._syncing_from
        if ahead >= _SYNC_AHEAD_BYTES:
            self._file.start_syncing(self._syncing_from, ahead)
            self._syncing_from += ahead

    def finish(self) -> None:
        """Write the index and bring the file to the disk."""
        self._file.write(build_index(self.array, len(self.crcs), self._shard_size))
        self._file.sync()

    @property
    def n_bytes(self) -> int:
        """Size of the finished file."""
        return shard_file_bytes(self.array, len(self.crcs), self._shard_size)

    def publish(self) -> None:
        """Put the finished file in its place on the disk."""
        assert isinstance(self._file, TemporaryFile)
        self._file.publish()

    def upload(self, place: RemotePath) -> str:
        """Put the finished file into object storage; gives its version."""
        assert isinstance(self._file, Spool)
        return place.write(self._file.content())

    def discard(self) -> None:
        """Remove the temporary, unless it was published."""
        self._file.discard()


class ShardFile:
    """A shard file opened for reading: memory-mapped, with its index checked."""

    def __init__(self, path: StorePath, array: ZarrArray, n_rows: int, shard_size: int) -> None:
        """Map ``path``, which must hold at least ``n_rows`` records; else CorruptShard."""
        self._dtype = array.numpy_dtype
        self._shape = array.shape
        self._map, size = map_file(path)
        index_start = size - index_bytes(shard_size)
        if index_start < 0:
            raise CorruptShard(f"{path}: {size} bytes, shorter than its index; {VERIFY_HINT}")
        starts = parse_index(self._map[index_start:], array, n_rows, shard_size, path)
        # Checked before anything is touched: reading past a mapped file kills the process.
        if (starts > index_start - array.record_bytes - CRC_BYTES).any():
            raise CorruptShard(f"{path}: committed records are missing; {VERIFY_HINT}")
        self._starts: list[int] = starts.tolist()

    def record(self, slot: int) -> np.ndarray:
        """The record of a slot, a view of the mapped file."""
        return np.ndarray(self._shape, self._dtype, self._map, self._starts[slot])

    def crcs(self) -> list[int]:
        """The checksums of its records, as they are."""
        return [crc32c_of(self.record(slot)) for slot in range(len(self._starts))]


class DescriptorFile:
    """A chunk of a descriptor array opened for reading, as the rows of one shard."""

    def __init__(self, path: StorePath, array: ZarrArray, first_row: int, chunk_rows: int) -> None:
        """Map ``path``; slot 0 is row ``first_row`` of the chunk. CorruptShard by its size."""
        self._dtype = array.numpy_dtype
        self._shape = array.shape
        self._record_bytes = array.record_bytes
        self._start = first_row * array.record_bytes
        self._map, size = map_file(path)
        if size != chunk_rows * array.record_bytes + CRC_BYTES:
            raise CorruptShard(f"{path}: {size} bytes, not what its rows need; {VERIFY_HINT}")

    def record(self, slot: int) -> np.ndarray:
        """The record of a slot, a view of the mapped file."""
        start = self._start + slot * self._record_bytes
        return np.ndarray(self._shape, self._dtype, self._map, start)


def map_file(path: StorePath) -> tuple[Any, int]:
    """Map a file for reading: (map, bytes); a remote one is fetched whole.

    CorruptShard where it is missing or empty.
    """
    if isinstance(path, RemotePath):
        data = path.read(MAX_PUT_BYTES)
        if not data:
            raise CorruptShard(f"{path}: missing or empty; {VERIFY_HINT}")
        return data, len(data)
    try:
        fd = open_at_once(path)
    except OSError as error:
        raise CorruptShard(f"{path}: {error.strerror}; {VERIFY_HINT}") from error
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            raise CorruptShard(f"{path}: empty; {VERIFY_HINT}")
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ), size
    except OSError as error:
        raise CorruptShard(f"{path}: cannot map ({error.strerror}); {VERIFY_HINT}") from error
    finally:
        os.close(fd)
