"""Filling one shard of a remote store: each array's part is put as one object, the commit last.

Nothing is locked. What was read is put on condition that it has not changed since, and where it
has, the publication is begun again; see `cache.storage.files.exclusively`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cache.errors import StoreError
from cache.format.checksums import crc32c_hex
from cache.format.commits import Commit, read_commit
from cache.format.descriptors import DescriptorWriter
from cache.format.layout import COMMITS, commit_path
from cache.format.shardfile import ShardFile, ShardFileWriter
from cache.storage.files import TEMPORARY_SUFFIX, exclusively
from cache.storage.remote import RemotePath
from cache.writing.shardwriter import ShardWriter


class RemoteShardWriter(ShardWriter):
    """Writes rows of one shard of a store in object storage.

    Maps stream to temporary files of this machine as they come.
    """

    def _publish(self, timings: Mapping[str, float]) -> bool:
        assert isinstance(self._path, RemotePath)
        self._versions: dict[str, str] = {}
        self._announced = self._committed = False
        announcement = self._path / COMMITS / self._announcement()
        if exclusively(self._path, lambda store: self._put(store, announcement, timings)):
            announcement.remove()
        return self._committed

    def _announcement(self) -> str:
        """A name like that of a commit's temporary, the same for the same work.

        So whoever does again what a killed process did takes its announcement away.
        """
        work = f"{self._rows.stop} {' '.join(spec.name for spec in self._specs)}"
        token = crc32c_hex(work.encode())
        return f".{commit_path(self._path, self._shard).name}.{token}{TEMPORARY_SUFFIX}"

    def _put(
        self, store: RemotePath, announcement: RemotePath, timings: Mapping[str, float]
    ) -> bool:
        """One attempt, in a transaction; whether anything was announced, now or before.

        Objects are looked at before the commit is read: one that is longer than what is put here
        comes of a commit read below, or is found to hold these records too.
        """
        maps = [part for part in self._parts if isinstance(part, ShardFileWriter)]
        places = {
            part.array.name: self._grid.file_of(store, part.array, self._first_row) for part in maps
        }
        sizes = {name: place.size() or 0 for name, place in places.items()}
        current = read_commit(store, self._shard) or Commit(self._shard)
        parts = self._missing_from(current)
        if not parts:
            # Another writer of the same rows was faster, and may have come before the announcement.
            return self._announced
        commit = self._extended(current, parts, timings).to_bytes()
        announcement.write(commit)
        self._announced = True
        for part in parts:
            place = places.get(part.array.name)
            if isinstance(part, DescriptorWriter):
                part.patch(store, self._rows.start)
            elif place is not None and sizes[part.array.name] > part.n_bytes:
                self._check_longer(place, part)
            elif place is not None and place.version() != self._versions.get(part.array.name, ""):
                self._versions[part.array.name] = part.upload(place)
        commit_path(store, self._shard).write(commit)
        self._committed = True
        return True

    def _check_longer(self, place: RemotePath, part: ShardFileWriter) -> None:
        """Another writer is about to commit more rows: leave its object, if it holds ours."""
        found = ShardFile(place, part.array, len(part.crcs), self._grid.shard_size)
        if found.crcs() != part.crcs:
            raise StoreError(
                f"{place}: another writer has put other records there, which are not committed; "
                "stop all writers and run the same command again"
            )
