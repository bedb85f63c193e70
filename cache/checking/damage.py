"""What of damaged shards is still right: row by row, by the checksums of commits and records.

A record is sound if it has the checksum that the shard's commit lists. Where the commit is lost or
damaged, the record's own checksum, which follows it in a shard file, has to do; of such a shard
the rows without values are asked for again, because the commit also said why they have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from cache.checking.findings import Problem
from cache.errors import CorruptShard, DamagedStore
from cache.format.checksums import crc32c_of
from cache.format.commits import Commit, read_commit
from cache.format.descriptors import read_chunk
from cache.format.encoding import is_complete
from cache.format.layout import COMMITS, CRC_BYTES, ZarrArray, chunk_of, commit_path
from cache.format.metadata import Metadata
from cache.format.shardfile import build_index, crc_suffix, index_bytes
from cache.storage.places import read_file


@dataclass(frozen=True)
class FileDamage:
    """One array's part of a damaged shard."""

    array: ZarrArray
    crcs: tuple[int | None, ...]
    """Per row: the checksum of a record that can be kept; None where it has to be computed."""
    rewrite: bool
    """Whether the file is to be written again though all its records can be kept."""

    @property
    def slots(self) -> tuple[int, ...]:
        """The rows to compute, counted from the shard's first."""
        return tuple(slot for slot, crc in enumerate(self.crcs) if crc is None)


@dataclass(frozen=True)
class ShardDamage:
    """A shard of which something is damaged."""

    shard: int
    commit: Commit | None
    """None where it is lost or damaged."""
    commit_bytes: bytes | None
    """The file as it was seen, whatever it is worth; None where there is none."""
    files: dict[str, FileDamage] = field(default_factory=dict)
    """By array on disk. Of a shard without a commit all arrays are here, damaged or not."""

    @property
    def n_rows(self) -> int:
        """Rows of the longest of these arrays."""
        return max((len(damage.crcs) for damage in self.files.values()), default=0)

    @property
    def to_write(self) -> list[FileDamage]:
        """The files to write again."""
        return [file for file in self.files.values() if file.rewrite or file.slots]


class Survey:
    """Looks at the shards that a verification found fault with."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._grid = metadata.grid
        self._arrays = {name: doc.array for name, doc in metadata.documents.items()}

    def damaged_shards(self, problems: Iterable[Problem]) -> list[ShardDamage]:
        """The damage behind the problems with commits and data files, in shard order."""
        lost: set[int] = set()
        arrays: dict[int, set[str]] = {}
        per_chunk = self._grid.chunk_rows // self._grid.shard_size
        for problem in problems:
            folder, _, name = problem.where.rpartition("/")
            chunk = chunk_of(name)
            if problem.kind == "unexpected":
                continue
            if folder == COMMITS:
                lost.add(int(name.removesuffix(".json")))
            elif folder not in self._arrays or chunk is None:
                continue
            elif problem.kind == "commit":
                lost.add(chunk)
            elif self._arrays[folder].sharded:
                arrays.setdefault(chunk, set()).add(folder)
            else:
                for shard in range(chunk * per_chunk, (chunk + 1) * per_chunk):
                    arrays.setdefault(shard, set()).add(folder)
        n_shards = self._grid.n_shards(len(self._metadata.images))
        found = []
        self._chunks: set[tuple[str, int]] = set()
        for shard in sorted(lost | set(arrays)):
            if shard >= n_shards:
                continue
            commit = None if shard in lost else self._commit(shard)
            if commit is not None:
                damage = self._with_commit(shard, commit, arrays[shard])
            elif shard in lost:
                damage = self._without_commit(shard)
            else:
                continue
            if damage.files:
                found.append(damage)
        return found

    def _with_commit(self, shard: int, commit: Commit, arrays: set[str]) -> ShardDamage:
        files = {}
        for name in sorted(arrays):
            if not commit.n_rows(name):
                continue
            damage = FileDamage(self._arrays[name], self._sound(shard, name, commit), rewrite=True)
            if not damage.array.sharded:
                # The first of a chunk's shards writes it again; others only what they lack.
                chunk = (name, shard * self._grid.shard_size // self._grid.chunk_rows)
                if chunk in self._chunks and not damage.slots:
                    continue
                self._chunks.add(chunk)
            files[name] = damage
        return ShardDamage(shard, commit, self._commit_bytes(shard), files)

    def _commit(self, shard: int) -> Commit | None:
        try:
            return read_commit(self._metadata.path, shard)
        except DamagedStore:
            return None

    def _commit_bytes(self, shard: int) -> bytes | None:
        return read_file(commit_path(self._metadata.path, shard))

    def _sound(self, shard: int, name: str, commit: Commit) -> tuple[int | None, ...]:
        """The committed checksums of the records that have them."""
        committed = commit.arrays[name].crc32c
        array = self._arrays[name]
        found: list[int | None] = []
        records = Records(self._metadata, array, shard)
        for slot, crc in enumerate(committed):
            values = records.values(slot)
            is_sound = values is not None and crc32c_of(values) == crc
            if is_sound and commit.images[slot].id not in commit.quarantined:
                is_sound = is_complete(values or b"", array)
            found.append(crc if is_sound else None)
        return tuple(found)

    def _without_commit(self, shard: int) -> ShardDamage:
        """A shard's arrays by their files: the longest map says how many rows there were."""
        records = {
            name: Records(self._metadata, array, shard) for name, array in self._arrays.items()
        }
        there = {name: found for name, found in records.items() if found.data is not None}
        n_rows = max((found.n_rows for found in there.values()), default=0)
        if there and not n_rows:
            n_rows = len(self._grid.rows_of(shard, len(self._metadata.images)))
        files = {}
        for name, found in there.items():
            rows = found.n_rows if found.array.sharded and found.n_rows else n_rows
            crcs = tuple(found.own_crc(slot) for slot in range(rows))
            files[name] = FileDamage(found.array, crcs, rewrite=not found.is_whole)
        return ShardDamage(shard, None, self._commit_bytes(shard), files)


class Records:
    """The records of one shard of one array, read without trust in sizes or indexes."""

    def __init__(self, metadata: Metadata, array: ZarrArray, shard: int) -> None:
        self.array = array
        self._grid = metadata.grid
        self._first_row = shard * self._grid.shard_size
        self._n_images = len(self._grid.rows_of(shard, len(metadata.images)))
        self.path = self._grid.file_of(metadata.folder, array, self._first_row)
        self.data = read_file(self.path)
        """The whole file; None where there is none."""

    def values(self, slot: int) -> bytes | None:
        """A record's values, whatever they are worth; None where the file is too short."""
        size = self.array.record_bytes
        if self.array.sharded:
            start = slot * (size + CRC_BYTES)
        else:
            start = (self._first_row % self._grid.chunk_rows + slot) * size
        values = (self.data or b"")[start : start + size]
        return values if len(values) == size else None

    @cached_property
    def n_rows(self) -> int:
        """Rows that a whole shard file holds, or a chunk of descriptors as far as they have
        values; 0 where that cannot be told."""
        data = self.data or b""
        if not self.array.sharded:
            slots = range(self._n_images)
            return max((slot + 1 for slot in slots if not self.is_hole(slot)), default=0)
        shard_size = self._grid.shard_size
        start = len(data) - index_bytes(shard_size)
        n_rows, rest = divmod(start, self.array.record_bytes + CRC_BYTES)
        if rest or not 1 <= n_rows <= self._n_images:
            return 0
        return n_rows if data[start:] == build_index(self.array, n_rows, shard_size) else 0

    def is_hole(self, slot: int) -> bool:
        """Whether a record holds fill values and nothing else, or is not there."""
        values = self.values(slot)
        return values is None or values == self.array.hole_record().tobytes()

    def own_crc(self, slot: int) -> int | None:
        """The checksum of a record that fits its own and holds a number everywhere."""
        values = self.values(slot)
        if values is None or not is_complete(values, self.array):
            return None
        crc = crc32c_of(values)
        if self.array.sharded:
            end = (slot + 1) * (self.array.record_bytes + CRC_BYTES)
            return crc if (self.data or b"")[end - CRC_BYTES : end] == crc_suffix(crc) else None
        return crc if self.is_whole else None

    @cached_property
    def is_whole(self) -> bool:
        """Whether the file's size and index, or a chunk's checksum, are right."""
        if self.array.sharded:
            return self.n_rows > 0
        try:
            return read_chunk(self.path, self.array, self._grid.chunk_rows) is not None
        except CorruptShard:
            return False
