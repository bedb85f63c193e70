"""Tidying up after killed writers. The caller holds the store's lock."""

from __future__ import annotations

from cache.commits import Commit, announced_shards, read_commit
from cache.files import remove_stale_temporaries, sync_folder
from cache.layout import COMMITS, commit_path
from cache.metadata import Metadata, nodes


def roll_back(metadata: Metadata) -> None:
    """Bring a store back to what its commits say: no half-published shards, no temporaries."""
    path = metadata.path
    for shard in announced_shards(path):
        roll_back_shard(metadata, shard)
    folders = [path, path / COMMITS, *(path / name for name, _ in nodes(path))]
    for folder in folders:
        remove_stale_temporaries(folder)


def roll_back_shard(metadata: Metadata, shard: int) -> None:
    """Undo a publication that stopped between its first file and its commit.

    Shard files without a commit are removed, then the temporary commit that announced them.
    A file that has a commit may hold more rows than it lists; those do no harm and stay.
    """
    path, grid = metadata.path, metadata.grid
    commit = read_commit(path, shard) or Commit(shard)
    for document in metadata.documents.values():
        array = document.array
        if array.sharded and not commit.n_rows(array.name):
            file = grid.file_of(path, array, shard * grid.shard_size)
            if file.exists():
                file.unlink()
                sync_folder(file.parent)
    target = commit_path(path, shard)
    remove_stale_temporaries(target.parent, target.name)
