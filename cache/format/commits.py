"""Commits: the files that say which rows of a shard exist, and what their bytes are."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from cache.errors import VERIFY_HINT, DamagedStore
from cache.format.checksums import SEAL, Json, canonical_json, crc32c_hex, sealed
from cache.format.layout import COMMITS, FORMAT_VERSION, commit_path
from cache.format.records import RECORD_TYPES, ImageRecord, have_record_types
from cache.storage.files import is_temporary
from cache.storage.places import names_in, read_file, read_files
from cache.storage.remote import StorePath

_SORTED_KEYS = tuple(sorted(RECORD_TYPES))
_COMMIT = re.compile(r"([0-9]{6,})\.json")
_TEMPORARY = re.compile(r"\.([0-9]{6,})\.json\..*")
_SEAL_PIECE = re.compile(rb'"%s":"([0-9a-f]{8})",' % SEAL.encode())


@dataclass(frozen=True)
class ArrayCommit:
    """One array's part of a shard: its first ``len(crc32c)`` rows exist."""

    crc32c: tuple[int, ...]
    """Per row, of the record's bytes."""
    bytes: int
    """Size of the shard file; for a descriptor, of the records alone."""


class ImageRows(Sequence[ImageRecord]):
    """The images of a commit as they were read; records are made when they are looked at.

    A store of 300,000 images is opened by reading all its commits, and nobody looks at most.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        """Raises TypeError where a row is not an image record."""
        # Canonical JSON sorts keys, so all rows have them in one order; asked of all at once.
        if not set(map(tuple, rows)) <= {_SORTED_KEYS} or not have_record_types(rows):
            raise TypeError("not an image record")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        if isinstance(index, slice):
            return [ImageRecord(**row) for row in self._rows[index]]
        return ImageRecord(**self._rows[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[ImageRecord]:
        return (ImageRecord(**row) for row in self._rows)


@dataclass(frozen=True)
class Commit:
    """What exists of one shard. Arrays may have different numbers of rows while a store grows."""

    shard: int
    images: Sequence[ImageRecord] = ()
    """The images of all rows that some array has, in row order."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Image id to reason; the rows of these images hold fill values."""
    arrays: Mapping[str, ArrayCommit] = field(default_factory=dict)
    """Per array on disk, scales included."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent on the shard, by name."""
    computed_by: Sequence[Mapping[str, Json]] = ()
    """Device, batch size and versions of each process that filled rows; equal ones once."""

    def n_rows(self, array: str) -> int:
        """How many rows of the shard exist for an array on disk."""
        return len(self.arrays[array].crc32c) if array in self.arrays else 0

    def extended(
        self,
        images: Sequence[ImageRecord],
        quarantined: Mapping[str, str],
        arrays: Mapping[str, ArrayCommit],
        timings: Mapping[str, float],
        computed_by: Mapping[str, Json] | None = None,
    ) -> Commit:
        """This commit with further rows or arrays; timings add up."""
        new = [] if not computed_by or computed_by in self.computed_by else [computed_by]
        return Commit(
            shard=self.shard,
            images=tuple(images) if len(images) > len(self.images) else self.images,
            quarantined={**self.quarantined, **quarantined},
            arrays={**self.arrays, **arrays},
            timings={
                name: self.timings.get(name, 0.0) + timings.get(name, 0.0)
                for name in self.timings.keys() | timings.keys()
            },
            computed_by=[*self.computed_by, *new],
        )

    def without(self, names: Collection[str]) -> Commit:
        """This commit without some arrays, and without images that no other array has."""
        arrays = {name: array for name, array in self.arrays.items() if name not in names}
        images = self.images[: max((len(array.crc32c) for array in arrays.values()), default=0)]
        ids = {image.id for image in images}
        quarantined = {name: why for name, why in self.quarantined.items() if name in ids}
        return Commit(self.shard, images, quarantined, arrays, self.timings, self.computed_by)

    def to_bytes(self) -> bytes:
        """The commit file: one line of canonical JSON with its own checksum."""
        document: dict[str, Json] = {
            "format_version": FORMAT_VERSION,
            "shard": self.shard,
            "images": [dict(vars(image)) for image in self.images],
            "quarantined": dict(self.quarantined),
            "arrays": {
                name: {"bytes": array.bytes, "crc32c": [f"{crc:08x}" for crc in array.crc32c]}
                for name, array in self.arrays.items()
            },
            "timings": dict(self.timings),
        }
        if self.computed_by:
            document["computed_by"] = [dict(machine) for machine in self.computed_by]
        return canonical_json(sealed(document)) + b"\n"


def read_commit(store: StorePath, shard: int) -> Commit | None:
    """The commit of a shard; None where there is none, DamagedStore where it changed."""
    data = read_file(commit_path(store, shard))
    return None if data is None else parse_commit(data, store, shard)


def read_commits(store: StorePath, shards: Iterable[int]) -> Iterator[Commit]:
    """The commits of shards in turn, empty ones where there are none."""
    numbers = list(shards)
    documents = read_files([commit_path(store, shard) for shard in numbers])
    for shard, data in zip(numbers, documents, strict=True):
        yield Commit(shard) if data is None else parse_commit(data, store, shard)


def parse_commit(data: bytes, store: StorePath, shard: int) -> Commit:
    """Read a commit file; DamagedStore unless it is byte for byte as it was written."""
    damaged = DamagedStore(
        f"{commit_path(store, shard)}: differs from what the store wrote; {VERIFY_HINT}"
    )
    try:
        if not _seal_fits(data):
            raise damaged
        document: dict[str, Any] = json.loads(data)
        commit = Commit(
            shard=document["shard"],
            images=ImageRows(document["images"]),
            quarantined=document["quarantined"],
            arrays={
                name: ArrayCommit(_crcs(array["crc32c"]), array["bytes"])
                for name, array in document["arrays"].items()
            },
            timings=document["timings"],
            computed_by=document.get("computed_by", ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise damaged from error
    sizes = [len(array.crc32c) for array in commit.arrays.values()]
    fits = commit.shard == shard and document.get("format_version") == FORMAT_VERSION
    if not fits or min(sizes, default=0) < 1 or max(sizes, default=0) > len(commit.images):
        raise damaged
    if not _is_plain(commit):
        raise damaged
    return commit


def _seal_fits(data: bytes) -> bool:
    """Whether a commit file without its checksum has this checksum.

    Before it was sealed it was canonical JSON, so what is left over is just what was sealed, byte
    for byte, and need not be made again from the content, which takes four times as long. Nothing
    before the seal can look like it: array names hold no quotes.
    """
    seal = _SEAL_PIECE.search(data)
    if seal is None or not data.endswith(b"\n"):
        return False
    return crc32c_hex(data[: seal.start()] + data[seal.end() : -1]) == seal[1].decode()


def _crcs(digits: Sequence[str]) -> tuple[int, ...]:
    return struct.unpack(f">{len(digits)}I", bytes.fromhex("".join(digits)))


def _is_plain(commit: Commit) -> bool:
    """Whether every value is of its type: a seal is a checksum, anybody can make one."""
    return (
        type(commit.shard) is int
        and isinstance(commit.quarantined, dict)
        and all(isinstance(reason, str) for reason in commit.quarantined.values())
        and all(type(array.bytes) is int for array in commit.arrays.values())
        and isinstance(commit.timings, dict)
        and all(type(seconds) in (int, float) for seconds in commit.timings.values())
        and isinstance(commit.computed_by, list | tuple)
        and all(isinstance(machine, dict) for machine in commit.computed_by)
    )


def shard_of_commit(name: str) -> int | None:
    """The shard whose commit has this file name; None for any other name."""
    match = _COMMIT.fullmatch(name)
    if match is None or name != f"{int(match[1]):06d}.json":
        return None
    return int(match[1])


def announced_shards(store: StorePath, temporaries: Iterable[str] | None = None) -> list[int]:
    """Numbers of the shards that are being published, or whose publisher died on the way.

    They are told by names of commits' temporaries: all that are there, unless some are given.
    """
    if temporaries is None:
        temporaries = filter(is_temporary, names_in(store / COMMITS))
    names = [_TEMPORARY.fullmatch(name) for name in temporaries]
    return sorted({int(name[1]) for name in names if name})
