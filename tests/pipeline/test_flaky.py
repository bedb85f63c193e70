"""Disks, mounts and networks that fail for a while: tried again, and no picture's fault."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import LocalCluster, get_worker

import pipeline.datasets.files
import pipeline.datasets.retries
import pipeline.inputs.loader
import pipeline.workers.distributed
from cache import Claim, FeatureStore, StoreError, StoreWriter, verify_store
from cache.errors import is_transient
from cache.storage.files import TemporaryFile
from configs import Config, load_config
from pipeline.datasets import open_dataset
from pipeline.datasets.retries import LoadingError
from pipeline.inputs.collection import scan
from pipeline.job import Job
from pipeline.precompute import Part, PrecomputeReport, precompute
from pipeline.workers.cluster import Cluster
from tests import tiny
from tests.pipeline.test_precompute import array_bytes, world
from tests.pipeline.test_sharing import at, counts

__all__ = ["world"]  # the fixture

SETS = ("extraction.shard_size=2", "extraction.ensemble=1", "extraction.timesteps=[195]")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five pictures; pauses before another try are short."""
    monkeypatch.setattr(pipeline.datasets.retries, "RETRY_PAUSES", (0, 0))
    monkeypatch.setattr(pipeline.inputs.loader, "RETRY_PAUSES", (0, 0))
    monkeypatch.setattr(pipeline.workers.distributed, "RETRY_DELAYS", (0.01, 0.02))
    tiny.write_images(tmp_path / "pictures", 5)
    return tmp_path / "pictures"


@pytest.fixture
def config(world: Path, root: Path) -> Config:
    return load_config(world / "config.yaml", (*SETS, f"dataset.root={root}"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler with two workers in this process, so that tests can make them fail."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def failing(
    function: Callable[..., Any], number: int, which: str, n_times: int, tries: Counter[str]
) -> Callable[..., Any]:
    """The function, which is refused so many times on a path that ends with `which`."""

    def refused(path: Any, *rest: Any, **others: Any) -> Any:
        if str(path).endswith(which):
            tries[which] += 1
            if tries[which] <= n_times:
                raise OSError(number, os.strerror(number), str(path))
        return function(path, *rest, **others)

    return refused


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_picture_that_cannot_be_read_for_a_while_is_listed_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    dataset = open_dataset("folder", root)
    expected = scan(dataset)
    read, tries = pipeline.datasets.files.read_image_file, Counter[str]()
    monkeypatch.setattr(
        pipeline.datasets.files, "read_image_file", failing(read, number, "002.png", 2, tries)
    )
    assert scan(dataset) == expected
    assert tries["002.png"] == 3


def test_a_picture_that_cannot_be_read_at_all_ends_the_listing_and_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, it would come into the store as the last of a later run."""
    dataset = open_dataset("folder", root)
    read, tries = pipeline.datasets.files.read_image_file, Counter[str]()
    monkeypatch.setattr(
        pipeline.datasets.files, "read_image_file", failing(read, errno.EIO, "002.png", 99, tries)
    )
    with pytest.raises(LoadingError, match=r"picture_002\.png: cannot be read \(Input/output"):
        scan(dataset)
    assert tries["002.png"] == 3


def test_a_folder_that_cannot_be_listed_for_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_images(root / "more", 2)
    ids = open_dataset("folder", root).ids
    assert len(ids) == 7
    listing, tries = os.scandir, Counter[str]()
    monkeypatch.setattr(os, "scandir", failing(listing, errno.ESTALE, "/more", 2, tries))
    assert open_dataset("folder", root).ids == ids
    tries.clear()
    monkeypatch.setattr(os, "scandir", failing(listing, errno.ESTALE, "/more", 99, tries))
    with pytest.raises(LoadingError, match=r"pictures/more: cannot be read \(Stale file handle"):
        open_dataset("folder", root)


class _Reading:
    """Has reading one picture refused once the images are listed: so many times, or by worker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: Callable[[int], bool]) -> None:
        self.n_tries = 0
        self._refused = refused
        self._read = pipeline.datasets.files.read_image_file
        self._monkeypatch = monkeypatch

    def start(self) -> None:
        self._monkeypatch.setattr(pipeline.datasets.files, "read_image_file", self._reading)

    def _reading(self, path: Path) -> bytes:
        if path.name.endswith("002.png"):
            self.n_tries += 1
            if self._refused(self.n_tries):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return self._read(path)


def test_one_process_quarantines_nothing_and_names_the_file(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = _Reading(monkeypatch, lambda n: True)
    with pytest.raises(LoadingError, match=r"picture_002\.png: cannot be read"):
        precompute(config, tmp_path / "s", log=at("store", reading.start))
    assert reading.n_tries == 3
    assert FeatureStore.open(tmp_path / "s").quarantined == {}


def on_cluster(
    config: Config, out: Path, address: str, log: Callable[[str], None]
) -> PrecomputeReport:
    return precompute(config, out, cluster=Cluster(address), log=log)


def test_a_worker_reads_again_what_its_mount_refused(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Three times in each of two tries of the shard: the third try succeeds."""
    precompute(config, tmp_path / "alone")
    reading = _Reading(monkeypatch, lambda n: n <= 6)
    lines: list[str] = []
    start = at("store", reading.start)

    def log(line: str) -> None:
        lines.append(line)
        start(line)

    report = on_cluster(config, tmp_path / "s", address, log)
    assert counts(report) == (5, 0, 0, 0)
    assert reading.n_tries == 7
    said = [line for line in lines if "trying again" in line]
    assert len(said) == 2
    assert said[0].startswith("shard 1 on worker ")
    assert "picture_002.png: cannot be read (Input/output error); trying again in" in said[0]
    assert array_bytes(tmp_path / "s") == array_bytes(tmp_path / "alone")
    assert verify_store(tmp_path / "s").notes == ()


def test_a_mount_that_goes_on_failing_ends_the_run_after_three_tries(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    reading = _Reading(monkeypatch, lambda n: True)
    with pytest.raises(LoadingError, match=r"picture_002\.png: cannot be read .*\(3 tries"):
        on_cluster(config, tmp_path / "s", address, at("store", reading.start))
    assert reading.n_tries == 9
    assert FeatureStore.open(tmp_path / "s").quarantined == {}


def test_a_worker_whose_mount_is_gone_does_not_use_up_the_tries(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It fails fast and is free again first, but what it failed goes to others."""
    one = 0

    def on_that_worker(n: int) -> bool:
        return get_worker().name == one

    reading = _Reading(monkeypatch, on_that_worker)
    report = on_cluster(config, tmp_path / "s", address, at("store", reading.start))
    assert counts(report) == (5, 0, 0, 0)
    assert reading.n_tries in (1, 4)  # Once where it can be read; before that, one shard's tries.


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_worker_writes_again_what_may_pass_and_nothing_else(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, number: int
) -> None:
    """A full disk does not become emptier by trying again."""
    sync, refused = os.fsync, []

    def refused_once(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}")
        if "/clip/tokens/.c." in target and not refused:
            refused.append(target)
            raise OSError(number, os.strerror(number))
        sync(fd)

    monkeypatch.setattr(os, "fsync", refused_once)
    if number == errno.EIO:
        assert counts(on_cluster(config, tmp_path / "s", address, print)) == (5, 0, 0, 0)
        assert verify_store(tmp_path / "s").notes == ()
    else:
        with pytest.raises(StoreError, match="No space left on device"):
            on_cluster(config, tmp_path / "s", address, print)
    assert len(refused) == 1
    assert verify_store(tmp_path / "s").sound


def test_workers_say_what_computed_and_the_head_loads_no_networks(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    machine = Job.machine

    def named(self: Job) -> dict[str, Any]:
        return {**machine(self), "device_name": f"card {get_worker().name}", "batch_size": 7}

    def refused(config: Config) -> Job:
        raise AssertionError("networks loaded in the process that hands out shards")

    monkeypatch.setattr(Job, "machine", named)
    monkeypatch.setattr("pipeline.precompute.load_job", refused)
    report = on_cluster(config, tmp_path / "s", address, print)
    store = FeatureStore.open(tmp_path / "s")
    assert store.provenance["device_name"] in ("card 0", "card 1")
    assert store.provenance["batch_size"] == report.batch_size == 7
    assert store.provenance["injection"] and store.provenance["torch"]
    shares = {worker.device: worker.shards for worker in report.workers}
    assert sum(shares.values()) == 3
    recorded = {str(machine["device_name"]): n_shards for machine, n_shards in store.computed_by}
    assert recorded == shares
    assert all(machine["batch_size"] == 7 for machine, _ in store.computed_by)


def test_a_cluster_counts_what_others_commit_and_waits_for_what_they_compute(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    out = tmp_path / "s"
    precompute(config, tmp_path / "alone")

    claims: list[Claim | None] = []

    def others() -> None:
        store = FeatureStore.open(out)
        writer = StoreWriter.open(out, store.recipe, store.images, list(store.arrays.values()))
        claims.append(writer.claim(2))
        precompute(config, out, Part(1, 3))

    send_again = pipeline.workers.distributed._Run._send_again

    def release(run: Any) -> None:
        if run._later and claims:
            claim = claims.pop()
            assert claim is not None
            claim.release()
        send_again(run)

    monkeypatch.setattr(pipeline.workers.distributed, "BUSY_DELAY", 0.05)
    monkeypatch.setattr(pipeline.workers.distributed._Run, "_send_again", release)
    report = on_cluster(config, out, address, at("store", others))
    assert claims == []
    assert counts(report) == (3, 0, 2, 0)
    assert sum(worker.images for worker in report.workers) == 3
    assert array_bytes(out) == array_bytes(tmp_path / "alone")


def test_only_what_may_pass_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        TemporaryFile(tmp_path / "missing" / "file")
    assert not is_transient(refused.value)
    for number, expected in ((errno.EIO, True), (errno.ENOSPC, False), (errno.EACCES, False)):
        error = StoreError("a line")
        error.__cause__ = OSError(number, "")
        assert is_transient(error) == expected
    assert is_transient(TimeoutError())
    assert not is_transient(None)
