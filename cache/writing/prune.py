"""Dropping arrays, and what killed writers left, from a store that stays sound at every moment.

An array goes shard by shard: the shard is announced as being changed, its commit replaced by one
that does not list the array, the shard file removed, the announcement taken back. So a death
leaves what a death in the middle of a publication leaves, and the next writer clears up. Chunks
of descriptors, the array's document and its folder go last.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import StoreError
from cache.format.commits import read_commit
from cache.format.layout import DOCUMENT, LOCK, SCALE_SUFFIX, ZarrArray, commit_path
from cache.format.metadata import Metadata, is_array, nodes, read_metadata
from cache.storage.files import (
    TemporaryFile,
    is_owned,
    locked,
    remove_durably,
    remove_folder,
    sync_folder,
    temporaries_in,
    write_atomically,
)
from cache.storage.places import folder_bytes
from cache.writing.recovery import roll_back, stale_files


@dataclass(frozen=True)
class PrunePlan:
    """What would be removed from a store."""

    path: Path
    bytes_by_name: Mapping[str, int]
    """Features, or files of killed writers by their path inside the store."""

    @property
    def n_bytes(self) -> int:
        """What their removal gives back."""
        return sum(self.bytes_by_name.values())


def plan_arrays(
    path: str | Path, timesteps: Collection[int] = (), names: Collection[str] = ()
) -> PrunePlan:
    """Features of these timesteps and names, with their sizes.

    A name may also be that of a group, such as ``prefix/t195``. Raises StoreError where the store
    has no such timestep or name, and where nothing would be left.
    """
    metadata = read_metadata(Path(path))
    chosen: set[str] = set()
    for timestep in timesteps:
        chosen |= _below(metadata, [f"sd/t{timestep}", f"prefix/t{timestep}"])
        if not any(f"/t{timestep}/" in name for name in chosen):
            raise StoreError(f"{path}: has no features of timestep {timestep}")
    for name in names:
        found = _below(metadata, [name])
        if not found:
            near = difflib.get_close_matches(name, metadata.specs, n=1, cutoff=0)
            raise StoreError(f"{path}: has no array {name}; the nearest is {near[0]}")
        chosen |= found
    if len(chosen) == len(metadata.specs):
        raise StoreError(f"{path}: no array would be left; delete the folder instead")
    sizes = {
        name: sum(
            folder_bytes(metadata.folder / array.name) for array in metadata.specs[name].zarr_arrays
        )
        for name in sorted(chosen)
    }
    return PrunePlan(metadata.folder, sizes)


def plan_temporaries(path: str | Path) -> PrunePlan:
    """What killed writers left: temporaries, and shard files whose commit never came."""
    metadata = read_metadata(Path(path))
    sizes = {
        file.relative_to(metadata.folder).as_posix(): file.stat().st_size
        for file in stale_files(metadata)
    }
    return PrunePlan(metadata.folder, sizes)


def prune_arrays(path: str | Path, names: Collection[str]) -> None:
    """Drop these features. Stopped at any point, it may be run again.

    Raises StoreError where a writer is at work on one of them.
    """
    path = Path(path)
    with locked(path / LOCK):
        metadata = read_metadata(path)
        roll_back(metadata)
        arrays = [
            metadata.documents[name].array
            for feature in sorted(names)
            for name in (feature, feature + SCALE_SUFFIX)
            if name in metadata.documents
        ]
        for array in arrays:
            if any(is_owned(file) for file in temporaries_in(path / array.name)):
                raise StoreError(f"{path / array.name}: a writer is at work here; stop it first")
        for shard in range(metadata.grid.n_shards(len(metadata.images))):
            _drop_from_shard(metadata, shard, arrays)
        for array in arrays:  # A map before its scales: scales alone are no feature.
            _remove_array(path, array)
        _remove_empty_groups(path)


def prune_temporaries(path: str | Path) -> None:
    """Remove what killed writers left."""
    path = Path(path)
    with locked(path / LOCK):
        roll_back(read_metadata(path))


def _below(metadata: Metadata, names: Sequence[str]) -> set[str]:
    """The features of these names, or in groups of these names."""
    return {
        feature
        for feature in metadata.specs
        for name in names
        if feature == name or feature.startswith(f"{name.rstrip('/')}/")
    }


def _drop_from_shard(metadata: Metadata, shard: int, arrays: Sequence[ZarrArray]) -> None:
    path, grid = metadata.folder, metadata.grid
    commit = read_commit(path, shard)
    if commit is None or not any(commit.n_rows(array.name) for array in arrays):
        return
    target = commit_path(path, shard)
    announcement = TemporaryFile(target)
    try:
        sync_folder(target.parent)
        rest = commit.without({array.name for array in arrays})
        if rest.arrays:
            write_atomically(target, rest.to_bytes(), f"prune-{target.name}")
        else:
            remove_durably(target)
        for array in arrays:
            if array.sharded:
                remove_durably(grid.file_of(path, array, shard * grid.shard_size))
        announcement.discard()
    finally:
        announcement.close()


def _remove_array(path: Path, array: ZarrArray) -> None:
    """Remove an array that no commit lists: its document last, then its folder."""
    folder = path / array.name
    for file in sorted(folder.iterdir()):
        if file.name != DOCUMENT:
            remove_durably(file)
    remove_durably(folder / DOCUMENT)
    remove_folder(folder)


def _remove_empty_groups(path: Path) -> None:
    """Children before their parents; those that an earlier death left, too."""
    for name, document in sorted(nodes(path), reverse=True):
        folder = path / name
        if not is_array(document) and {file.name for file in folder.iterdir()} <= {DOCUMENT}:
            remove_durably(folder / DOCUMENT)
            remove_folder(folder)
