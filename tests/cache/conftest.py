import os
from pathlib import Path

import pytest

from tests.cache.stores import write


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines: fsync would cost time and change nothing."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A complete store of 11 images in shards of 4; row 5 is quarantined."""
    path = tmp_path / "store"
    write(path, 11, quarantined={5})
    return path
