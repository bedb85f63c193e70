"""Writing a store: what is left to compute, and a writer for each piece of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from cache.format.checksums import Json
from cache.format.commits import Commit, read_commit, read_commits
from cache.format.layout import DEFAULT_SHARD_SIZE, ArraySpec, claim_path
from cache.format.metadata import Metadata
from cache.format.recipe import Recipe
from cache.format.records import ImageRecord
from cache.storage.files import Claim
from cache.storage.places import store_path
from cache.storage.remote import RemotePath, StorePath
from cache.writing.growth import open_or_grow
from cache.writing.shardwriter import ShardWriter
from cache.writing.upload import RemoteShardWriter


@dataclass(frozen=True)
class ShardTask:
    """A piece of work: features to compute for consecutive rows of one shard."""

    shard: int
    rows: range
    """Row numbers to compute, in this order."""
    arrays: tuple[str, ...]
    """Names of the features to compute for each of them."""


class RowWriter(Protocol):
    """Where the rows of a task go, in order; nothing of them exists before the commit."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def put(self, row: int, features: Mapping[str, np.ndarray]) -> None:
        """Write one image: every feature of the task, float32 arrays of its shape."""

    def quarantine(self, row: int, reason: str) -> None:
        """Mark an image that could not be computed."""

    def commit(
        self,
        timings: Mapping[str, float] | None = None,
        computed_by: Mapping[str, Json] | None = None,
    ) -> bool:
        """Make the rows exist, unless another process has; whether this call did.

        ``timings`` are seconds by name, ``computed_by`` is what is recorded of this process.
        """


class TaskWriter(Protocol):
    """A store in which tasks are filled: for the first time, or for a repair."""

    path: StorePath
    images: list[ImageRecord]
    """All rows of the store, in order."""
    arrays: dict[str, ArraySpec]
    """Features by name."""

    def shard(self, task: ShardTask) -> RowWriter:
        """A writer for the rows of a task, to be used in a ``with`` block."""


class StoreWriter:
    """A store opened for writing, for certain images and features.

    Several processes may write one store at the same time; each shard is written whole by one of
    them, and where two take the same shard they write equal bytes.
    """

    def __init__(
        self, metadata: Metadata, images: Sequence[ImageRecord], arrays: Sequence[ArraySpec]
    ) -> None:
        """Use `open`."""
        self.path = metadata.path
        """The store's folder."""
        self.images = metadata.images.records()
        """All rows of the store, in order: more than were asked for where it had some before."""
        self.arrays = {spec.name: spec for spec in arrays}
        """The features this writer computes, by name."""
        self.recipe = metadata.root.recipe
        """The store's, which may call the same networks by other digests than were asked for."""
        self.shard_size = metadata.root.shard_size
        """Images per shard."""
        self._metadata = metadata
        self._grid = metadata.grid
        requested = {image.id for image in images}
        self._requested = [image.id in requested for image in self.images]

    @classmethod
    def open(
        cls,
        path: str | StorePath,
        recipe: Recipe,
        images: Sequence[ImageRecord],
        arrays: Sequence[ArraySpec],
        shard_size: int = DEFAULT_SHARD_SIZE,
        provenance: Mapping[str, Json] | None = None,
    ) -> StoreWriter:
        """Make a store, or grow an existing one by the images and arrays that are new to it.

        An existing store keeps its shard size and provenance. Raises RecipeMismatch naming the
        fields that differ, and StoreError where an image's bytes have changed, an array has
        another shape or dtype, or the folder holds something else.
        """
        place = store_path(path)
        metadata = open_or_grow(place, recipe, images, arrays, shard_size, provenance or {})
        return cls(metadata, images, arrays)

    def pending(self) -> list[ShardTask]:
        """The work left for the images and features asked for, in shard order.

        A shard with both new rows and new arrays gives one task for each combination. Rows that
        were not asked for, but come before one that was, are part of it: rows have no gaps.
        """
        shards = range(self._grid.n_shards(len(self.images)))
        rows_of = {shard: rows for shard in shards if (rows := self._requested_rows(shard))}
        commits = read_commits(self.path, rows_of)
        return [task for commit in commits for task in self._missing(commit, rows_of[commit.shard])]

    def requested_rows(self, shards: Callable[[int], bool] = lambda shard: True) -> list[int]:
        """Rows of the images that this writer was opened for, in the shards that are chosen."""
        return [
            row
            for row, requested in enumerate(self._requested)
            if requested and shards(row // self.shard_size)
        ]

    def claim(self, shard: int) -> Claim | None:
        """Say that this process computes a shard; None if another one does so.

        Only a local store has claims: object storage has no locks that end with their process.
        """
        return Claim.take(claim_path(self._metadata.folder, shard))

    @property
    def has_claims(self) -> bool:
        """Whether `claim` works here."""
        return not isinstance(self.path, RemotePath)

    def is_committed(self, task: ShardTask) -> bool:
        """Whether another process has committed the task's rows since it was listed."""
        commit = read_commit(self.path, task.shard) or Commit(task.shard)
        n_rows = task.rows.stop - task.shard * self.shard_size
        return all(commit.n_rows(name) >= n_rows for name in task.arrays)

    def shard(self, task: ShardTask) -> ShardWriter:
        """A writer for the rows of a task, to be used in a ``with`` block."""
        kind = RemoteShardWriter if isinstance(self.path, RemotePath) else ShardWriter
        return kind(
            self._metadata,
            task.rows,
            self.images[task.shard * self.shard_size : task.rows.stop],
            [self.arrays[name] for name in task.arrays],
        )

    def _requested_rows(self, shard: int) -> range:
        """The shard's rows up to the last one asked for."""
        rows = self._grid.rows_of(shard, len(self.images))
        requested = [row for row in rows if self._requested[row]]
        return range(rows.start, requested[-1] + 1) if requested else range(0)

    def _missing(self, commit: Commit, rows: range) -> list[ShardTask]:
        names_by_start = defaultdict(list)
        for name in self.arrays:
            names_by_start[rows.start + commit.n_rows(name)].append(name)
        tasks = []
        for start, names in sorted(names_by_start.items()):
            missing = range(start, rows.stop)
            if missing:
                tasks.append(ShardTask(commit.shard, missing, tuple(names)))
        return tasks
