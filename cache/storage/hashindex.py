"""Content hashes of image files, remembered beside a store by path and file signature.

Of several processes that fill one store, only the first has to read every picture to list them,
and later runs read none. The index is advice: deleted, damaged or out of reach, it costs time and
nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import StoreError
from cache.format.checksums import Json, canonical_json, crc32c_hex
from cache.format.records import ImageRecord, have_record_types
from cache.storage.files import Claim, make_folders, write_atomically
from cache.storage.places import read_file
from cache.storage.remote import RemotePath, StorePath

SUFFIX = ".hashes.jsonl"
FORMAT_VERSION = 1
PATIENCE = 120.0
"""Seconds to wait for another process that hashes but saves nothing."""
SAVE_SECONDS = 30.0
"""Between two times that the index is saved while files are hashed."""
_POLL_SECONDS = 0.2

_Entry = tuple[str, ImageRecord]
"""Signature of the file, and what its content was."""


class HashIndex:
    """Image id to the signature of its file and the record of its content.

    A signature is any string that changes when the file does (see `Dataset.signature`).
    """

    def __init__(self, file: StorePath | None) -> None:
        """``file`` may be missing or damaged; without one, nothing is remembered."""
        self._file = file
        self._entries: dict[str, _Entry] = {}
        self._version: tuple[int, ...] | None = None
        self._unsaved: dict[str, _Entry] = {}
        self._saved = time.monotonic()
        self._load()

    @classmethod
    def beside(cls, store: StorePath) -> HashIndex:
        """The index of a store: ``stores/mine.hashes.jsonl`` for ``stores/mine``."""
        whole = store if isinstance(store, RemotePath) else store.absolute()
        has_place = whole.name and whole.parent != whole
        return cls(whole.parent / f"{whole.name}{SUFFIX}" if has_place else None)

    def get(self, image_id: str, signature: str | None) -> ImageRecord | None:
        """What the file held when it had this signature; None if that is not known."""
        known = self._entries.get(image_id)
        return known[1] if known is not None and known[0] == signature else None

    def add(self, record: ImageRecord, signature: str) -> None:
        """Remember a file that has just been hashed; saves now and then."""
        self._entries[record.id] = self._unsaved[record.id] = (signature, record)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is new, if there is anything; a place that refuses is left alone."""
        self._saved = time.monotonic()
        if not self._unsaved or self._file is None:
            return
        self._load()  # Another process may have saved meanwhile.
        self._entries |= self._unsaved
        with suppress(StoreError, OSError):
            self._make_folder()
            write_atomically(self._file, self._to_bytes())
            self._unsaved.clear()

    @contextmanager
    def claimed(self, log: Callable[[str], None]) -> Iterator[bool]:
        """While the block runs, other processes wait with their hashing, and save after it.

        Waits for a process that is hashing already, as long as it lives and saves what it has.
        Yields whether the index has changed since it was read. Without locks, as in object
        storage, no process waits.
        """
        version = self._version
        claim = self._wait_for_claim(log)
        try:
            yield self._version != version
        finally:
            self.save()
            if claim is not None:
                claim.release()

    def _wait_for_claim(self, log: Callable[[str], None]) -> Claim | None:
        if not isinstance(self._file, Path):
            return None
        path = self._file.with_name(f".{self._file.name}.claim.tmp")
        last_news: float | None = None
        with suppress(StoreError, OSError):
            self._make_folder()
            while (claim := Claim.take(path)) is None:
                if last_news is None:
                    log("another process is hashing the images; waiting for what it finds")
                now = time.monotonic()
                if last_news is None or self._load():
                    last_news = now
                elif now - last_news > PATIENCE:
                    return None
                time.sleep(_POLL_SECONDS)
            self._load()
            return claim
        return None

    def _make_folder(self) -> None:
        """Make the folder the index lies in, durably: a store's will lie in it too."""
        if isinstance(self._file, Path) and not self._file.parent.is_dir():
            parents = self._file.parents
            make_folders(next(folder for folder in parents if folder.is_dir()), parents[0])

    def _load(self) -> bool:
        """Read the file if it has changed; whether it has. What is damaged counts as nothing."""
        if self._file is None:
            return False
        try:
            if isinstance(self._file, Path):
                status = self._file.stat()
                version = (status.st_ino, status.st_size, status.st_mtime_ns)
                if version == self._version:
                    return False
                self._version = version
            data = read_file(self._file)
        except (StoreError, OSError):
            return False
        self._entries |= _parse(data or b"")
        return True

    def _to_bytes(self) -> bytes:
        rows: list[dict[str, Json]] = [
            {"signature": signature, **vars(record)}
            for _, (signature, record) in sorted(self._entries.items())
        ]
        lines = b"".join(canonical_json(row) + b"\n" for row in rows)
        head: dict[str, Json] = {"crc32c": crc32c_hex(lines), "format_version": FORMAT_VERSION}
        return canonical_json(head) + b"\n" + lines


def _parse(data: bytes) -> dict[str, _Entry]:
    head, _, lines = data.partition(b"\n")
    entries: dict[str, _Entry] = {}
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(head)
        if document != {"crc32c": crc32c_hex(lines), "format_version": FORMAT_VERSION}:
            return {}
        rows = [json.loads(line) for line in lines.splitlines()]
        signatures = [row.pop("signature") for row in rows]
        if have_record_types(rows):
            for row, signature in zip(rows, signatures, strict=True):
                entries[row["id"]] = (signature, ImageRecord(**row))
    return entries
