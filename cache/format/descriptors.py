"""Descriptor arrays [N, D]: plain chunks that several shards share.

A chunk is rewritten whole whenever one of its shards is committed: read, patch, write beside,
rename. That is only safe under the store's lock, which the caller holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.errors import VERIFY_HINT, CorruptShard
from cache.format.checksums import crc32c_of
from cache.format.layout import CRC_BYTES, ShardGrid, ZarrArray
from cache.format.shardfile import crc_suffix
from cache.storage.files import write_atomically
from cache.storage.places import read_file
from cache.storage.remote import StorePath


def read_chunk(path: StorePath, array: ZarrArray, chunk_rows: int) -> np.ndarray | None:
    """A chunk's rows [chunk_rows, D], read-only; None where there is no file.

    Raises CorruptShard where the size or the checksum is wrong.
    """
    data = read_file(path)
    if data is None:
        return None
    values = data[:-CRC_BYTES]
    if len(values) != chunk_rows * array.record_bytes:
        raise CorruptShard(f"{path}: {len(data)} bytes, not what its rows need; {VERIFY_HINT}")
    if crc_suffix(crc32c_of(values)) != data[-CRC_BYTES:]:
        raise CorruptShard(f"{path}: the checksum does not fit the rows; {VERIFY_HINT}")
    return np.frombuffer(values, array.numpy_dtype).reshape(chunk_rows, *array.shape)


def hole_chunk(array: ZarrArray, n_rows: int) -> np.ndarray:
    """Rows [n, D] that nobody has committed."""
    return np.full((n_rows, *array.shape), array.hole, array.numpy_dtype)


def patch_chunk(
    path: StorePath,
    array: ZarrArray,
    chunk_rows: int,
    first_row: int,
    records: Sequence[np.ndarray],
) -> None:
    """Write records into the rows from ``first_row`` of a chunk, leaving its other rows alone."""
    old = read_chunk(path, array, chunk_rows)
    chunk = hole_chunk(array, chunk_rows) if old is None else old.copy()
    chunk[first_row : first_row + len(records)] = records
    write_chunk(path, chunk)


def write_chunk(path: StorePath, chunk: np.ndarray) -> None:
    """Replace a chunk by rows [chunk_rows, D] and their checksum."""
    data = chunk.tobytes()
    write_atomically(path, data + crc_suffix(crc32c_of(data)))


class DescriptorWriter:
    """Collects the records of one shard of a descriptor array, in memory: they are small."""

    def __init__(self, array: ZarrArray, grid: ShardGrid, old_crcs: Sequence[int]) -> None:
        self.array = array
        self.crcs = list(old_crcs)
        """Of the shard's rows so far, those that exist already included."""
        self._grid = grid
        self._records: list[np.ndarray] = []

    def append(self, record: np.ndarray) -> None:
        """Keep the next record."""
        self.crcs.append(crc32c_of(record))
        self._records.append(record.copy())

    @property
    def n_bytes(self) -> int:
        """Size of the shard's records."""
        return len(self.crcs) * self.array.record_bytes

    def patch(self, store: StorePath, first_row: int) -> None:
        """Write the records into their chunk, from row ``first_row`` of the array."""
        path = self._grid.file_of(store, self.array, first_row)
        chunk_rows = self._grid.chunk_rows
        patch_chunk(path, self.array, chunk_rows, first_row % chunk_rows, self._records)
