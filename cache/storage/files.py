"""Files that appear whole or not at all, and the locks that say who owns them.

Every byte of a store is written through this module: a temporary file in the target's folder,
fsync, rename, fsync of the folder. A temporary is locked by its owner for as long as the owner
lives, so anybody can tell an abandoned one from one in use.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from cache.errors import StoreError, is_transient
from cache.format.layout import LOCK
from cache.storage.objects import Changed
from cache.storage.places import names_in, refuse_link
from cache.storage.remote import RemotePath, StorePath

TEMPORARY_SUFFIX = ".tmp"
_STAGING_LOCK = "lock"
_UMASK = os.umask(0o077)  # It can only be read by setting it.
os.umask(_UMASK)
_N_ATTEMPTS = 100
"""How often a change of a remote store is begun again because another process was faster."""

T = TypeVar("T")
P = TypeVar("P", Path, RemotePath)


class TemporaryFile:
    """A file under construction: append bytes, then `publish` it or `discard` it.

    Its name is ``.{name}.{token}.tmp``, after its target unless it is given another. Creating one
    removes what killed owners left behind under the same name.
    """

    def __init__(self, target: Path, name: str = "") -> None:
        self.target = target
        name = name or target.name
        remove_stale_temporaries(target.parent, name)
        while True:
            self.path = target.with_name(f".{name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
            with _explained(self.path):
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                _lock(self._fd, self.path)
            # Between creation and lock somebody may have taken it for abandoned.
            if os.fstat(self._fd).st_nlink:
                return
            os.close(self._fd)

    def write(self, *parts: bytes | np.ndarray) -> None:
        """Append bytes or the memory of contiguous arrays; StoreError where the disk refuses."""
        with _explained(self.path):
            for part in parts:
                view = memoryview(part.data if isinstance(part, np.ndarray) else part).cast("B")
                while view:
                    view = view[os.write(self._fd, view) :]

    def start_syncing(self, start: int, n_bytes: int) -> None:
        """Let the disk begin with a part of what was written; `sync` still has to follow."""
        # Of dirty pages the advice keeps none back: it starts their write and does not wait.
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._fd, start, n_bytes, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Bring everything written to the disk."""
        with _explained(self.path):
            os.fsync(self._fd)

    def publish(self) -> None:
        """Rename onto the target. The content must have been synced; the folder is not yet."""
        with _explained(self.target):
            os.replace(self.path, self.target)
        self.close()

    def discard(self) -> None:
        """Remove the temporary, if it is still there."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Give up ownership and leave the file where it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Claim:
    """Says that a piece of work is being done, for as long as the process that does it lives.

    An empty file with a lock. A claim is advice: ignoring it repeats work and does no harm.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Use `take`."""
        self._path = path
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """Claim the work that ``path`` stands for; None if another claim on it is held.

        One that a killed process left behind is taken over. Raises StoreError if the file cannot
        be made or locked.
        """
        while True:
            with _explained(path):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            except OSError as error:
                os.close(fd)
                raise _no_locks(path, error) from error
            if os.fstat(fd).st_nlink:
                return cls(path, fd)
            os.close(fd)  # Released between the two calls, and removed.

    def release(self) -> None:
        """Give the work up, or say that it is done."""
        with suppress(OSError):  # A claim that stays behind is stale, and can be taken.
            self._path.unlink(missing_ok=True)
        # Explicitly, because a forked child may still hold the descriptor.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


class Spool:
    """A file under construction for object storage: on this machine's disk until it is put."""

    def __init__(self) -> None:
        with _explained(Path(tempfile.gettempdir())):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def write(self, *parts: bytes | np.ndarray) -> None:
        """Append bytes or the memory of contiguous arrays; StoreError where the disk refuses."""
        with _explained(Path(tempfile.gettempdir())):
            for part in parts:
                self._file.write(part.data if isinstance(part, np.ndarray) else part)

    def start_syncing(self, start: int, n_bytes: int) -> None:
        """Nothing here has to survive this process."""

    def sync(self) -> None:
        """As above."""

    def content(self) -> bytes:
        """All that was written."""
        self._file.seek(0)
        return self._file.read()

    def discard(self) -> None:
        """Give the disk its room back."""
        self._file.close()


def write_atomically(target: StorePath, data: bytes, name: str = "") -> None:
    """Replace ``target`` by a file with this content, durably; ``name`` is its temporary's.

    Raises Changed in a transaction on object storage, where somebody else was faster.
    """
    if isinstance(target, RemotePath):
        target.write(data)
        return
    temporary = TemporaryFile(target, name)
    try:
        temporary.write(data)
        temporary.sync()
        temporary.publish()
    finally:
        temporary.discard()
    sync_folder(target.parent)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write a file at; it replaces ``target``, durably, when the block ends well.

    The path has the target's name, in a staging folder that no other writer uses, so any number
    may write the same target at once: the last one wins, whole. After an error ``target`` is as
    it was. Raises OSError.
    """
    try:
        with staging_folder(target) as staging:
            new = staging / target.name
            yield new
            open_to_others(new)
            fsync_file(new)
            os.replace(new, target)
            fsync_folder(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target``, named after it, for one writer; removed afterwards.

    What killed writers of the same target left behind is removed first. Raises OSError.
    """
    remove_abandoned_staging(target.parent, target.name)
    staging, lock = _locked_staging(target)
    try:
        yield staging
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def remove_abandoned_staging(folder: Path, target_name: str = "") -> None:
    """Remove the staging folders in ``folder`` (for one target, or all) whose writer is gone.

    Those of which that cannot be told, as on a filesystem without locks, stay.
    """
    for staging in temporaries_in(folder, target_name):
        with suppress(OSError):
            _remove_if_abandoned(staging)


def _remove_if_abandoned(staging: Path) -> None:
    names = os.listdir(staging)
    if not names:
        staging.rmdir()  # Fails if its writer has just begun.
    elif _STAGING_LOCK not in names:
        shutil.rmtree(staging, ignore_errors=True)  # A writer creates its lock before anything.
    else:
        lock = os.open(staging / _STAGING_LOCK, os.O_RDONLY)
        try:
            # Held until the folder is gone, so a writer that waits for it learns of that.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(lock)


def _locked_staging(target: Path) -> tuple[Path, int]:
    """A new staging folder and the descriptor of the lock file that says it is in use."""
    while True:
        token = secrets.token_hex(6)
        staging = target.with_name(f".{target.name}.{token}{TEMPORARY_SUFFIX}")
        staging.mkdir()
        try:
            lock = os.open(staging / _STAGING_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            continue  # Another writer took it for abandoned before it was locked.
        with suppress(OSError):  # Without locks nothing is ever removed as abandoned.
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return staging, lock
        os.close(lock)


def fsync_file(file: Path) -> None:
    """Bring a file's content to the disk. Raises OSError."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_to_others(file: Path) -> None:
    """Give a file the mode of any new one: safetensors makes files for their owner alone."""
    file.chmod(0o666 & ~_UMASK)


def sync_folder(folder: Path) -> None:
    """Make the renames inside ``folder`` of a store durable. Raises StoreError."""
    with _explained(folder):
        fsync_folder(folder)


def fsync_folder(folder: Path) -> None:
    """The same for any folder. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_durably(file: Path) -> None:
    """Remove a file, if it is there, and bring that to the disk."""
    with _explained(file):
        file.unlink(missing_ok=True)
    sync_folder(file.parent)


def remove_folder(folder: Path) -> None:
    """Remove an empty folder, and bring that to the disk."""
    with _explained(folder):
        folder.rmdir()
    sync_folder(folder.parent)


def make_folders(root: StorePath, folder: StorePath) -> None:
    """Create ``folder``, which lies under the existing folder ``root``, durably.

    StoreError where a part of the way is a link: it may lead out of the root. Object storage has
    no folders.
    """
    if isinstance(root, RemotePath) or isinstance(folder, RemotePath):
        return
    parts = [part for part in (folder, *folder.parents) if root in part.parents]
    for part in parts:
        refuse_link(part)
    missing = [part for part in parts if not part.is_dir()]
    for part in reversed(missing):
        with _explained(part):
            part.mkdir(exist_ok=True)
        sync_folder(part.parent)


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `TemporaryFile` gives."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def temporaries_in(folder: Path, target_name: str = "") -> list[Path]:
    """The temporaries in a folder, if it exists: of one target or (by default) of all."""
    prefix = f".{target_name}." if target_name else "."
    names = filter(is_temporary, names_in(folder))
    return [folder / name for name in names if name.startswith(prefix)]


def remove_stale_temporaries(folder: Path, target_name: str = "") -> None:
    """Remove the temporaries in ``folder`` (of one target, or all) whose owner is gone."""
    for path in temporaries_in(folder, target_name):
        _is_owned(path, remove_stale=True)


def is_owned(temporary: Path) -> bool:
    """Whether a living process holds this temporary; StoreError if that cannot be told.

    Needs permission to read only. The lock tried is shared: NFS grants an exclusive one only on
    a file opened for writing, and two that ask at once must not take each other for the owner.
    """
    return _is_owned(temporary)


def _is_owned(temporary: Path, remove_stale: bool = False) -> bool:
    try:
        fd = os.open(temporary, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"{temporary}: cannot tell whether a writer uses it ({error.strerror}); ask the user "
            "who owns it to run the command or to remove it"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return True
    except OSError as error:
        os.close(fd)
        raise _no_locks(temporary, error) from error
    try:
        if remove_stale:
            # While it is locked: a process that has just made it and waits for the lock will see
            # that it is gone.
            temporary.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return False


def exclusively(store: P, change: Callable[[P], T]) -> T:
    """Change a store as if nobody else did meanwhile; gives what ``change`` gives.

    A local store is locked. In object storage ``change`` gets a path that writes on condition
    that nothing has changed since it was read, and is called again where something has.
    """
    if isinstance(store, RemotePath):
        for attempt in range(_N_ATTEMPTS):
            try:
                return change(store.transaction())
            except Changed:
                time.sleep(min(0.05 * attempt, 1) * (1 + secrets.randbelow(100) / 100))
        raise StoreError(f"{store}: too many writers at once; run the same command again")
    with locked(store / LOCK):
        return change(store)


@contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold an exclusive lock against all processes and threads that use the same file."""
    with _explained(lock_file):
        fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(fd, lock_file)
        try:
            yield
        finally:
            # Explicitly, because a forked child may still hold the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise _no_locks(path, error) from error


def _no_locks(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: this filesystem cannot lock files ({error.strerror}); several writers would "
        "lose data, so put the store on a filesystem with flock"
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line; nothing written so far is lost."""
    try:
        yield
    except OSError as error:
        first = "" if is_transient(error) else "make room or give permission, then "
        raise StoreError(
            f"{path}: cannot write ({error.strerror}); {first}run the same command again: "
            "committed shards are kept"
        ) from error
