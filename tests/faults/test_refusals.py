"""A disk that is full or may only be read, and clocks that jump: a line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture import World, check_killed, compare
from cache import FeatureStore, verify_store
from tests.cache.stores import contents

GO_ON = "make room or give permission, then run the same command again: committed shards are kept"


def refusing(call: str, number: int, at: int = 1) -> Callable[[], None]:
    """Have a call to the system refused from its n-th time on, in this process."""

    def prepare() -> None:
        original, n_calls = getattr(os, call), 0

        def refused(*arguments: Any, **others: Any) -> Any:
            nonlocal n_calls
            n_calls += arguments[0] not in (1, 2)  # What a command says is no disk's affair.
            if n_calls >= at and arguments[0] not in (1, 2):
                raise OSError(number, os.strerror(number), str(arguments[0]))
            return original(*arguments, **others)

        setattr(os, call, refused)

    return prepare


def complaint(torn: World, arguments: list[str | Path], prepare: Callable[[], None]) -> str:
    """The last line of a command that is refused something; it must be no traceback."""
    torn.commands.log.write_text("")
    process = torn.commands.start(arguments, prepare)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    log = torn.commands.log.read_text()
    assert "Traceback" not in log
    line = log.strip().splitlines()[-1]
    assert line.startswith("Error: "), log
    return line


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "replace"])
def test_a_full_disk_at_any_write(torn: World, tmp_path: Path, call: str) -> None:
    """Names take room, too, and some filesystems find out at the fsync."""
    rng = random.Random(call)
    last = {"write": 100, "fsync": 40, "mkdir": 6, "replace": 20}[call]
    for at in (1, rng.randrange(2, last)):
        store = tmp_path / f"{call}{at}"
        line = complaint(torn, torn.precompute(store), refusing(call, errno.ENOSPC, at))
        assert "No space left on device" in line and GO_ON in line
        if store.exists():
            check_killed(store)
            assert not [name for name in contents(store) if name.endswith(".tmp")]
        torn.commands.finish("precompute", torn.precompute(store))
        compare(store, torn.whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 240 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(torn: World, small_disk: Path) -> None:
    store = small_disk / "store"
    line = complaint(torn, torn.precompute(store), lambda: None)
    assert "No space left on device" in line and GO_ON in line
    check_killed(store)
    assert FeatureStore.open(store).readable(["vae/latent"])
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    torn.commands.finish("precompute", torn.precompute(store))
    compare(store, torn.whole)


def test_a_store_that_may_only_be_read(torn: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = torn.copy(torn.whole, "read-only")

    def read_only() -> None:
        opened = os.open

        def refused(path: Any, flags: int, *rest: Any, **others: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(store)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return opened(path, flags, *rest, **others)

        os.open = refused  # type: ignore[assignment]
        for call in ("mkdir", "replace", "unlink", "rmdir"):
            refusing(call, errno.EROFS)()

    prune: list[str | Path] = ["cache", "prune", store, "--array", "clip/tokens", "--yes"]
    for arguments in (torn.precompute(store), prune):
        line = complaint(torn, arguments, read_only)
        assert "Read-only file system" in line and "Traceback" not in line
    torn.commands.finish("precompute", ["cache", "info", store])
    for call in ("open", "mkdir", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, call, getattr(os, call))  # Put back when the test ends.
    read_only()
    opened = FeatureStore.open(store)
    features = opened.read(opened.readable(opened.arrays), list(opened.arrays), check=True)
    assert all(len(values) == 15 for values in features.values())
    report = verify_store(store)
    assert report.problems == report.notes == ()


def test_clocks_that_jump(torn: World, tmp_path: Path) -> None:
    """Neither the times of files nor the time of day decide anything."""
    store = tmp_path / "store"
    complaint(torn, torn.precompute(store), refusing("write", errno.ENOSPC, 90))
    rng = random.Random(0)
    for folder, _, names in os.walk(store):
        for name in names:
            os.utime(Path(folder, name), (rng.choice((0, 4e9)),) * 2)

    def backwards() -> None:
        now = time.time()
        time.time = lambda: now - 1e8 * time.perf_counter()

    process = torn.commands.start(torn.precompute(store), backwards)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    compare(store, torn.whole)
