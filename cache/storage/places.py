"""Where a store can be: in a local folder or in object storage; what reads both is here.

Local stores are mapped, locked and synced as before; only what has to differ asks which it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from cache.errors import VERIFY_HINT, StoreError
from cache.format.layout import DOCUMENT
from cache.storage.remote import RemotePath, StorePath, open_remote

MAX_DOCUMENT_BYTES = 2**24
"""Of a `zarr.json`."""
MAX_FILE_BYTES = 2**32
"""Of any other file that is read whole: a list of ten million images has 1.6 GB."""
_BATCH = 256
"""Objects read at a time where many are."""


def store_path(place: str | Path | RemotePath) -> StorePath:
    """The place that a user names: a local path, or a URL such as ``s3://bucket/store``.

    Raises StoreError for a URL of a protocol that cannot be had.
    """
    if not isinstance(place, str):
        return place
    if place.startswith(("file://", "local://")):
        return Path(place.partition("://")[2])
    return open_remote(place) if "://" in place else Path(place)


def local_path(place: str | Path | RemotePath, what: str) -> Path:
    """The same for what works on local stores alone; ``what`` names it in the error."""
    found = store_path(place)
    if isinstance(found, RemotePath):
        raise StoreError(f"{found}: {what} works on local stores; copy the store to a disk first")
    return found


def read_file(file: StorePath) -> bytes | None:
    """A file's bytes; None where there is no such file.

    StoreError for what is no file, such as a pipe, and for one too large to be a store's.
    """
    limit = MAX_DOCUMENT_BYTES if file.name == DOCUMENT else MAX_FILE_BYTES
    if isinstance(file, RemotePath):
        return file.read(limit)
    try:
        status = file.stat()
        # Opening a pipe would wait for ever, and reading a device would not end.
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
            raise StoreError(f"{file}: is not a file; {VERIFY_HINT}")
        if status.st_size > limit:
            raise StoreError(f"{file}: is too large for a store's ({status.st_size:,} bytes)")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{file}: cannot read ({error.strerror})") from error


def read_files(files: Sequence[StorePath]) -> Iterator[bytes | None]:
    """The same for many files in turn; of remote ones, many are on their way at a time."""
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        remote = [file for file in batch if isinstance(file, RemotePath)]
        # In a transaction each has to be looked at by itself, for its version.
        if remote and not remote[0].in_transaction:
            yield from remote[0].read_ranges([(file, None, None) for file in remote])
        else:
            yield from map(read_file, batch)


def names_in(folder: StorePath) -> list[str]:
    """What lies in a folder, in no order; nothing where there is no such folder."""
    if isinstance(folder, RemotePath):
        return list(folder.entries())
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)
    return []


def folders_in(folder: StorePath) -> list[str]:
    """Names of the folders in an existing folder, in no order; links to folders are none."""
    if isinstance(folder, RemotePath):
        return [name for name, size in folder.entries().items() if size is None]
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def open_binary(file: StorePath) -> AbstractContextManager[Any]:
    """Open a file for reading, in a ``with`` block. OSError, or StoreError."""
    if isinstance(file, RemotePath):
        return file.open()
    return open(file, "rb", buffering=0, opener=open_at_once)


def open_at_once(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """A file descriptor, as an `opener`: opening a pipe of this name would wait for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def size_of(file: StorePath) -> int | None:
    """Bytes of a file; None where there is none."""
    if isinstance(file, RemotePath):
        return file.size()
    return file.stat().st_size if file.exists() else None


def folder_bytes(folder: StorePath) -> int:
    """Size of all files in a folder and below; those that vanish meanwhile do not count."""
    if isinstance(folder, RemotePath):
        return folder.total_bytes()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def refuse_link(folder: StorePath) -> None:
    """Raise StoreError where a folder of a store is a link, which may lead anywhere."""
    if isinstance(folder, Path) and folder.is_symlink():
        raise StoreError(
            f"{folder}: is a symbolic link, and a store has none; put the folder itself there"
        )
