"""Exports appear whole or not at all: they are built in a hidden folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import StoreError
from cache.exchange.folder import DESCRIPTION
from cache.storage.files import fsync_file, staging_folder, sync_folder


def refuse_existing(out: Path, force: bool) -> None:
    """StoreError where ``out`` exists: always, or with ``force`` where it is no export."""
    if not os.path.lexists(out):
        return
    if not force:
        raise StoreError(f"{out}: exists already; choose another name or add --force")
    if out.is_dir() and not (out / DESCRIPTION).is_file():
        raise StoreError(f"{out}: a folder that is no export; it will not be replaced")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path to build a file or folder at; it takes the place of ``out`` when the block ends well.

    After an error nothing of it is left. What a killed export left behind goes with the next one
    to the same place.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(out) as staging:
        yield staging / "new"
        _sync(staging / "new")
        _replace(staging, out)
        sync_folder(out.parent)


def _replace(staging: Path, out: Path) -> None:
    """Put the new export in the place of the old one, which comes back where that is stopped."""
    old, new = staging / "old", staging / "new"
    try:
        # A rename cannot replace a folder that holds something, nor a file by a folder.
        if out.is_dir() or (os.path.lexists(out) and new.is_dir()):
            os.replace(out, old)
        os.replace(new, out)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(out):
            os.replace(old, out)
        raise


def _sync(path: Path) -> None:
    """Bring a file, or a folder with all it holds, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
        sync_folder(path)
    else:
        fsync_file(path)
