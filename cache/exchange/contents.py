"""What an export holds, whatever its format: a description, the images, their records.

Rows of an export are images that have features. Quarantined ones are in the description, with
their place among the others, so that an import puts every image back into its row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from cache.errors import VERIFY_HINT, CorruptShard, StoreError
from cache.format.checksums import Json, crc32c_of
from cache.format.commits import Commit, read_commit
from cache.format.layout import MAX_SHARD_SIZE, ArraySpec, ZarrArray
from cache.format.metadata import Metadata, is_image_row, read_metadata
from cache.format.recipe import Recipe
from cache.format.records import ImageRecord
from cache.format.shardfile import DescriptorFile, ShardFile
from cache.storage.remote import StorePath

FORMAT = "sketchfusion features"
EXPORT_VERSION = 1

Records = Mapping[str, np.ndarray]
"""One image's part of every array, scales included, as the store holds it."""

_CRC = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class ExportedImage:
    """An image of an export, and what its records must be."""

    image: ImageRecord
    crc32c: Mapping[str, int]
    """Per array, scales included, of the record's bytes."""

    def to_line(self) -> str:
        """ASCII JSON: a line of ``images.jsonl`` with the checksums added."""
        crcs = {name: f"{crc:08x}" for name, crc in self.crc32c.items()}
        return json.dumps({**vars(self.image), "crc32c": crcs})

    @classmethod
    def from_line(cls, line: str | bytes, where: str) -> ExportedImage:
        """Read such a line; StoreError, beginning with ``where``, for anything else."""
        row = parse_json(line, where)
        crcs = row.pop("crc32c", None) if isinstance(row, dict) else None
        if not isinstance(crcs, dict) or not all(
            isinstance(crc, str) and _CRC.fullmatch(crc) for crc in crcs.values()
        ):
            raise StoreError(f"{where}: not an image with checksums")
        return cls(_image(row, where), {name: int(crc, 16) for name, crc in crcs.items()})


@dataclass(frozen=True)
class QuarantinedImage:
    """An image without features."""

    row: int
    """Its place among all images of the export."""
    image: ImageRecord
    reason: str


@dataclass(frozen=True)
class Description:
    """What every format holds beside images and records."""

    layout: str
    """How the rest is laid out: `hdf5`, `hdf5-images`, `webdataset` or `npy`."""
    recipe: Recipe
    provenance: dict[str, Json]
    """What made the store."""
    shard_size: int
    """Images per shard of the store."""
    arrays: dict[str, ArraySpec]
    """The features by name."""
    n_images: int
    """Images with features."""
    quarantined: tuple[QuarantinedImage, ...]
    """In row order."""

    @property
    def zarr_arrays(self) -> dict[str, ZarrArray]:
        """By name, scales included: the keys of `Records`."""
        arrays = [array for spec in self.arrays.values() for array in spec.zarr_arrays]
        return {array.name: array for array in arrays}

    def to_json(self) -> dict[str, Json]:
        """The description as plain JSON."""
        return {
            "format": FORMAT,
            "format_version": EXPORT_VERSION,
            "layout": self.layout,
            "fingerprint": self.recipe.fingerprint,
            "recipe": dict(self.recipe.fields),
            "provenance": self.provenance,
            "shard_size": self.shard_size,
            "n_images": self.n_images,
            "arrays": {
                spec.name: {"shape": list(spec.shape), "dtype": spec.dtype}
                for spec in self.arrays.values()
            },
            "quarantined": [
                {"row": image.row, **vars(image.image), "reason": image.reason}
                for image in self.quarantined
            ],
        }

    @classmethod
    def from_json(cls, document: Any, where: str) -> Description:
        """Read a description; StoreError, beginning with ``where``, unless all of it makes sense.

        A stranger may have written it.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StoreError(f"{where}: not an export of a feature store")
        if document.get("format_version") != EXPORT_VERSION:
            raise StoreError(
                f"{where}: export version {document.get('format_version')}, this program reads "
                f"{EXPORT_VERSION}; use the version that wrote it"
            )
        try:
            described = cls(
                layout=_of_type(str, document["layout"]),
                recipe=Recipe.recorded(_of_type(dict, document["recipe"]), document["provenance"]),
                provenance=_of_type(dict, document["provenance"]),
                shard_size=_of_type(int, document["shard_size"]),
                arrays={
                    name: ArraySpec(
                        name,
                        tuple(_of_type(int, size) for size in array["shape"]),
                        _of_type(str, array["dtype"]),
                    )
                    for name, array in document["arrays"].items()
                },
                n_images=_of_type(int, document["n_images"]),
                quarantined=tuple(_quarantined(row, where) for row in document["quarantined"]),
            )
            same_recipe = described.recipe.fingerprint == document["fingerprint"]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise StoreError(f"{where}: its description makes no sense ({error!r})") from error
        except StoreError as error:
            raise StoreError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
        if not same_recipe:
            raise StoreError(f"{where}: the fingerprint is not that of its recipe")
        rows = [image.row for image in described.quarantined]
        n_all = described.n_images + len(rows)
        if (
            described.n_images < 0
            or not described.arrays
            or described.shard_size not in range(1, MAX_SHARD_SIZE + 1)
            or rows != sorted(set(rows))
            or any(row not in range(n_all) for row in rows)
        ):
            raise StoreError(f"{where}: its description contradicts itself")
        return described


class Contents:
    """What is exported of a store: for chosen features, the images that have all of them."""

    def __init__(
        self, path: StorePath, layout: str, patterns: Sequence[str] = (), descriptors: bool = False
    ) -> None:
        """Choose features by names or globs (default: all), or of these only descriptors [N, D].

        Raises StoreError where there is no store or none of its features is chosen.
        """
        self._metadata: Metadata = read_metadata(path)
        root = self._metadata.root
        arrays = _chosen(self._metadata, patterns, descriptors)
        self._n_rows: list[int] = []
        quarantined: list[QuarantinedImage] = []
        n_all = 0
        names = [array.name for spec in arrays.values() for array in spec.zarr_arrays]
        for shard in range(self._metadata.grid.n_shards(len(self._metadata.images))):
            commit = read_commit(path, shard) or Commit(shard)
            n_rows = min(commit.n_rows(name) for name in names)
            self._n_rows.append(n_rows)
            quarantined += [
                QuarantinedImage(n_all + slot, image, commit.quarantined[image.id])
                for slot, image in enumerate(commit.images[:n_rows])
                if image.id in commit.quarantined
            ]
            n_all += n_rows
        self.description = Description(
            layout=layout,
            recipe=root.recipe,
            provenance=root.provenance,
            shard_size=root.shard_size,
            arrays=arrays,
            n_images=n_all - len(quarantined),
            quarantined=tuple(quarantined),
        )
        self.n_unfinished = len(self._metadata.images) - n_all
        """Images left out because some feature of theirs is not computed yet."""

    def rows(self) -> Iterator[tuple[ExportedImage, Records]]:
        """Images with their records, in row order; these are views, valid until the next one.

        Every record is compared with its commit: CorruptShard where it has changed.
        """
        arrays = self.description.zarr_arrays.values()
        for shard, n_rows in enumerate(self._n_rows):
            if not n_rows:
                continue
            commit = read_commit(self._metadata.path, shard) or Commit(shard)
            files = {array.name: self._open(array, commit, n_rows) for array in arrays}
            for slot, image in enumerate(commit.images[:n_rows]):
                if image.id in commit.quarantined:
                    continue
                records = {name: file.record(slot) for name, file in files.items()}
                crcs = {name: commit.arrays[name].crc32c[slot] for name in records}
                exported = ExportedImage(image, crcs)
                check_records(exported, records, str(self._metadata.path), VERIFY_HINT)
                yield exported, records

    def _open(self, array: ZarrArray, commit: Commit, n_rows: int) -> ShardFile | DescriptorFile:
        path, grid = self._metadata.path, self._metadata.grid
        first_row = commit.shard * grid.shard_size
        file = grid.file_of(path, array, first_row)
        if commit.n_rows(array.name) < n_rows:
            raise CorruptShard(f"{file}: its commit has gone; {VERIFY_HINT}")
        if array.sharded:
            return ShardFile(file, array, n_rows, grid.shard_size)
        return DescriptorFile(file, array, first_row % grid.chunk_rows, grid.chunk_rows)


def check_records(exported: ExportedImage, records: Records, where: str, advice: str) -> None:
    """CorruptShard unless every record is the one that was committed to the store."""
    for name, record in records.items():
        if crc32c_of(record) != exported.crc32c.get(name):
            raise CorruptShard(
                f"{where}: {name} of {exported.image.id} does not fit its checksum; {advice}"
            )


def unicode_id(image_id: str) -> str:
    r"""An id as valid Unicode: bytes of a file name that are none become ``\udc..``."""
    return image_id.encode("utf-8", "backslashreplace").decode()


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse a stranger's JSON; StoreError, beginning with ``where``, where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON ({type(error).__name__})") from error


def _chosen(metadata: Metadata, patterns: Sequence[str], descriptors: bool) -> dict[str, ArraySpec]:
    names = chosen_names(metadata.specs, patterns, metadata.path)
    specs = {name: metadata.specs[name] for name in names}
    if descriptors:
        specs = {name: spec for name, spec in specs.items() if len(spec.shape) == 1}
    if not specs:
        kind = "descriptor [N, D]" if descriptors else "array"
        raise StoreError(
            f"{metadata.path}: no such {kind}; it holds {', '.join(metadata.specs) or 'nothing'}"
        )
    return specs


def chosen_names(names: Iterable[str], patterns: Sequence[str], path: StorePath) -> list[str]:
    """Names that one of the globs fits (all, without globs), in the order of ``names``.

    Raises StoreError for a glob that fits none.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise StoreError(f"{path}: no array {pattern}; it holds {', '.join(names)}")
    return [
        name
        for name in names
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _of_type(kind: type, value: Any) -> Any:
    """The value, if it is of this very type: True is no number here."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value


def _quarantined(row: Any, where: str) -> QuarantinedImage:
    image = {key: value for key, value in row.items() if key not in ("row", "reason")}
    return QuarantinedImage(
        _of_type(int, row["row"]), _image(image, where), _of_type(str, row["reason"])
    )


def _image(row: Any, where: str) -> ImageRecord:
    if not is_image_row(row):
        raise StoreError(f"{where}: not an image record with a relative path without `..`")
    return ImageRecord(**row)
