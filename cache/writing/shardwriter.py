"""Filling one shard: temporaries first, then everything into place, the commit last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import numpy as np

from cache.errors import VERIFY_HINT, CorruptShard, StoreError
from cache.format.checksums import Json
from cache.format.commits import ArrayCommit, Commit, read_commit
from cache.format.descriptors import DescriptorWriter
from cache.format.encoding import Encoder
from cache.format.layout import ArraySpec, ZarrArray, commit_path
from cache.format.metadata import Metadata
from cache.format.records import ImageRecord
from cache.format.shardfile import ShardFile, ShardFileWriter
from cache.storage.files import TemporaryFile, exclusively, sync_folder, temporaries_in
from cache.writing.recovery import roll_back_shard


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes rows of one shard; nothing of them exists before `commit`.

    Maps stream to temporary files as they come; descriptors wait in memory. Leaving the block
    without a commit removes the temporaries.
    """

    def __init__(
        self,
        metadata: Metadata,
        rows: range,
        images: Sequence[ImageRecord],
        specs: Sequence[ArraySpec],
    ) -> None:
        """``images`` are those of the shard from its first row to the end of ``rows``."""
        self._metadata = metadata
        self._path = metadata.path
        self._grid = metadata.grid
        self._rows = rows
        self._shard = self._grid.shard_of(rows.start)
        self._first_row = self._shard * self._grid.shard_size
        self._images = images
        self._specs = specs
        self._encoders = {spec.name: Encoder(spec) for spec in specs}
        self._next_row = rows.start
        self._before = Commit(self._shard)
        self._quarantined: dict[str, str] = {}
        self._parts: list[ShardFileWriter | DescriptorWriter] = []
        self._computed_by: Mapping[str, Json] | None = None

    def __enter__(self) -> ShardWriter:
        self._before = read_commit(self._path, self._shard) or self._before
        self._quarantined = dict(self._before.quarantined)
        n_old = self._rows.start - self._first_row
        try:
            for array in self._zarr_arrays():
                if self._before.n_rows(array.name) < n_old:
                    raise StoreError(
                        f"shard {self._shard}: {array.name} has fewer rows than this task builds "
                        "on; ask for the pending work again"
                    )
                self._parts.append(self._started(array, n_old))
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
        """Write one image: every feature of the task, float32 arrays of its shape.

        Rows come in order. An image that was quarantined before stays quarantined. Raises
        StoreError for another row, feature, shape or dtype, and NonFiniteError for NaN,
        infinity or overflow; the row can then still be quarantined.
        """
        self._advance_to(row)
        image_id = self._image(row).id
        if features.keys() != self._encoders.keys():
            raise StoreError(
                f"{image_id}: got {', '.join(sorted(features))}, "
                f"the task needs {', '.join(sorted(self._encoders))}"
            )
        if image_id in self._quarantined:
            self._append_holes()
        else:
            records = [
                record
                for spec in self._specs
                for record in self._encoders[spec.name](features[spec.name], image_id)
            ]
            self._append(records)

    def quarantine(self, row: int, reason: str) -> None:
        """Mark an image that could not be computed; its row holds fill values."""
        self._advance_to(row)
        self._quarantined.setdefault(self._image(row).id, reason)
        self._append_holes()

    def commit(
        self,
        timings: Mapping[str, float] | None = None,
        computed_by: Mapping[str, Json] | None = None,
    ) -> bool:
        """Make the rows exist.

        Args:
            timings: seconds by name.
            computed_by: device, batch size and versions of this process.

        Returns whether this call made them exist: if another process has committed the same rows
        meanwhile, its bytes are equal and these are dropped. Raises StoreError if rows are missing.
        """
        self._computed_by = computed_by
        self._fill_quarantined(self._rows.stop)
        if self._next_row != self._rows.stop:
            raise StoreError(
                f"shard {self._shard}: rows {self._next_row} to {self._rows.stop - 1} are "
                "missing; put or quarantine every row before the commit"
            )
        for part in self._parts:
            if isinstance(part, ShardFileWriter):
                part.finish()
        return self._publish(timings or {})

    def _zarr_arrays(self) -> list[ZarrArray]:
        return [array for spec in self._specs for array in spec.zarr_arrays]

    def _image(self, row: int) -> ImageRecord:
        return self._images[row - self._first_row]

    def _started(self, array: ZarrArray, n_old: int) -> ShardFileWriter | DescriptorWriter:
        """A writer for an array; a map's new file begins with the records that exist already."""
        old_crcs = self._before.arrays[array.name].crc32c[:n_old] if n_old else ()
        if not array.sharded:
            return DescriptorWriter(array, self._grid, old_crcs)
        path = self._grid.file_of(self._path, array, self._first_row)
        writer = ShardFileWriter(path, array, self._grid.shard_size)
        try:
            if n_old:
                old = ShardFile(path, array, n_old, self._grid.shard_size)
                for slot in range(n_old):
                    writer.append(old.record(slot))
                if tuple(writer.crcs) != old_crcs:
                    raise CorruptShard(f"{path}: its records have changed; {VERIFY_HINT}")
        except BaseException:
            writer.discard()
            raise
        return writer

    def _advance_to(self, row: int) -> None:
        if row in self._rows:
            self._fill_quarantined(row)
        if row != self._next_row:
            raise StoreError(
                f"shard {self._shard}: row {row} came where row {self._next_row} of "
                f"{self._rows.start} to {self._rows.stop - 1} was due"
            )

    def _fill_quarantined(self, stop: int) -> None:
        """Skip over images that earlier work has quarantined."""
        while self._next_row < stop and self._image(self._next_row).id in self._quarantined:
            self._append_holes()

    def _append_holes(self) -> None:
        self._append([array.hole_record() for array in self._zarr_arrays()])

    def _append(self, records: Sequence[np.ndarray]) -> None:
        """Write one row's records, in the order of the arrays on disk."""
        for part, record in zip(self._parts, records, strict=True):
            part.append(record)
        self._next_row += 1

    def _publish(self, timings: Mapping[str, float]) -> bool:
        """Make the finished parts exist; False if another process has done so."""
        folder = self._metadata.folder
        return exclusively(folder, lambda _: self._put_in_place(folder, timings))

    def _put_in_place(self, folder: Path, timings: Mapping[str, float]) -> bool:
        """Descriptors, then the commit as a temporary, then the maps, then the commit itself.

        The temporary commit is there before the first map is: data without a commit is thereby
        known as interrupted work, and not mistaken for a lost commit.
        """
        current = read_commit(folder, self._shard) or Commit(self._shard)
        parts = self._missing_from(current)
        if not parts:
            return False
        maps = [part for part in parts if isinstance(part, ShardFileWriter)]
        target = commit_path(folder, self._shard)
        if temporaries_in(target.parent, target.name):
            roll_back_shard(self._metadata, self._shard)
        for part in parts:
            if isinstance(part, DescriptorWriter):
                part.patch(folder, self._rows.start)
        temporary = _written(target, self._extended(current, parts, timings).to_bytes())
        try:
            sync_folder(target.parent)
            for file in maps:
                file.publish()
            for file in maps:
                sync_folder(folder / file.array.name)
            temporary.publish()
            sync_folder(target.parent)
        finally:
            temporary.close()
        return True

    def _missing_from(self, commit: Commit) -> list[ShardFileWriter | DescriptorWriter]:
        """The parts of which nobody has committed as many rows."""
        n_rows = self._rows.stop - self._first_row
        return [part for part in self._parts if commit.n_rows(part.array.name) < n_rows]

    def _extended(
        self,
        commit: Commit,
        parts: Sequence[ShardFileWriter | DescriptorWriter],
        timings: Mapping[str, float],
    ) -> Commit:
        """A commit with these parts."""
        arrays = {part.array.name: ArrayCommit(tuple(part.crcs), part.n_bytes) for part in parts}
        return commit.extended(self._images, self._quarantined, arrays, timings, self._computed_by)

    def _discard(self) -> None:
        for part in self._parts:
            if isinstance(part, ShardFileWriter):
                part.discard()


def _written(target: Path, data: bytes) -> TemporaryFile:
    """A temporary for ``target`` with its whole content on the disk."""
    temporary = TemporaryFile(target)
    try:
        temporary.write(data)
        temporary.sync()
    except BaseException:
        temporary.discard()
        raise
    return temporary
