"""Records of a local store: views of mapped files, of which some thousand are kept open."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import TypeAlias

import numpy as np

from cache.format.commits import Commit
from cache.format.layout import ShardGrid, ZarrArray
from cache.format.shardfile import DescriptorFile, ShardFile

Wanted: TypeAlias = tuple[ZarrArray, Commit, int]
"""A record: its array, the commit of its shard, its row in the shard, which the commit lists."""

_MAX_MAPPED_FILES = 4096
"""Upper bound on files kept mapped; each also costs a file descriptor."""


class MappedRecords:
    """The records of a store in a local folder. Safe from several threads."""

    def __init__(self, path: Path, grid: ShardGrid) -> None:
        self._path = path
        self._grid = grid
        self._files: OrderedDict[tuple[str, int], ShardFile | DescriptorFile] = OrderedDict()
        self._max_files = min(_MAX_MAPPED_FILES, _open_file_limit() // 4)
        self._lock = threading.Lock()

    def records(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """Read-only views. Raises CorruptShard."""
        return [self._file(array, commit).record(slot) for array, commit, slot in wanted]

    def _file(self, array: ZarrArray, commit: Commit) -> ShardFile | DescriptorFile:
        """The mapped file of a shard, from those kept open.

        Kept per shard also where shards share a file: the mapping is then younger than the
        commit, so it holds every row that the commit lists.
        """
        key = (array.name, commit.shard)
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
                return file
            file = self._opened(array, commit)
            self._files[key] = file
            if len(self._files) > self._max_files:
                self._files.popitem(last=False)
            return file

    def _opened(self, array: ZarrArray, commit: Commit) -> ShardFile | DescriptorFile:
        first_row = commit.shard * self._grid.shard_size
        path = self._grid.file_of(self._path, array, first_row)
        if array.sharded:
            return ShardFile(path, array, commit.n_rows(array.name), self._grid.shard_size)
        chunk_rows = self._grid.chunk_rows
        return DescriptorFile(path, array, first_row % chunk_rows, chunk_rows)


def _open_file_limit() -> int:
    limit, _ = getrlimit(RLIMIT_NOFILE)
    return sys.maxsize if limit == RLIM_INFINITY else limit
