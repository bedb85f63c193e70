"""Tidying up after killed writers. Of a local store the caller holds the lock."""

from __future__ import annotations

from pathlib import Path

from cache.errors import DamagedStore
from cache.format.commits import Commit, announced_shards, parse_commit, read_commit
from cache.format.layout import COMMITS, commit_path
from cache.format.metadata import Metadata, nodes
from cache.storage.files import (
    is_owned,
    is_temporary,
    remove_durably,
    remove_stale_temporaries,
    temporaries_in,
)
from cache.storage.places import names_in, read_file
from cache.storage.remote import RemotePath


def roll_back(metadata: Metadata) -> None:
    """Bring a store back to what its commits say: no half-published shards, no temporaries."""
    for shard in announced_shards(metadata.folder):
        roll_back_shard(metadata, shard)
    for folder in _folders(metadata):
        remove_stale_temporaries(folder)


def forget_committed(path: RemotePath) -> None:
    """Remove the announcements of a remote store of which every row is committed.

    Their writers died between the commit and its end, or are about to remove them themselves. An
    announcement of anything else stays: nobody can tell whether its writer lives, and whoever does
    its work again takes it away.
    """
    for name in filter(is_temporary, names_in(path / COMMITS)):
        place = path / COMMITS / name
        for shard in announced_shards(path, [name]):
            data = read_file(place)
            if data is None:
                continue
            try:
                announced = parse_commit(data, path, shard)
            except DamagedStore:
                continue  # Said by whoever verifies the store.
            current = read_commit(path, shard) or Commit(shard)
            if all(current.n_rows(array) >= announced.n_rows(array) for array in announced.arrays):
                place.remove()


def stale_files(metadata: Metadata) -> list[Path]:
    """What `roll_back` would remove; asked without the lock, so others may be at work."""
    stale = [
        file
        for folder in _folders(metadata)
        for file in temporaries_in(folder)
        if not is_owned(file)
    ]
    dead = set(announced_shards(metadata.folder, [file.name for file in stale]))
    return stale + [file for shard in sorted(dead) for file in _uncommitted_files(metadata, shard)]


def roll_back_shard(metadata: Metadata, shard: int) -> None:
    """Undo a publication that stopped between its first file and its commit.

    Shard files without a commit are removed, then the temporary commit that announced them.
    A file that has a commit may hold more rows than it lists; those do no harm and stay.
    """
    for file in _uncommitted_files(metadata, shard):
        remove_durably(file)
    target = commit_path(metadata.folder, shard)
    remove_stale_temporaries(target.parent, target.name)


def _uncommitted_files(metadata: Metadata, shard: int) -> list[Path]:
    """Shard files of the arrays for which the shard's commit lists no row."""
    path, grid = metadata.folder, metadata.grid
    commit = read_commit(path, shard) or Commit(shard)
    files = [
        grid.file_of(path, document.array, shard * grid.shard_size)
        for document in metadata.documents.values()
        if document.array.sharded and not commit.n_rows(document.array.name)
    ]
    return [file for file in files if file.exists()]


def _folders(metadata: Metadata) -> list[Path]:
    """Every folder of the store that may hold temporaries."""
    path = metadata.folder
    return [path, path / COMMITS, *(path / name for name, _ in nodes(path))]
