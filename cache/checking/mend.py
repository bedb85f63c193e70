"""Writing damaged shards again: records that are right are kept byte for byte, the rest is put."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from cache.checking.damage import FileDamage, Records, ShardDamage, Survey
from cache.checking.findings import Problem
from cache.errors import CorruptShard, DamagedStore, StoreError
from cache.format.checksums import Json, crc32c_of
from cache.format.commits import ArrayCommit, Commit, read_commit
from cache.format.descriptors import hole_chunk, read_chunk, write_chunk
from cache.format.encoding import Encoder
from cache.format.layout import COMMITS, LOCK, ArraySpec, commit_path
from cache.format.metadata import Metadata, read_metadata
from cache.format.records import ImageRecord
from cache.format.shardfile import ShardFileWriter, committed_bytes
from cache.storage.files import locked, make_folders, sync_folder, write_atomically
from cache.storage.places import read_file
from cache.writing.recovery import roll_back
from cache.writing.writer import ShardTask


@dataclass
class MendReport:
    """What became of the damaged shards."""

    shards: int = 0
    """Written again."""
    records: int = 0
    """Computed, over all arrays on disk."""
    other_bytes: int = 0
    """Of these, records that differ from what had been committed."""
    failures: dict[str, str] = field(default_factory=dict)
    """Image id to the reason why its features cannot be computed; its shard is as it was."""


class StoreMender:
    """A damaged store opened for repair: what has to be computed, and a writer for each shard."""

    def __init__(self, metadata: Metadata, damage: Sequence[ShardDamage]) -> None:
        self.path = metadata.path
        """The store's folder."""
        self.images = metadata.images.records()
        """All rows of the store, in order."""
        self.arrays = metadata.specs
        """The store's features by name."""
        self.report = MendReport()
        self._metadata = metadata
        self._damage = {shard.shard: shard for shard in damage}

    @classmethod
    def open(cls, path: str | Path, problems: Iterable[Problem]) -> StoreMender:
        """Look into the damage behind these problems of commits and data files.

        Raises StoreError where the store's documents are damaged: they come first.
        """
        metadata = read_metadata(Path(path))
        return cls(metadata, Survey(metadata).damaged_shards(problems))

    @property
    def damaged(self) -> dict[int, list[str]]:
        """The damaged shards and, of each, the arrays whose files are written again."""
        return {
            number: [file.array.name for file in shard.to_write]
            for number, shard in self._damage.items()
        }

    @property
    def n_missing(self) -> int:
        """Records to compute, over all arrays on disk."""
        damaged = self._damage.values()
        return sum(len(file.slots) for shard in damaged for file in shard.files.values())

    def tidy(self) -> None:
        """Remove what killed writers left."""
        with locked(self._metadata.folder / LOCK):
            roll_back(self._metadata)

    def tasks(self) -> list[ShardTask]:
        """What has to be computed: whole shards, as they were at first, since the last bits of a
        feature may depend on the images that are computed beside it."""
        size = self._metadata.grid.shard_size
        tasks = []
        for shard, damage in self._damage.items():
            names = tuple(
                name
                for name, spec in self.arrays.items()
                if any(
                    a.name in damage.files and damage.files[a.name].slots for a in spec.zarr_arrays
                )
            )
            if names:
                rows = range(shard * size, shard * size + damage.n_rows)
                tasks.append(ShardTask(shard, rows, names))
        return tasks

    def shard(self, task: ShardTask) -> ShardMender:
        """A writer for a damaged shard, to be used in a ``with`` block."""
        specs = [self.arrays[name] for name in task.arrays]
        images = self.images[task.rows.start : task.rows.stop]
        damage = self._damage[task.shard]
        return ShardMender(self._metadata, damage, images, specs, self.report)

    def mend_without_computing(self) -> None:
        """Write again what lacks no record: indexes, commits, checksums."""
        size = self._metadata.grid.shard_size
        computed = {task.shard for task in self.tasks()}
        for number in self._damage.keys() - computed:
            rows = range(number * size, number * size + self._damage[number].n_rows)
            with self.shard(ShardTask(number, rows, ())) as shard:
                for row in rows:
                    shard.put(row, {})
                shard.commit()


class ShardMender(AbstractContextManager["ShardMender"]):
    """Writes the damaged files of one shard; nothing changes before `commit`."""

    def __init__(
        self,
        metadata: Metadata,
        damage: ShardDamage,
        images: Sequence[ImageRecord],
        specs: Sequence[ArraySpec],
        report: MendReport,
    ) -> None:
        """Use `StoreMender.shard`."""
        self._metadata = metadata
        self._grid = metadata.grid
        self._damage = damage
        self._first_row = damage.shard * self._grid.shard_size
        self._images = images
        self._encoders = {spec.name: (spec, Encoder(spec)) for spec in specs}
        self._report = report
        self._quarantined = dict(damage.commit.quarantined) if damage.commit else {}
        self._failures: dict[str, str] = {}
        self._files: list[_MendedFile] = []

    def __enter__(self) -> ShardMender:
        try:
            for damage in self._damage.to_write:
                make_folders(self._metadata.path, self._metadata.path / damage.array.name)
                self._files.append(_MendedFile(self._metadata, self._damage.shard, damage))
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def put(self, row: int, features: Mapping[str, np.ndarray]) -> None:
        """Give one image's features, in row order; those that are stored soundly are not used.

        Raises NonFiniteError for NaN, infinity or overflow.
        """
        slot = row - self._first_row
        image_id = self._images[slot].id
        if image_id in self._quarantined:
            self._append(slot, {})
            return
        wanted = {file.array.name for file in self._files if file.needs(slot)}
        records: dict[str, np.ndarray] = {}
        for name, (spec, encode) in self._encoders.items():
            names = [array.name for array in spec.zarr_arrays]
            if not wanted.isdisjoint(names):
                records |= zip(names, encode(features[name], image_id), strict=True)
        self._append(slot, records)

    def quarantine(self, row: int, reason: str) -> None:
        """Say that an image cannot be computed.

        Only where the commit is lost may this be why the row has no values. An image that had
        features keeps those that are left: its shard stays as it is, and the report says why.
        """
        slot = row - self._first_row
        image_id = self._images[slot].id
        if image_id not in self._quarantined and any(file.needs(slot) for file in self._files):
            if self._damage.commit is not None or not self._has_no_values(slot):
                self._failures[image_id] = reason
            else:
                self._quarantined[image_id] = reason
        self._append(slot, {})

    def commit(
        self,
        timings: Mapping[str, float] | None = None,
        computed_by: Mapping[str, Json] | None = None,
    ) -> bool:
        """Put the files in their places, and a new commit where it was lost or says otherwise.

        Returns whether it did: a shard with an image that cannot be computed stays as it is.

        A death in between leaves a shard that is still damaged, or whole: nothing sound is lost.
        Raises StoreError where somebody has changed the shard meanwhile.
        """
        if self._failures:
            self._report.failures |= self._failures
            return False
        for file in self._files:
            file.finish()
        path = self._metadata.folder
        with locked(path / LOCK):
            target = commit_path(path, self._damage.shard)
            if read_file(target) != self._damage.commit_bytes:
                raise StoreError(
                    f"{target}: a writer has changed it meanwhile; run the same command again"
                )
            for file in self._files:
                file.publish()
            commit = self._new_commit(timings or {}, computed_by)
            if commit is not None:
                make_folders(path, path / COMMITS)
                # Under a name that announces nothing: what would be rolled back is sound data.
                write_atomically(target, commit.to_bytes(), f"repair-{target.name}")
        self._report.shards += 1
        self._report.records += sum(len(file.damage.slots) for file in self._files)
        return True

    def _new_commit(
        self, timings: Mapping[str, float], computed_by: Mapping[str, Json] | None
    ) -> Commit | None:
        """The commit that fits the files; None if that is the one there."""
        crcs = {file.array.name: tuple(file.crcs) for file in self._files}
        old = self._damage.commit
        if old is None:
            for name, damage in self._damage.files.items():
                crcs.setdefault(name, tuple(crc for crc in damage.crcs if crc is not None))
            old = Commit(self._damage.shard)
        else:
            for name, new in crcs.items():
                before = old.arrays[name].crc32c
                self._report.other_bytes += sum(a != b for a, b in zip(new, before, strict=True))
            if all(new == old.arrays[name].crc32c for name, new in crcs.items()):
                return None
            timings = {}
        arrays = {
            name: ArrayCommit(
                new,
                committed_bytes(self._damage.files[name].array, len(new), self._grid.shard_size),
            )
            for name, new in crcs.items()
        }
        return old.extended(self._images, self._quarantined, arrays, timings, computed_by)

    def _has_no_values(self, slot: int) -> bool:
        """Whether the row is there in no array at all."""
        return all(slot in file.slots for file in self._damage.files.values())

    def _append(self, slot: int, records: Mapping[str, np.ndarray]) -> None:
        for file in self._files:
            file.append(slot, records.get(file.array.name))

    def _discard(self) -> None:
        for file in self._files:
            file.discard()


class _MendedFile:
    """One damaged file being written again: a shard file, or a chunk of descriptors."""

    def __init__(self, metadata: Metadata, shard: int, damage: FileDamage) -> None:
        self.array = damage.array
        self.damage = damage
        self._metadata = metadata
        self._grid = metadata.grid
        self._first_row = shard * self._grid.shard_size
        self._old = Records(metadata, damage.array, shard)
        self._path: Path = self._old.path
        self._rows: list[np.ndarray] = []
        self._writer: ShardFileWriter | None = None
        if damage.array.sharded:
            self._writer = ShardFileWriter(self._path, damage.array, self._grid.shard_size)

    @property
    def crcs(self) -> list[int]:
        """Of the records so far."""
        if self._writer is not None:
            return self._writer.crcs
        return [crc32c_of(row) for row in self._rows]

    def needs(self, slot: int) -> bool:
        """Whether this row has to be computed."""
        return slot < len(self.damage.crcs) and self.damage.crcs[slot] is None

    def append(self, slot: int, record: np.ndarray | None) -> None:
        """The next row: kept if it is sound, else this record, or a hole where there is none."""
        if slot >= len(self.damage.crcs):
            return
        if not self.needs(slot):
            values = np.frombuffer(self._old.values(slot) or b"", self.array.numpy_dtype)
            record = values.reshape(self.array.shape)
            if crc32c_of(record) != self.damage.crcs[slot]:
                raise StoreError(f"{self._path}: changed meanwhile; run the same command again")
        elif record is None:
            record = self.array.hole_record()
        if self._writer is not None:
            self._writer.append(record)
        else:
            self._rows.append(record.copy())

    def finish(self) -> None:
        """Bring a shard file to the disk."""
        if self._writer is not None:
            self._writer.finish()

    def publish(self) -> None:
        """Replace the damaged file. The caller holds the store's lock."""
        if self._writer is not None:
            self._writer.publish()
            sync_folder(self._path.parent)
            return
        # Read now, under the lock: other shards' rows of the chunk may be newer than the survey.
        chunk = self._chunk_now()
        start = self._first_row % self._grid.chunk_rows
        chunk[start : start + len(self._rows)] = self._rows
        write_chunk(self._path, chunk)

    def _chunk_now(self) -> np.ndarray:
        """The chunk of descriptors, to be changed: whole, or rows that commits know and holes."""
        chunk_rows, shard_size = self._grid.chunk_rows, self._grid.shard_size
        with suppress(CorruptShard):
            whole = read_chunk(self._path, self.array, chunk_rows)
            if whole is not None:
                return whole.copy()
        chunk = hole_chunk(self.array, chunk_rows)
        first = self._first_row // chunk_rows * chunk_rows
        records = Records(self._metadata, self.array, first // shard_size)
        for shard in range(first // shard_size, (first + chunk_rows) // shard_size):
            start = shard * shard_size - first
            n_committed = _n_committed(self._metadata.folder, shard, self.array.name)
            for row in range(start, start + n_committed):
                values = records.values(row)
                if values is not None:
                    chunk[row] = np.frombuffer(values, self.array.numpy_dtype)
        return chunk

    def discard(self) -> None:
        """Remove the temporary, unless it was published."""
        if self._writer is not None:
            self._writer.discard()


def _n_committed(store: Path, shard: int, array: str) -> int:
    try:
        commit = read_commit(store, shard)
    except DamagedStore:
        return 0
    return 0 if commit is None else commit.n_rows(array)
