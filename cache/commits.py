"""Commits: the files that say which rows of a shard exist, and what their bytes are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.checksums import Json, canonical_json, seal_holds, sealed
from cache.errors import DamagedStore
from cache.files import temporaries_in
from cache.layout import COMMITS, FORMAT_VERSION, commit_path
from cache.metadata import read_file
from cache.records import ImageRecord
from cache.shardfile import VERIFY_HINT

_COMMIT = re.compile(r"([0-9]{6,})\.json")
_TEMPORARY = re.compile(r"\.([0-9]{6,})\.json\..*")


@dataclass(frozen=True)
class ArrayCommit:
    """One array's part of a shard: its first ``len(crc32c)`` rows exist."""

    crc32c: tuple[int, ...]
    """Per row, of the record's bytes."""
    bytes: int
    """Size of the shard file; for a descriptor, of the records alone."""


@dataclass(frozen=True)
class Commit:
    """What exists of one shard. Arrays may have different numbers of rows while a store grows."""

    shard: int
    images: tuple[ImageRecord, ...] = ()
    """The images of all rows that some array has, in row order."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Image id to reason; the rows of these images hold fill values."""
    arrays: Mapping[str, ArrayCommit] = field(default_factory=dict)
    """Per array on disk, scales included."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent on the shard, by name."""

    def n_rows(self, array: str) -> int:
        """How many rows of the shard exist for an array on disk."""
        return len(self.arrays[array].crc32c) if array in self.arrays else 0

    def extended(
        self,
        images: Sequence[ImageRecord],
        quarantined: Mapping[str, str],
        arrays: Mapping[str, ArrayCommit],
        timings: Mapping[str, float],
    ) -> Commit:
        """This commit with further rows or arrays; timings add up."""
        return Commit(
            shard=self.shard,
            images=tuple(images) if len(images) > len(self.images) else self.images,
            quarantined={**self.quarantined, **quarantined},
            arrays={**self.arrays, **arrays},
            timings={
                name: self.timings.get(name, 0.0) + timings.get(name, 0.0)
                for name in self.timings.keys() | timings.keys()
            },
        )

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
        return canonical_json(sealed(document)) + b"\n"


def read_commit(store: Path, shard: int) -> Commit | None:
    """The commit of a shard; None where there is none, DamagedStore where it changed."""
    data = read_file(commit_path(store, shard))
    return None if data is None else parse_commit(data, store, shard)


def parse_commit(data: bytes, store: Path, shard: int) -> Commit:
    """Read a commit file; DamagedStore unless it is byte for byte as it was written."""
    damaged = DamagedStore(
        f"{commit_path(store, shard)}: differs from what the store wrote; {VERIFY_HINT}"
    )
    try:
        document: dict[str, Any] = json.loads(data)
        # The seal covers the content, the comparison everything around it.
        if not seal_holds(document) or canonical_json(document) + b"\n" != data:
            raise damaged
        commit = Commit(
            shard=document["shard"],
            images=tuple(ImageRecord(**image) for image in document["images"]),
            quarantined=document["quarantined"],
            arrays={
                name: ArrayCommit(tuple(int(crc, 16) for crc in array["crc32c"]), array["bytes"])
                for name, array in document["arrays"].items()
            },
            timings=document["timings"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    sizes = [len(array.crc32c) for array in commit.arrays.values()]
    fits = commit.shard == shard and document["format_version"] == FORMAT_VERSION
    if not fits or min(sizes, default=0) < 1 or max(sizes, default=0) > len(commit.images):
        raise damaged
    return commit


def shard_of_commit(name: str) -> int | None:
    """The shard whose commit has this file name; None for any other name."""
    match = _COMMIT.fullmatch(name)
    if match is None or name != f"{int(match[1]):06d}.json":
        return None
    return int(match[1])


def announced_shards(store: Path) -> list[int]:
    """Numbers of the shards that are being published, or whose publisher died on the way."""
    names = [_TEMPORARY.fullmatch(file.name) for file in temporaries_in(store / COMMITS)]
    return sorted({int(name[1]) for name in names if name})
