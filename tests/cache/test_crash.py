"""Writers that die: at every step, at random moments, and on a full disk.

After each death the store must be sound, hand out nothing wrong, and be completed by the same
commands to the bytes of a store that was never interrupted.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import FeatureStore, NotAStore, StoreError, verify_store
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    POOLED,
    S3,
    array_contents,
    assert_holds,
    contents,
    write,
)

DISK_CALLS = ("write", "fsync", "replace", "unlink", "mkdir")


def scenario(path: Path) -> None:
    """Create, finish a partial shard, add arrays and images, with a quarantined row."""
    write(path, 3, [S3, POOLED], quarantined={1})
    write(path, 6, [S3, LATENT], quarantined={1})
    write(path, 11, ARRAYS, quarantined={1, 9})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("uninterrupted") / "store"
    scenario(path)
    return array_contents(path)


def on_disk_call(act: Callable[[int], None]) -> dict[str, Any]:
    """Have ``act`` called with a running number before every change of the disk.

    Returns the original functions.
    """
    originals = {name: getattr(os, name) for name in DISK_CALLS}
    count = 0

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            act(count)
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(os, name, wrapped(original))
    return originals


def run_and_die(path: Path, at_call: int) -> None:
    """Run the scenario in a child process that vanishes right before a change of the disk."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            on_disk_call(lambda count: os._exit(9) if count == at_call else None)
            scenario(path)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)


def assert_survived(path: Path, uninterrupted: dict[str, bytes]) -> None:
    """Sound and readable as it is; complete and equal after the same commands."""
    try:
        report = verify_store(path)
    except NotAStore:
        assert not (path / "zarr.json").exists()
    else:
        assert report.problems == ()
        store = FeatureStore.open(path)
        for spec in store.arrays.values():
            for image_id in store.readable([spec.name]):
                assert_holds(store, store.ids.index(image_id), spec)
    scenario(path)
    assert verify_store(path).notes == ()
    assert array_contents(path) == uninterrupted
    assert not [name for name in contents(path) if name.endswith(".tmp")]


def count_calls(path: Path) -> int:
    last = 0

    def remember(count: int) -> None:
        nonlocal last
        last = count

    originals = on_disk_call(remember)
    try:
        scenario(path)
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
    return last


def test_death_at_any_step(tmp_path, uninterrupted):
    n_calls = count_calls(tmp_path / "counted")
    assert n_calls > 200
    for at_call in range(1, n_calls + 1, 11):
        path = tmp_path / str(at_call)
        run_and_die(path, at_call)
        assert_survived(path, uninterrupted)


def test_death_twice(tmp_path, uninterrupted):
    rng = random.Random(0)
    for trial in range(10):
        path = tmp_path / str(trial)
        for _ in range(3):
            run_and_die(path, rng.randrange(1, 250))
        assert_survived(path, uninterrupted)


def test_kill_at_random_moments(tmp_path, uninterrupted):
    context = multiprocessing.get_context("fork")
    start = time.perf_counter()
    scenario(tmp_path / "timed")
    duration = time.perf_counter() - start
    rng = random.Random(0)
    for trial in range(12):
        path = tmp_path / str(trial)
        process = context.Process(target=scenario, args=(path,))
        process.start()
        time.sleep(rng.uniform(0, 1.2 * duration))
        process.kill()
        process.join()
        assert_survived(path, uninterrupted)


def test_a_full_disk_is_one_line_and_no_damage(tmp_path, uninterrupted, monkeypatch):
    write_to_disk = os.write
    for at_call in range(1, 100, 9):
        path = tmp_path / str(at_call)
        n_calls = 0

        def full(fd: int, data: bytes, at_call: int = at_call) -> int:
            nonlocal n_calls
            n_calls += 1
            if n_calls >= at_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_to_disk(fd, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreError, match=r"No space left on device.*make room") as caught:
                scenario(path)
        assert "\n" not in str(caught.value)
        assert not [name for name in contents(path) if name.endswith(".tmp")]
        assert_survived(path, uninterrupted)


def test_short_writes_are_continued(tmp_path, uninterrupted, monkeypatch):
    write_to_disk = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write_to_disk(fd, data[:7]))
    scenario(tmp_path)
    assert array_contents(tmp_path) == uninterrupted
