"""Several processes on one store."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from cache import FeatureStore, StoreError, StoreWriter, verify_store
from cache.storage.files import locked
from tests.cache.stores import (
    ARRAYS,
    RECIPE,
    S3,
    array_contents,
    assert_holds,
    contents,
    fill,
    image_records,
    values,
    write,
)

CONTEXT = multiprocessing.get_context("fork")


def run_together(*jobs: tuple) -> None:
    processes = [CONTEXT.Process(target=job, args=args) for job, *args in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_processes_that_compute_everything_agree(tmp_path):
    write(tmp_path / "alone", 23)
    run_together(*[(write, tmp_path / "shared", 23)] * 4)
    assert verify_store(tmp_path / "shared").problems == ()
    assert array_contents(tmp_path / "shared") == array_contents(tmp_path / "alone")
    assert not [name for name in contents(tmp_path / "shared") if name.endswith(".tmp")]


def test_a_store_may_grow_while_others_fill_it(tmp_path):
    write(tmp_path / "alone", 23)
    shared = tmp_path / "shared"
    jobs = [(write, shared, n, arrays) for n in (6, 10, 23) for arrays in (ARRAYS, [S3])]
    run_together(*jobs)
    write(shared, 23)
    assert verify_store(shared).problems == ()
    assert array_contents(shared) == array_contents(tmp_path / "alone")


def fill_part(path: Path, part: int, n_parts: int) -> None:
    writer = StoreWriter.open(path, RECIPE, image_records(40), ARRAYS, shard_size=3)
    for task in writer.pending():
        if task.shard % n_parts == part:
            with writer.shard(task) as shard:
                for row in task.rows:
                    shard.put(row, {spec.name: values(row, spec) for spec in ARRAYS})
                shard.commit()


def test_parts_make_the_whole(tmp_path):
    fill_part(tmp_path / "alone", 0, 1)
    run_together(*[(fill_part, tmp_path / "parts", part, 3) for part in range(3)])
    assert array_contents(tmp_path / "parts") == array_contents(tmp_path / "alone")


def verify_until(path: Path, n_committed: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not (path / "zarr.json").exists():
            continue
        report = verify_store(path)
        assert report.problems == (), report.problems
        store = FeatureStore.open(path)
        for image_id in store.readable(store.arrays):
            for spec in store.arrays.values():
                assert_holds(store, store.ids.index(image_id), spec)
        if len(store.readable(store.arrays)) == n_committed:
            return
    raise AssertionError("never complete")


def test_readers_and_verifiers_see_no_damage_while_others_write(tmp_path):
    def grow() -> None:
        for n_images in (5, 6, 11, 23):
            write(tmp_path / "store", n_images)

    run_together((grow,), (verify_until, tmp_path / "store", 23))


def test_a_slow_worker_does_not_undo_a_faster_one(tmp_path):
    """It began when the shard had fewer images, and finishes after the shard has grown."""
    slow = StoreWriter.open(tmp_path, RECIPE, image_records(2), [S3], shard_size=4)
    (task,) = slow.pending()
    with slow.shard(task) as shard:
        write(tmp_path, 4, [S3])
        complete = contents(tmp_path, S3.name)
        for row in task.rows:
            shard.put(row, {S3.name: values(row, S3)})
        shard.commit()
    after = contents(tmp_path, S3.name)
    assert after == {name: complete[name] for name in after}
    assert FeatureStore.open(tmp_path).committed[S3.name].all()
    assert verify_store(tmp_path).notes == ()


def test_temporaries_of_the_living_stay_and_of_the_dead_go(tmp_path):
    writer = StoreWriter.open(tmp_path, RECIPE, image_records(8), [S3], shard_size=4)
    first, second = writer.pending()
    with writer.shard(first):
        child = os.fork()
        if child == 0:
            with writer.shard(second):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        temporaries = [name for name in contents(tmp_path) if name.endswith(".tmp")]
        assert len(temporaries) == 2
        notes = {note.what for note in verify_store(tmp_path).notes if note.kind == "temporary"}
        assert notes == {"in use", "left by a writer that was killed"}
        StoreWriter.open(tmp_path, RECIPE, image_records(8), [S3])
        (kept,) = [name for name in contents(tmp_path) if name.endswith(".tmp")]
        assert "c.0.0.0.0" in kept


def test_whoever_takes_over_a_shard_clears_up(tmp_path):
    """Also a worker that was open all along, as under a scheduler that hands out shards."""
    writer = StoreWriter.open(tmp_path, RECIPE, image_records(4), ARRAYS, shard_size=4)
    (task,) = writer.pending()
    child = os.fork()
    if child == 0:
        with writer.shard(task):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert [name for name in contents(tmp_path) if name.endswith(".tmp")]
    fill(writer)
    assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]


def test_a_filesystem_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match=r"cannot lock files \(No locks available\)"):
        StoreWriter.open(tmp_path / "store", RECIPE, image_records(1), [S3])


def test_a_lock_is_held_against_other_processes(tmp_path):
    seen = CONTEXT.Value("i", 0)

    def enter() -> None:
        with locked(tmp_path / "lock"):
            seen.value = 1

    process = CONTEXT.Process(target=enter)
    with locked(tmp_path / "lock"):
        process.start()
        time.sleep(0.1)
        assert seen.value == 0
    process.join()
    assert seen.value == 1
