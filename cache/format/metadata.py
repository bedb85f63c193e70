"""What a store says about itself: root document, image list, array documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from cache.errors import VERIFY_HINT, DamagedStore, NotAStore, StoreError
from cache.format.checksums import Json, crc32c_hex, seal_holds, sealed
from cache.format.layout import (
    COMMITS,
    DOCUMENT,
    FORMAT_VERSION,
    IMAGES,
    MAX_SHARD_SIZE,
    ArrayDocument,
    ArraySpec,
    ShardGrid,
    group_document,
    parse_array_document,
    specs_of,
)
from cache.format.recipe import Recipe
from cache.format.records import RECORD_TYPES, ImageRecord, have_record_types
from cache.storage.places import folders_in, names_in, read_file, read_files, refuse_link
from cache.storage.remote import RemotePath, StorePath


@dataclass(frozen=True)
class RootDocument:
    """The attributes of the root group; written once, when the store is made."""

    recipe: Recipe
    shard_size: int
    provenance: dict[str, Json]

    @property
    def fingerprint(self) -> str:
        """The recipe's fingerprint."""
        return self.recipe.fingerprint

    def to_bytes(self) -> bytes:
        """The root ``zarr.json``."""
        return group_document(
            sealed(
                {
                    "format_version": FORMAT_VERSION,
                    "recipe": dict(self.recipe.fields),
                    "fingerprint": self.fingerprint,
                    "shard_size": self.shard_size,
                    "provenance": self.provenance,
                }
            )
        )


def read_root(path: StorePath) -> RootDocument:
    """Read the root document; NotAStore where there is none, DamagedStore where it changed."""
    data = read_file(path / DOCUMENT)
    if data is None:
        if _has_more_of_a_store(path):
            raise DamagedStore(
                f"{path / DOCUMENT}: missing beside images or commits: damaged, not empty; "
                f"{VERIFY_HINT}"
            )
        raise NotAStore(f"{path}: no feature store here")
    damaged = DamagedStore(f"{path / DOCUMENT}: differs from what the store wrote; {VERIFY_HINT}")
    try:
        attributes = json.loads(data)["attributes"]
        version = attributes["format_version"]
        if not seal_holds(attributes):
            raise damaged
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path}: store format {version}, this program reads {FORMAT_VERSION}; "
                "use the version that wrote it"
            )
        root = RootDocument(
            recipe=Recipe.recorded(attributes["recipe"], attributes["provenance"]),
            shard_size=attributes["shard_size"],
            provenance=attributes["provenance"],
        )
        as_written = root.to_bytes()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if b'"fingerprint"' not in data and not _has_more_of_a_store(path):
            raise NotAStore(f"{path}: a Zarr folder, but no feature store") from error
        raise damaged from error
    whole = type(root.shard_size) is int and isinstance(root.provenance, dict)
    if as_written != data or not whole or root.shard_size not in range(1, MAX_SHARD_SIZE + 1):
        raise damaged
    return root


def _has_more_of_a_store(path: StorePath) -> bool:
    """Whether there are images or commits, with or without a root document."""
    if read_file(path / IMAGES):
        return True
    return any(name[0].isdecimal() and name.endswith(".json") for name in names_in(path / COMMITS))


def image_line(record: ImageRecord) -> bytes:
    """A line of ``images.jsonl``: ASCII JSON, keys in the order of `ImageRecord`."""
    return json.dumps(vars(record)).encode() + b"\n"


@dataclass(frozen=True)
class ImageList:
    """``images.jsonl`` as read: the raw lines and what they say, in row order."""

    lines: Sequence[bytes]
    """Each with its line feed."""
    rows: Sequence[dict[str, Any]]
    """The parsed lines: keys id, sha256, width, height."""

    def __len__(self) -> int:
        return len(self.rows)

    def records(self) -> list[ImageRecord]:
        """The lines as records."""
        return [ImageRecord(**row) for row in self.rows]

    def crc(self, n_images: int) -> str:
        """CRC-32C of the first ``n_images`` lines, as array documents hold it."""
        return crc32c_hex(b"".join(self.lines[:n_images]))


def read_images(path: StorePath) -> ImageList:
    """Read ``images.jsonl``; DamagedStore where a line is not an image record."""
    data = read_file(path / IMAGES)
    if data is None:
        raise DamagedStore(f"{path / IMAGES}: missing; {VERIFY_HINT}")
    return parse_images(path, data)


def parse_images(path: StorePath, data: bytes) -> ImageList:
    """Read the content of ``images.jsonl``; as above."""
    file = path / IMAGES
    lines = data.splitlines(keepends=True)
    try:
        # One parse for all lines: 300,000 of them take a fraction of a second.
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError) as error:
        raise DamagedStore(
            f"{file}: not one JSON object per line ({error}); {VERIFY_HINT}"
        ) from error
    if len(rows) != len(lines) or (lines and not data.endswith(b"\n")):
        raise DamagedStore(f"{file}: not one JSON object per line; {VERIFY_HINT}")
    if not _are_plain_rows(rows):
        for number, row in enumerate(rows, start=1):
            if not is_image_row(row):
                raise DamagedStore(f"{file}: line {number} is not an image record; {VERIFY_HINT}")
    return ImageList(lines, rows)


def safe_id(image_id: str) -> bool:
    """Whether an id is a relative path that stays inside the collection's root."""
    if not image_id or image_id[0] == "/" or "\0" in image_id:
        return False
    return ".." not in image_id or ".." not in image_id.split("/")


def nodes(path: StorePath) -> Iterator[tuple[str, bytes | None]]:
    """Every folder below the root as (name, its document), parents first.

    Folders inside an array are not looked into. The document is None where there is none.
    """
    pending = [""]
    while pending:
        parent = pending.pop()
        folders = [name for name in sorted(folders_in(path / parent)) if parent or name != COMMITS]
        names = [f"{parent}/{folder}" if parent else folder for folder in folders]
        documents = read_files([path / name / DOCUMENT for name in names])
        for name, document in zip(names, documents, strict=True):
            yield name, document
            if not is_array(document):
                pending.append(name)


def is_array(document: bytes | None) -> bool:
    """Whether a `zarr.json` says that its folder holds an array."""
    return b'"node_type": "array"' in (document or b"")


@dataclass(frozen=True)
class Metadata:
    """Everything a store says about itself, checked against each other."""

    path: StorePath
    root: RootDocument
    images: ImageList
    documents: dict[str, ArrayDocument]
    """Per array on disk, scales included."""
    specs: dict[str, ArraySpec]
    """Per feature."""

    @property
    def folder(self) -> Path:
        """The store's folder, for what changes files in place. StoreError for a remote store."""
        if isinstance(self.path, RemotePath):
            raise StoreError(f"{self.path}: only local stores are changed in place; copy it first")
        return self.path

    @property
    def grid(self) -> ShardGrid:
        """Which rows lie in which file."""
        return ShardGrid(self.root.shard_size)


def read_metadata(path: StorePath) -> Metadata:
    """Read a store's metadata; StoreError where it is missing, damaged or contradictory.

    A growth that was interrupted leaves arrays with fewer rows than there are images; that is
    no damage, as each array's document vouches for its own rows only.
    """
    refuse_link(path / COMMITS)
    root = read_root(path)
    documents = {}
    for name, document in nodes(path):
        if document is not None and is_array(document):
            documents[name] = parse_array_document(name, document, root.shard_size)
    images = read_images(path)
    check_rows(documents.values(), images)
    specs = specs_of([document.array for document in documents.values()])
    return Metadata(path, root, images, documents, specs)


def check_rows(documents: Iterable[ArrayDocument], images: ImageList) -> None:
    """DamagedStore unless the image list is the one the array documents vouch for."""
    crc_of: dict[int, str] = {}
    for document in documents:
        n_images = document.n_images
        if n_images > len(images):
            raise DamagedStore(
                f"{IMAGES}: {len(images)} images, but {document.array.name} has {n_images} rows; "
                f"{VERIFY_HINT}"
            )
        if n_images not in crc_of:
            crc_of[n_images] = images.crc(n_images)
        if crc_of[n_images] != document.images_crc:
            raise DamagedStore(
                f"{IMAGES}: its lines are not those that {document.array.name} was written for; "
                f"{VERIFY_HINT}"
            )


def _are_plain_rows(rows: list[Any]) -> bool:
    """Whether all rows are image records with ids that need no second look.

    Asked of all at once, because one by one takes most of the time of opening a large store.
    """
    if not set(map(type, rows)) <= {dict} or not set(map(tuple, rows)) <= {tuple(RECORD_TYPES)}:
        return False
    if not have_record_types(rows):
        return False
    text = "\n".join(["", *map(itemgetter("id"), rows)])
    return not any(unsafe in text for unsafe in ("\n/", "\n\n", "\0", "..")) and text[-1:] != "\n"


def is_image_row(row: object) -> bool:
    """Whether a value from JSON is an image record with a safe id."""
    return (
        isinstance(row, dict)
        and tuple(row) == tuple(RECORD_TYPES)
        and have_record_types([row])
        and safe_id(row["id"])
    )
