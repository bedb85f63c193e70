"""Which files lie under a root: quickly, in a fixed order, and never outside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.base import Skipped

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".svg", ".tif", ".tiff", ".webp",
})
# fmt: on
"""Extensions of the files offered to the decoder, which then goes by their content."""


@dataclass(frozen=True)
class Listing:
    """Relative posix paths sorted by code point, and what was left out."""

    files: list[str]
    skipped: list[Skipped]


def list_files(root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Listing:
    """All files under `root` whose lower-case extension is in `suffixes`; none is opened.

    Links are followed while they stay inside the root. Hidden entries, other extensions, links
    that leave the root or lead round in a circle, special files, folders that cannot be listed
    and names that are not UTF-8 are skipped with a reason.
    """
    walk = _Walk(os.path.realpath(root), suffixes)
    walk.run()
    return Listing(sorted(walk.files), sorted(walk.skipped, key=lambda entry: entry.path))


def summarise(skipped: Iterable[Skipped]) -> str:
    """One line such as `12 skipped: 8 hidden, 4 other extension (.txt)`; empty for none."""
    reasons = Counter(entry.reason for entry in skipped)
    if not reasons:
        return ""
    parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return f"{reasons.total():,} skipped: {parts}"


@dataclass(frozen=True)
class _Folder:
    """A folder still to be listed, at the real path `real`, under ids that begin with `prefix`.

    `trail` holds the real folders in which the links that led here lie.
    """

    real: str
    prefix: str
    trail: tuple[str, ...] = ()


class _Walk:
    """One pass over a tree. `root` is a real path, so that links can be compared with it."""

    def __init__(self, root: str, suffixes: Collection[str]) -> None:
        self.root = root
        self.suffixes = suffixes
        self.files: list[str] = []
        self.skipped: list[Skipped] = []
        self.pending = [_Folder(root, "")]

    def run(self) -> None:
        while self.pending:
            folder = self.pending.pop()
            try:
                with os.scandir(folder.real) as entries:
                    for entry in entries:
                        self._entry(entry, folder)
            except OSError as error:
                path = folder.prefix.rstrip("/") or "."
                self._skip(path, f"cannot be listed ({error.strerror})")

    def _entry(self, entry: os.DirEntry[str], folder: _Folder) -> None:
        path = folder.prefix + entry.name
        if not _is_utf8(path):
            self._skip(os.fsencode(path).decode("utf-8", "backslashreplace"), "name not UTF-8")
        elif entry.name.startswith("."):
            self._skip(path, "hidden")
        elif entry.is_symlink():
            self._link(entry, path, folder)
        elif entry.is_dir(follow_symlinks=False):
            self.pending.append(_Folder(entry.path, path + "/", folder.trail))
        elif entry.is_file(follow_symlinks=False):
            self._file(path)
        else:
            self._skip(path, "not a regular file")

    def _link(self, entry: os.DirEntry[str], path: str, folder: _Folder) -> None:
        target = os.path.realpath(entry.path)
        trail = (*folder.trail, folder.real)
        if not os.path.exists(target):
            self._skip(path, "broken link")
        elif not _lies_in(target, self.root):
            self._skip(path, "link out of the root")
        elif os.path.isfile(target):
            self._file(path)
        elif not os.path.isdir(target):
            self._skip(path, "not a regular file")
        elif any(_lies_in(visited, target) for visited in trail):
            self._skip(path, "link back to a folder it lies in")
        else:
            self.pending.append(_Folder(target, path + "/", trail))

    def _file(self, path: str) -> None:
        suffix = os.path.splitext(path)[1]
        if suffix.lower() in self.suffixes:
            self.files.append(path)
        else:
            self._skip(path, f"other extension ({suffix or 'none'})")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
