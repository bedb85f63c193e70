"""Shards on a real dask cluster: the bytes of one process, also when a worker dies."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from dask.distributed import Client, LocalCluster

from cache import verify_store
from configs import Config, load_config
from pipeline.compute import Progress
from pipeline.inputs.loader import LoadingError
from pipeline.precompute import precompute
from pipeline.workers.cluster import Cluster, ClusterError
from tests.pipeline.test_precompute import array_bytes, run, world

__all__ = ["world"]  # the fixture

SETS = ("extraction.shard_size=2", "extraction.ensemble=1")


@pytest.fixture(scope="module")
def config(world: Path) -> Config:
    return load_config(world / "config.yaml", SETS)


@pytest.fixture(scope="module")
def alone(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process, with as many threads as a dask worker has."""
    out = tmp_path_factory.mktemp("alone") / "store"
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    precompute(config, out)
    torch.set_num_threads(n_threads)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as running:
        yield running


def test_an_existing_scheduler_makes_the_same_store(
    config: Config, alone: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    seen: list[int] = []

    def listener(progress: Progress) -> None:
        seen.append(progress.done)

    report = precompute(
        config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address), listener=listener
    )
    assert report.n_computed == 11
    assert report.n_shards_committed == 6
    assert report.n_shards_pending == 0
    assert seen == sorted(seen)
    assert seen[-1] == 11
    assert array_bytes(tmp_path / "s") == array_bytes(alone)
    assert sum(worker.shards for worker in report.workers) == 6
    assert sum(worker.images for worker in report.workers) == 11
    assert all(worker.images_per_second > 0 for worker in report.workers)
    again = precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address))
    assert again.n_computed == 0


def test_workers_that_die_lose_only_their_shards(
    config: Config, alone: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    """Both workers are killed, one after the other, while shards are being computed."""
    killed = []

    def kill_a_worker_whenever_more_shards_are_there() -> None:
        with Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
        for n_commits, pid in enumerate(pids, start=1):
            while len(list((tmp_path / "s").glob("commits/*.json"))) < n_commits:
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill_a_worker_whenever_more_shards_are_there)
    killer.start()
    report = precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address))
    killer.join()
    assert len(killed) == 2
    assert report.n_shards_pending == 0
    assert verify_store(tmp_path / "s").sound
    assert array_bytes(tmp_path / "s") == array_bytes(alone)


@pytest.fixture
def blocked(world: Path, tmp_path: Path) -> tuple[Config, Path, bytes]:
    """A configuration of four pictures, one of them, and what that one holds."""
    names = sorted((world / "pictures").rglob("*.png"))[:4]
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate(names):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(name.read_bytes())
    config = load_config(world / "config.yaml", SETS)
    dataset = config.dataset.model_copy(update={"root": tmp_path / "pictures"})
    last = tmp_path / "pictures" / "3.png"
    return config.model_copy(update={"dataset": dataset}), last, last.read_bytes()


@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param(False, id="its heart beats"),
        pytest.param(True, id="it is stopped", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_hangs_loses_only_its_shard(
    blocked: tuple[Config, Path, bytes], tmp_path: Path, cluster: LocalCluster, stopped: bool
) -> None:
    """Opening a pipe blocks as a dead mount does, while the worker's heart goes on beating."""
    config, picture, content = blocked
    lines: list[str] = []
    pids: list[int] = []

    def stop_the_blocked_worker() -> None:
        with Client(cluster) as client:
            busy: list[str] = []
            while len(list((tmp_path / "s").glob("commits/*.json"))) < 1 or len(busy) != 1:
                time.sleep(0.1)
                busy = [address for address, keys in client.processing().items() if keys]
            pids.extend(client.run(os.getpid, workers=busy).values())
        os.kill(pids[0], signal.SIGSTOP)

    stopper = threading.Thread(target=stop_the_blocked_worker)

    def log(line: str) -> None:
        lines.append(line)
        if line.startswith("store"):
            picture.unlink()
            os.mkfifo(picture)
            if stopped:
                stopper.start()
        if "may hang" in line:
            picture.unlink()
            picture.write_bytes(content)

    address = cluster.scheduler_address
    limited = Cluster(address, shard_limit=12)
    report = precompute(config, tmp_path / "s", cluster=limited, log=log)
    said = [line for line in lines if "may hang" in line]
    assert said[0].startswith("shard 1 takes more than 12 s on tcp://")
    assert report.n_shards_pending == 0
    if stopped:
        stopper.join()
        assert not psutil.pid_exists(pids[0])
    again = precompute(config, tmp_path / "once", cluster=Cluster(address))
    assert again.n_computed == 4
    assert array_bytes(tmp_path / "s") == array_bytes(tmp_path / "once")


def test_a_shard_that_blocks_every_worker_is_one_line(
    blocked: tuple[Config, Path, bytes],
    tmp_path: Path,
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, picture, _ = blocked
    monkeypatch.setattr("pipeline.workers.watch.TRIES", 1)

    def log(line: str) -> None:
        if line.startswith("store"):
            picture.unlink()
            os.mkfifo(picture)

    limited = Cluster(cluster.scheduler_address, shard_limit=12)
    try:
        with pytest.raises(ClusterError, match=r"shard 1 takes .* can its pictures be read"):
            precompute(config, tmp_path / "s", cluster=limited, log=log)
    finally:
        # A writer at the pipe's other end lets the blocked worker go.
        os.close(os.open(picture, os.O_RDWR))
    assert verify_store(tmp_path / "s").sound


def stop_outside_the_lock(pid: int, lock: Path) -> None:
    """Have a process stand still where it keeps nobody else from writing into the store."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)


def test_a_worker_that_joins_gets_work(config: Config, alone: Path, tmp_path: Path) -> None:
    """The first worker stands still after a shard, until one that joined then has done some."""
    commits = tmp_path / "s" / "commits"
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:

        def let_another_join() -> None:
            with Client(cluster) as client:
                (pid,) = client.run(os.getpid).values()
            while not list(commits.glob("*.json")):
                time.sleep(0.005)
            stop_outside_the_lock(pid, tmp_path / "s" / ".lock")
            before = len(list(commits.glob("*.json")))
            cluster.scale(2)
            while len(list(commits.glob("*.json"))) < before + 2:
                time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)

        helper = threading.Thread(target=let_another_join)
        helper.start()
        report = precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address))
        helper.join()
    first, late = report.workers
    assert (first.worker, late.worker) == ("0", "1")
    assert first.shards >= 1
    assert late.shards >= 2
    assert array_bytes(tmp_path / "s") == array_bytes(alone)


def test_the_command_line_starts_workers_of_its_own(
    world: Path, alone: Path, tmp_path: Path
) -> None:
    result = run(world, tmp_path / "s", *SETS, extra=["--workers", "1"])
    assert result.exit_code == 0, result.output
    assert array_bytes(tmp_path / "s") == array_bytes(alone)
    assert "1 worker, scheduler tcp://127.0.0.1:" in result.stderr
    *_, head, row = result.stdout.splitlines()
    assert head.split() == ["worker", "host", "shards", "images", "images/s"]
    name, _, shards, images, speed = row.split()
    assert (name, shards, images) == ("0", "6", "11")
    assert float(speed) > 0


def test_what_a_worker_meets_is_one_line(
    blocked: tuple[Config, Path, bytes], tmp_path: Path, cluster: LocalCluster
) -> None:
    """A picture that cannot be read when its shard's turn comes."""
    config, picture, _ = blocked

    def log(line: str) -> None:
        if line.startswith("store"):
            picture.unlink()
            picture.mkdir()

    with pytest.raises(LoadingError, match=r"3\.png: cannot be read"):
        precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address), log=log)
    assert verify_store(tmp_path / "s").sound


def test_a_worker_with_several_threads_is_refused(config: Config, tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as threaded,
        pytest.raises(ClusterError, match=r"has 2 threads.*--nthreads 1"),
    ):
        precompute(config, tmp_path / "s", cluster=Cluster(threaded.scheduler_address))


def test_no_scheduler_is_one_line(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no scheduler answers"):
        precompute(config, tmp_path / "s", cluster=Cluster("not an address"))
