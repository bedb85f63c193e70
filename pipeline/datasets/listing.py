"""Which files lie under a root: quickly, in a fixed order, and never outside it."""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from errno import EFBIG
from pathlib import Path

from cache.errors import is_transient
from pipeline.datasets.base import Skipped
from pipeline.datasets.retries import LoadingError, retry_transient
from pipeline.pictures.images import MAX_FILE_BYTES

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".svg", ".tif", ".tiff", ".webp",
})
# fmt: on
"""Extensions of the files offered to the decoder, which then goes by their content."""

SETTLED_NS = 2 * 10**9
"""Nanoseconds after which the times of a changed file can be trusted to tell the next change."""


@dataclass(frozen=True)
class Listing:
    """Relative posix paths sorted by code point, and what was left out."""

    files: list[str]
    skipped: list[Skipped]


def list_files(root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Listing:
    """All files under `root` whose lower-case extension is in `suffixes`; none is opened.

    Links are followed while they stay inside the root. Every folder is listed once, under its own
    name where it has one that is not hidden, else under the link that sorts first; a link to a
    file is one more file. Hidden entries, other extensions, links that leave the root or lead to
    a folder that is listed already, special files, folders that cannot be listed and names that
    are not UTF-8 are skipped with a reason.

    Raises LoadingError if a folder cannot be listed at present: of a disk, mount or network that
    fails nothing can be concluded about what is there.
    """
    walk = _Walk(os.path.realpath(root), suffixes)
    walk.run()
    return Listing(sorted(walk.files), sorted(walk.skipped, key=lambda entry: entry.path))


def read_image_file(path: Path) -> bytes:
    """A file's bytes. Raises OSError, also for one that is larger than any picture taken."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise OSError(EFBIG, f"larger than {MAX_FILE_BYTES // 2**20} MiB", str(path))
    return path.read_bytes()


def file_signature(path: Path) -> str | None:
    """Size, times and inode of a file; None if it is not there, or has changed just now.

    A file that has just changed could change again without a difference in its times, whose
    resolution is milliseconds on most filesystems and seconds on some.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    if time.time_ns() - changed < SETTLED_NS:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def start_reading(path: Path) -> None:
    """Have the system fetch a file from the disk without waiting for it; does what it can."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def summarise(skipped: Iterable[Skipped]) -> str:
    """One line such as `12 skipped: 8 hidden, 4 other extension (.txt)`; empty for none."""
    reasons = Counter(entry.reason for entry in skipped)
    if not reasons:
        return ""
    parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return f"{reasons.total():,} skipped: {parts}"


@dataclass(frozen=True, order=True)
class _Folder:
    """A folder still to be listed, at the real path `real`, under ids that begin with `prefix`.

    The order is that of listing: what a link has led to comes after the whole tree without links.
    """

    linked: bool
    prefix: str
    real: str


class _Walk:
    """One pass over a tree. `root` is a real path, so that links can be compared with it."""

    def __init__(self, root: str, suffixes: Collection[str]) -> None:
        self.root = root
        self.suffixes = suffixes
        self.files: list[str] = []
        self.skipped: list[Skipped] = []
        self.pending = [_Folder(False, "", root)]
        self.listed: set[tuple[int, int]] = set()
        """Device and inode of every folder: a few links among folders make paths without end."""

    def run(self) -> None:
        while self.pending:
            folder = heapq.heappop(self.pending)
            try:
                self._folder(folder)
            except OSError as error:
                if is_transient(error):
                    raise LoadingError.of(folder.real, error) from error
                path = folder.prefix.rstrip("/") or "."
                self._skip(path, f"cannot be listed ({error.strerror})")

    def _folder(self, folder: _Folder) -> None:
        status, entries = retry_transient(lambda: _entries_of(folder.real), folder.real)
        identity = (status.st_dev, status.st_ino)
        if identity in self.listed:
            self._skip(folder.prefix.rstrip("/"), "link to a folder that is listed already")
            return
        self.listed.add(identity)
        for entry in entries:
            self._entry(entry, folder)

    def _entry(self, entry: os.DirEntry[str], folder: _Folder) -> None:
        path = folder.prefix + entry.name
        if not _is_utf8(path):
            self._skip(os.fsencode(path).decode("utf-8", "backslashreplace"), "name not UTF-8")
        elif entry.name.startswith("."):
            self._skip(path, "hidden")
        elif entry.is_symlink():
            self._link(entry, path)
        elif entry.is_dir(follow_symlinks=False):
            heapq.heappush(self.pending, _Folder(folder.linked, path + "/", entry.path))
        elif entry.is_file(follow_symlinks=False):
            self._file(path)
        else:
            self._skip(path, "not a regular file")

    def _link(self, entry: os.DirEntry[str], path: str) -> None:
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            self._skip(path, "broken link")
        elif not _lies_in(target, self.root):
            self._skip(path, "link out of the root")
        elif os.path.isfile(target):
            self._file(path)
        elif os.path.isdir(target):
            heapq.heappush(self.pending, _Folder(True, path + "/", target))
        else:
            self._skip(path, "not a regular file")

    def _file(self, path: str) -> None:
        suffix = os.path.splitext(path)[1]
        if suffix.lower() in self.suffixes:
            self.files.append(path)
        else:
            self._skip(path, f"other extension ({suffix or 'none'})")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))


def _entries_of(folder: str) -> tuple[os.stat_result, list[os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        return os.stat(folder), list(entries)


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
