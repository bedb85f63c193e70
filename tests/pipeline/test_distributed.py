"""Shards on a real dask cluster: the bytes of one process, also when a worker dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dask.distributed import Client, LocalCluster

from cache import verify_store
from configs import Config, load_config
from pipeline.compute import Progress
from pipeline.distributed import Cluster, ClusterError
from pipeline.loader import LoadingError
from pipeline.precompute import precompute
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
    again = precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address))
    assert again.n_computed == 0


def test_a_worker_that_dies_loses_only_its_shard(
    config: Config, alone: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    """One of the two workers is killed while shards are being computed; dask starts another."""
    killed = []

    def kill_a_worker_once_a_shard_is_there() -> None:
        with Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
        while not list((tmp_path / "s").glob("commits/*.json")):
            time.sleep(0.005)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    killer = threading.Thread(target=kill_a_worker_once_a_shard_is_there)
    killer.start()
    report = precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address))
    killer.join()
    assert killed
    assert report.n_shards_pending == 0
    assert verify_store(tmp_path / "s").sound
    assert array_bytes(tmp_path / "s") == array_bytes(alone)


def test_the_command_line_starts_workers_of_its_own(
    world: Path, alone: Path, tmp_path: Path
) -> None:
    result = run(world, tmp_path / "s", *SETS, extra=["--workers", "1"])
    assert result.exit_code == 0, result.output
    assert array_bytes(tmp_path / "s") == array_bytes(alone)


def test_what_a_worker_meets_is_one_line(
    world: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    """A picture that cannot be read when its shard's turn comes."""
    config = load_config(world / "config.yaml", [*SETS, "extraction.batch_size=1"])
    moved = config.dataset.model_copy(update={"root": tmp_path / "pictures"})
    config = config.model_copy(update={"dataset": moved})
    for i in range(4):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{i}.png").write_bytes(
            next((world / "pictures").rglob("*.png")).read_bytes()
        )
    unreadable = tmp_path / "pictures" / "3.png"

    def log(line: str) -> None:
        if line.startswith("store"):
            unreadable.unlink()
            unreadable.mkdir()

    with pytest.raises(LoadingError, match=r"3\.png: cannot be read"):
        precompute(config, tmp_path / "s", cluster=Cluster(cluster.scheduler_address), log=log)
    assert verify_store(tmp_path / "s").sound


def test_no_scheduler_is_one_line(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no scheduler answers"):
        precompute(config, tmp_path / "s", cluster=Cluster("not an address"))
