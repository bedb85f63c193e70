"""A disk that records what is done to it, and what a loss of power may leave of that.

Only what was brought to the disk is certain: the content of a file by fsync of the file, its name
by fsync of its folder. Of the rest, each change of a name may have arrived or not, and any part
of the written bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Entry = tuple[str, int | str | None]
"""A path and what is there: a file's number, "folder", or nothing."""


@dataclass(frozen=True)
class Event:
    """One change, or one order to the disk."""

    kind: str
    """create, write, sync, rename, unlink, mkdir, rmdir, sync folder, or a mark of the test."""
    path: str
    file: int = -1
    """The number of the file that this is about."""
    data: bytes = b""
    source: str = ""
    """Of a rename: the name before."""
    mark: Any = None


@dataclass
class Disk:
    """What was done below a folder, in order."""

    root: Path
    events: list[Event] = field(default_factory=list)
    _files: dict[str, int] = field(default_factory=dict)
    _open: dict[int, tuple[str, int]] = field(default_factory=dict)

    def mark(self, mark: Any) -> None:
        """Write down that something has been promised by now."""
        self.events.append(Event("mark", "", mark=mark))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record until the end of the block, in this process."""
        names = ("open", "close", "write", "fsync", "replace", "unlink", "mkdir", "rmdir")
        originals = {name: getattr(os, name) for name in names}

        def opened(path: Any, flags: int, *rest: Any, **others: Any) -> int:
            name = self._name(path)
            creates = name is not None and flags & os.O_CREAT and not os.path.lexists(path)
            fd: int = originals["open"](path, flags, *rest, **others)
            if name is not None:
                if creates:
                    self._files[name] = len(self.events)
                    self.events.append(Event("create", name, self._files[name]))
                self._open[fd] = (name, self._files.get(name, -1))
            return fd

        def closed(fd: int) -> None:
            self._open.pop(fd, None)
            originals["close"](fd)

        def written(fd: int, data: Any) -> int:
            n_bytes: int = originals["write"](fd, data)
            if fd in self._open:
                path, file = self._open[fd]
                self.events.append(Event("write", path, file, bytes(data[:n_bytes])))
            return n_bytes

        def synced(fd: int) -> None:
            if fd in self._open:
                path, file = self._open[fd]
                self.events.append(Event("sync" if file >= 0 else "sync folder", path, file))

        def renamed(source: Any, target: Any) -> None:
            originals["replace"](source, target)
            old, new = self._name(source), self._name(target)
            if old is not None and new is not None:
                file = self._files.pop(old)
                self._files[new] = file
                self.events.append(Event("rename", new, file, source=old))

        def changed(kind: str) -> Any:
            def change(path: Any, *rest: Any, **others: Any) -> None:
                originals[kind](path, *rest, **others)
                if (name := self._name(path)) is not None:
                    self._files.pop(name, None)
                    self.events.append(Event(kind, name))

            return change

        replacements = {
            "open": opened,
            "close": closed,
            "write": written,
            "fsync": synced,
            "replace": renamed,
            **{kind: changed(kind) for kind in ("unlink", "mkdir", "rmdir")},
        }
        try:
            for name, replacement in replacements.items():
                setattr(os, name, replacement)
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def _name(self, path: Any) -> str | None:
        try:
            return Path(os.fspath(path)).relative_to(self.root).as_posix()
        except (TypeError, ValueError):
            return None

    def after_power_loss(self, n_events: int, target: Path, rng: random.Random) -> None:
        """Write into a new folder what may be left if power went after so many events."""
        names: dict[str, int | str | None] = {}
        unsynced: list[list[Entry]] = []
        contents: dict[int, bytes] = {}
        on_disk: dict[int, int] = {}
        for event in self.events[:n_events]:
            match event.kind:
                case "create":
                    contents[event.file], on_disk[event.file] = b"", 0
                    unsynced.append([(event.path, event.file)])
                case "write":
                    contents[event.file] += event.data
                case "sync":
                    on_disk[event.file] = len(contents[event.file])
                case "rename":
                    unsynced.append([(event.path, event.file), (event.source, None)])
                case "mkdir":
                    unsynced.append([(event.path, "folder")])
                case "unlink" | "rmdir":
                    unsynced.append([(event.path, None)])
                case "sync folder":
                    here = [c for c in unsynced if _folder(c[0][0]) == event.path]
                    unsynced = [c for c in unsynced if _folder(c[0][0]) != event.path]
                    for change in here:
                        names.update(change)
        share = rng.choice((0.0, 0.5, 1.0))
        for change in unsynced:
            if rng.random() < share:
                names.update(change)
        target.mkdir()
        for path in sorted(names):
            if _reachable(path, names):
                what = names[path]
                if what == "folder":
                    (target / path).mkdir()
                elif isinstance(what, int):
                    kept = rng.randint(on_disk[what], len(contents[what]))
                    (target / path).write_bytes(contents[what][:kept])


def _folder(path: str) -> str:
    return Path(path).parent.as_posix()


def _reachable(path: str, names: dict[str, int | str | None]) -> bool:
    """Whether something is there, and all the folders that it is in."""
    parents = [parent.as_posix() for parent in Path(path).parents][:-1]
    return names[path] is not None and all(names.get(parent) == "folder" for parent in parents)
