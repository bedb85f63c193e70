"""Records of a remote store: parts of objects, many on their way at a time.

The index of a shard is fetched once and kept. Records that lie near each other come in one
request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.errors import VERIFY_HINT, CorruptShard
from cache.format.commits import Commit
from cache.format.layout import ShardGrid, ZarrArray
from cache.format.shardfile import index_bytes, parse_index
from cache.reading.mapped import Wanted
from cache.storage.remote import RemotePath

_MAX_GAP = 2**16
"""Bytes that are fetched for nothing rather than asked around."""
_MAX_REQUEST = 2**24
"""Bytes of one request, unless a record has more."""

_Span = tuple[RemotePath, int, int]


class RangedRecords:
    """The records of a store in object storage. Safe from several threads."""

    def __init__(self, path: RemotePath, grid: ShardGrid) -> None:
        self._path = path
        self._grid = grid
        self._starts: dict[tuple[str, int], np.ndarray] = {}
        """Offsets of a shard's records, by array and shard."""

    def records(self, wanted: Sequence[Wanted]) -> list[np.ndarray]:
        """Read-only arrays. Raises CorruptShard and StoreError."""
        self._fetch_indexes(wanted)
        spans = [self._span(*record) for record in wanted]
        found = self._fetch(spans)
        records = []
        for (array, _, _), span, data in zip(wanted, spans, found, strict=True):
            if len(data) != array.record_bytes:
                raise CorruptShard(f"{span[0]}: committed records are missing; {VERIFY_HINT}")
            records.append(np.frombuffer(data, array.numpy_dtype).reshape(array.shape))
        return records

    def _fetch_indexes(self, wanted: Sequence[Wanted]) -> None:
        """Of the shards that have not been read from before."""
        new = {
            (array.name, commit.shard): (array, commit)
            for array, commit, _ in wanted
            if array.sharded and (array.name, commit.shard) not in self._starts
        }
        if not new:
            return
        places = [self._file(array, commit.shard) for array, commit in new.values()]
        size = index_bytes(self._grid.shard_size)
        indexes = self._path.read_ranges([(place, -size, None) for place in places])
        for (key, (array, commit)), place, data in zip(new.items(), places, indexes, strict=True):
            if data is None:
                raise CorruptShard(f"{place}: no such object; {VERIFY_HINT}")
            n_rows = commit.n_rows(array.name)
            self._starts[key] = parse_index(data, array, n_rows, self._grid.shard_size, place)

    def _span(self, array: ZarrArray, commit: Commit, slot: int) -> _Span:
        shard = commit.shard
        place = self._file(array, shard)
        if array.sharded:
            start = int(self._starts[array.name, shard][slot])
        else:
            row = shard * self._grid.shard_size % self._grid.chunk_rows + slot
            start = row * array.record_bytes
        return place, start, start + array.record_bytes

    def _file(self, array: ZarrArray, shard: int) -> RemotePath:
        return self._grid.file_of(self._path, array, shard * self._grid.shard_size)

    def _fetch(self, spans: Sequence[_Span]) -> list[bytes]:
        """The bytes of each span, shorter where an object ends before it does."""
        order = sorted(range(len(spans)), key=lambda n: (spans[n][0].key, *spans[n][1:]))
        requests: list[_Span] = []
        request_of: dict[int, int] = {}
        for number in order:
            place, start, end = spans[number]
            if requests:
                last, first, stop = requests[-1]
                near = last == place and start <= stop + _MAX_GAP
                if near and max(stop, end) - first <= _MAX_REQUEST:
                    requests[-1] = (place, first, max(stop, end))
                    request_of[number] = len(requests) - 1
                    continue
            requests.append((place, start, end))
            request_of[number] = len(requests) - 1
        answers = self._path.read_ranges(requests)
        found = []
        for number, (_, start, end) in enumerate(spans):
            first = requests[request_of[number]][1]
            found.append((answers[request_of[number]] or b"")[start - first : end - first])
        return found
