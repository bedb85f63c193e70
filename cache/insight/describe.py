"""What a store holds, in numbers: for people who look, not for programs that read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cache.errors import NotAStore, StoreError
from cache.format.checksums import Json
from cache.reading.reader import FeatureStore
from cache.storage.places import folder_bytes, folders_in, names_in, store_path
from cache.storage.remote import RemotePath, StorePath


@dataclass(frozen=True)
class ArrayDescription:
    """One feature of a store."""

    shape: tuple[int, ...]
    """Per image."""
    dtype: str
    n_images: int
    """Images that have it, or are quarantined."""
    bytes_on_disk: int
    """Size of its files, scales included."""


@dataclass(frozen=True)
class StoreDescription:
    """A store in numbers."""

    path: StorePath
    fingerprint: str
    recipe: dict[str, Json]
    provenance: dict[str, Json]
    """What made the store: device, versions and the like."""
    computed_by: list[dict[str, Json]]
    """What computed its shards: device, batch size and versions, and `shards`, how many."""
    shard_size: int
    """Images per shard."""
    n_images: int
    n_committed: int
    """Images that have every feature of the store, or are quarantined."""
    quarantined: dict[str, str]
    """Image id to reason."""
    arrays: dict[str, ArrayDescription]
    """Features by name."""
    bytes_on_disk: int
    """Size of all files of the store."""


def describe_store(path: str | StorePath) -> StoreDescription:
    """Describe a store. Raises StoreError where there is none or its metadata is damaged."""
    place = store_path(path)
    store = FeatureStore.open(place)
    committed = store.committed
    complete = np.logical_and.reduce([np.ones(len(store), bool), *committed.values()])
    arrays = {
        name: ArrayDescription(
            shape=spec.shape,
            dtype=spec.dtype,
            n_images=int(committed[name].sum()),
            bytes_on_disk=sum(folder_bytes(place / array.name) for array in spec.zarr_arrays),
        )
        for name, spec in store.arrays.items()
    }
    return StoreDescription(
        path=place,
        fingerprint=store.fingerprint,
        recipe=dict(store.recipe.fields),
        provenance=store.provenance,
        computed_by=[{**machine, "shards": shards} for machine, shards in store.computed_by],
        shard_size=store.shard_size,
        n_images=len(store),
        n_committed=int(complete.sum()),
        quarantined=store.quarantined,
        arrays=arrays,
        bytes_on_disk=folder_bytes(place),
    )


@dataclass(frozen=True)
class StoreListing:
    """The stores of a folder."""

    stores: list[StoreDescription]
    """By path."""
    damaged: dict[str, str]
    """Path of a store that cannot be described to the reason, one line that names the file."""


def list_stores(folder: str | StorePath) -> StoreListing:
    """Describe the folder itself, if it is a store, or else the stores directly inside it.

    Other folders are passed over. Raises StoreError where there is no such folder.
    """
    place = store_path(folder)
    if not (names_in(place) if isinstance(place, RemotePath) else place.is_dir()):
        raise StoreError(f"{place}: no such folder")
    listing = StoreListing([], {})
    if not _add_store(listing, place):
        if isinstance(place, RemotePath):
            names = folders_in(place)
        else:
            names = [child.name for child in place.iterdir() if child.is_dir()]
        for name in sorted(names):
            _add_store(listing, place / name)
    return listing


def _add_store(listing: StoreListing, path: StorePath) -> bool:
    """List a folder if it is a store, sound or not; whether it is one."""
    try:
        listing.stores.append(describe_store(path))
    except NotAStore:
        return False
    except StoreError as error:
        listing.damaged[str(path)] = str(error)
    return True
