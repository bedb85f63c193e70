"""Reading a store: image ids in, tensors out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from cache.errors import (
    VERIFY_HINT,
    CorruptShard,
    NotCommitted,
    QuarantinedImage,
    RecipeMismatch,
    StoreError,
    UnknownImage,
)
from cache.format.checksums import Json, canonical_json, crc32c_of
from cache.format.commits import Commit, read_commit, read_commits
from cache.format.encoding import Dequantiser
from cache.format.layout import ArraySpec, ZarrArray
from cache.format.metadata import Metadata, read_metadata
from cache.format.recipe import Recipe
from cache.format.records import ImageRecord
from cache.reading.mapped import MappedRecords, Wanted
from cache.reading.ranged import RangedRecords
from cache.reading.threads import shared, threads_for
from cache.storage.places import store_path
from cache.storage.remote import RemotePath, StorePath


class FeatureStore:
    """A store opened for reading.

    What it lists is the store as it was when opened; what exists of a shard is what existed when
    the shard was first touched. Open it again to see later work. Reading is safe from several
    threads.
    """

    def __init__(self, metadata: Metadata) -> None:
        """Use `open`."""
        self.path = metadata.path
        """The store's folder, or its place in object storage."""
        self.recipe = metadata.root.recipe
        """What the features were computed with."""
        self.fingerprint = metadata.root.fingerprint
        """The recipe's fingerprint."""
        self.provenance = metadata.root.provenance
        """What made the store: device, versions and the like."""
        self.arrays: Mapping[str, ArraySpec] = metadata.specs
        """The features by name."""
        self.shard_size = metadata.root.shard_size
        """Images per shard."""
        self.ids: list[str] = [row["id"] for row in metadata.images.rows]
        """Image ids in row order."""
        self._metadata = metadata
        self._grid = metadata.grid
        self._row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        self._zarr_arrays = {name: spec.zarr_arrays for name, spec in self.arrays.items()}
        self._commits: dict[int, Commit] = {}
        self._files: MappedRecords | RangedRecords = (
            RangedRecords(self.path, self._grid)
            if isinstance(self.path, RemotePath)
            else MappedRecords(self.path, self._grid)
        )

    @classmethod
    def open(cls, path: str | StorePath, recipe: Recipe | None = None) -> FeatureStore:
        """Open a store; with ``recipe``, only if it was made with just this one.

        Raises NotAStore, DamagedStore, or RecipeMismatch naming the fields that differ.
        """
        metadata = read_metadata(store_path(path))
        differences = metadata.root.recipe.differences(recipe) if recipe else []
        if differences:
            raise RecipeMismatch(
                f"{path}: made with another recipe ({'; '.join(differences)}); "
                "precompute a store for this one"
            )
        return cls(metadata)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row_of

    @cached_property
    def images(self) -> list[ImageRecord]:
        """The images in row order."""
        return self._metadata.images.records()

    @cached_property
    def quarantined(self) -> dict[str, str]:
        """Image id to reason, for every image that could not be computed."""
        return {
            image_id: reason
            for commit in self._all_commits()
            for image_id, reason in commit.quarantined.items()
        }

    @cached_property
    def committed(self) -> dict[str, np.ndarray]:
        """Per feature a bool array [N]: the rows that exist, quarantined ones included."""
        masks = {name: np.zeros(len(self), bool) for name in self.arrays}
        for commit in self._all_commits():
            start = commit.shard * self.shard_size
            for name, mask in masks.items():
                mask[start : start + commit.n_rows(name)] = True
        return masks

    @cached_property
    def computed_by(self) -> list[tuple[Mapping[str, Json], int]]:
        """Device, batch size and versions of what computed, each with its number of shards.

        Shards that were committed before this was recorded, or imported, are not in it.
        """
        counts: dict[bytes, int] = {}
        for commit in self._all_commits():
            for machine in map(canonical_json, map(dict, commit.computed_by)):
                counts[machine] = counts.get(machine, 0) + 1
        return [(json.loads(machine), n_shards) for machine, n_shards in sorted(counts.items())]

    def readable(self, arrays: Iterable[str]) -> list[str]:
        """Ids, in row order, of the images that `read` gives all these features of."""
        complete = np.ones(len(self), bool)
        for name in arrays:
            complete &= self.committed[self._spec(name).name]
        rows = np.flatnonzero(complete).tolist()
        return [self.ids[row] for row in rows if self.ids[row] not in self.quarantined]

    def read(
        self,
        ids: Sequence[str],
        arrays: Sequence[str],
        out: Mapping[str, torch.Tensor] | None = None,
        check: bool = False,
        pin: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Read features of images: [B, C, H, W] or [B, D] by name, in the order of ``ids``.

        The dtype is the stored one, float32 for int8. Tensors in ``out`` (contiguous, on the
        CPU, at least B long) are filled and their first B rows returned; others are new, and
        page-locked with ``pin``, which a CUDA card can copy from by itself. ``check`` compares
        every record with its checksum, which is always done for a remote store. Raises
        UnknownImage, NotCommitted, QuarantinedImage, CorruptShard, or StoreError for an unknown
        feature or an unfit buffer.
        """
        places = [self._place(image_id) for image_id in ids]
        # Everything is looked up before anything is copied: copying a megabyte leaves nothing else
        # in the processor's caches, and what comes after it takes several times as long.
        specs = [self._spec(name) for name in arrays]
        for spec in specs:
            for place in places:
                self._refuse_unreadable(spec, *place)
        wanted: list[Wanted] = [
            (array, commit, slot)
            for spec in specs
            for commit, slot in places
            for array in self._zarr_arrays[spec.name]
        ]
        records = self._files.records(wanted)
        result = {
            spec.name: _buffer(spec, len(places), out.get(spec.name) if out else None, pin)
            for spec in specs
        }
        # Beside a network the checksum costs nothing.
        check = check or isinstance(self._files, RangedRecords)
        given = iter(zip(records, wanted, strict=True))
        rows = [
            (spec, target, [next(given) for _ in self._zarr_arrays[spec.name]])
            for spec in specs
            for target in result[spec.name].numpy()
        ]

        def fill(row: tuple[ArraySpec, np.ndarray, list[tuple[np.ndarray, Wanted]]]) -> None:
            spec, target, found = row
            if check:
                for record, source in found:
                    self._check(record, *source)
            if spec.dtype != "int8":
                np.copyto(target, found[0][0])

        shared(fill, rows, threads_for(sum(record.nbytes for record in records)))
        # Widened in this thread, by torch, which has threads of its own.
        dequantise = {spec.name: Dequantiser(spec.shape) for spec in specs if spec.dtype == "int8"}
        for spec, target, found in rows:
            if spec.dtype == "int8":
                (values, _), (scale, _) = found
                dequantise[spec.name](values, scale, out=target)
        return result

    def _place(self, image_id: str) -> tuple[Commit, int]:
        try:
            row = self._row_of[image_id]
        except KeyError:
            raise UnknownImage(
                f"{self.path}: no image {image_id}; precompute it into this store first"
            ) from None
        shard, slot = divmod(row, self.shard_size)
        return self._commit(shard), slot

    def _spec(self, name: str) -> ArraySpec:
        try:
            return self.arrays[name]
        except KeyError:
            raise StoreError(
                f"{self.path}: no array {name}; it holds {', '.join(self.arrays)}"
            ) from None

    def _refuse_unreadable(self, spec: ArraySpec, commit: Commit, slot: int) -> None:
        image_id = self.ids[commit.shard * self.shard_size + slot]
        if slot >= commit.n_rows(spec.name):
            raise NotCommitted(
                f"{self.path}: {spec.name} of {image_id} is not computed yet; run the "
                "same precompute again to finish the store"
            )
        if image_id in commit.quarantined:
            raise QuarantinedImage(
                f"{self.path}: {image_id} is quarantined "
                f"({commit.quarantined[image_id]}); leave it out "
                "(a repaired file needs a new store)"
            )

    def _check(self, record: np.ndarray, array: ZarrArray, commit: Commit, slot: int) -> None:
        if crc32c_of(record) != commit.arrays[array.name].crc32c[slot]:
            row = commit.shard * self.shard_size + slot
            path = self._grid.file_of(self.path, array, row)
            raise CorruptShard(
                f"{path}: the record of {self.ids[row]} does not fit its checksum; {VERIFY_HINT}"
            )

    def _commit(self, shard: int) -> Commit:
        commit = self._commits.get(shard)
        if commit is None:
            commit = read_commit(self.path, shard) or Commit(shard)
            self._commits[shard] = commit
        return commit

    def _all_commits(self) -> list[Commit]:
        shards = range(self._grid.n_shards(len(self)))
        new = [shard for shard in shards if shard not in self._commits]
        self._commits |= {commit.shard: commit for commit in read_commits(self.path, new)}
        return [self._commits[shard] for shard in shards]


def _buffer(spec: ArraySpec, n_images: int, given: torch.Tensor | None, pin: bool) -> torch.Tensor:
    """A tensor [n_images, ...] for a feature: the caller's, or a new one."""
    dtype = torch.float16 if spec.dtype == "float16" else torch.float32
    if given is None:
        return torch.empty((n_images, *spec.shape), dtype=dtype, pin_memory=pin)
    # Asked of numpy where it can be: its attributes are there at once, torch's are looked up.
    fits = given.dtype == dtype and given.is_cpu
    if fits:
        view = given.numpy()
        fits = view.shape[1:] == spec.shape and len(view) >= n_images and view.flags["C_CONTIGUOUS"]
    if not fits:
        raise StoreError(
            f"buffer for {spec.name}: needs contiguous CPU {dtype} of shape "
            f"({n_images} or more, {', '.join(map(str, spec.shape))})"
        )
    return given if len(view) == n_images else given[:n_images]
