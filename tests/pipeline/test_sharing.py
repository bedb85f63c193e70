"""Several precompute processes on one store share its shards, and say who did what."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.compute
import pipeline.sharing
from cache import StoreWriter, verify_store
from configs import Config, load_config
from pipeline.precompute import Part, PrecomputeReport, precompute
from tests import tiny
from tests.object_store import new_place
from tests.pipeline.test_precompute import array_bytes, run, world

__all__ = ["world"]  # the fixture

SETS = ("extraction.shard_size=2", "extraction.ensemble=1", "extraction.timesteps=[195]")
CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def config(world: Path) -> Config:
    return load_config(world / "config.yaml", SETS)


@pytest.fixture(scope="module")
def alone(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "store"
    precompute(config, out)
    return out


def with_(config: Config, root: Path) -> Config:
    dataset = config.dataset.model_copy(update={"root": root})
    return config.model_copy(update={"dataset": dataset})


def counts(report: PrecomputeReport) -> tuple[int, int, int, int]:
    return (
        report.n_computed,
        report.n_already_there,
        report.n_by_others,
        report.n_quarantined,
    )


def at(line_start: str, action: Callable[[], Any]) -> Callable[[str], None]:
    """A log that acts once, at the first line that begins so."""
    done = []

    def log(line: str) -> None:
        if line.startswith(line_start) and not done:
            done.append(True)
            action()

    return log


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that went through the networks, in this process."""
    rows: list[int] = []
    start = pipeline.compute._start

    def counting(extractor: Any, batch: Any, *rest: Any) -> Any:
        rows.extend(batch.rows)
        return start(extractor, batch, *rest)

    monkeypatch.setattr(pipeline.compute, "_start", counting)
    return rows


def test_two_processes_compute_each_shard_once(
    config: Config, alone: Path, tmp_path: Path, computed: list[int]
) -> None:
    """Both have found everything to do before either has begun."""
    both_listed = CONTEXT.Barrier(2)
    results = CONTEXT.SimpleQueue()

    def work() -> None:
        report = precompute(config, tmp_path / "s", log=at("store", both_listed.wait))
        results.put((len(computed), counts(report)))

    processes = [CONTEXT.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    (n_first, first), (n_second, second) = results.get(), results.get()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert n_first + n_second == 11
    assert first[0] + second[0] == 11
    assert first[2] + second[2] == 11  # What the one has computed, the other found.
    assert sum(first) == sum(second) == 11
    assert array_bytes(tmp_path / "s") == array_bytes(alone)
    assert verify_store(tmp_path / "s").notes == ()


def test_the_shard_of_a_living_process_comes_last(
    config: Config, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    precompute(config, out, Part(6, 6))
    writer = StoreWriter.open(out, *_arguments(config, alone))
    claim = writer.claim(1)
    assert claim is not None
    assert writer.claim(1) is None
    notes = {(note.where, note.what) for note in verify_store(out).notes}
    assert ("commits/.claim-000001.tmp", "in use") in notes
    report = precompute(config, out, log=at("waiting for other processes", claim.release))
    assert counts(report) == (10, 1, 0, 0)
    assert array_bytes(out) == array_bytes(alone)


def test_the_claim_of_a_killed_process_is_taken_over(
    config: Config, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    precompute(config, out, Part(6, 6))
    child = os.fork()
    if child == 0:
        StoreWriter.open(out, *_arguments(config, alone)).claim(1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (note,) = [note for note in verify_store(out).notes if note.kind == "temporary"]
    assert note.what == "left by a writer that was killed"
    lines: list[str] = []
    assert counts(precompute(config, out, log=lines.append)) == (10, 1, 0, 0)
    assert not [line for line in lines if "waiting" in line]
    assert verify_store(out).notes == ()


def test_a_process_that_commits_nothing_is_not_waited_for_for_ever(
    config: Config, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    precompute(config, out, Part(6, 6))
    claim = StoreWriter.open(out, *_arguments(config, alone)).claim(1)
    for name in ("FLOOR", "SLOWER", "POLL_SECONDS"):
        monkeypatch.setattr(pipeline.sharing, name, 0)
    lines: list[str] = []
    assert counts(precompute(config, out, log=lines.append)) == (10, 1, 0, 0)
    assert any("have committed nothing for" in line for line in lines)
    assert claim is not None
    claim.release()
    assert array_bytes(out) == array_bytes(alone)


def _arguments(config: Config, alone: Path) -> tuple[Any, ...]:
    """Recipe, images, arrays and shard size of a store."""
    from cache import FeatureStore

    store = FeatureStore.open(alone)
    return store.recipe, store.images, list(store.arrays.values()), config.extraction.shard_size


def test_in_object_storage_committed_shards_are_not_computed_again(
    config: Config, computed: list[int]
) -> None:
    """There are no claims; before each shard its commit is looked for again."""
    from cache import store_path

    url = store_path(new_place("memory"))

    def another() -> None:
        precompute(config, url)
        computed.clear()

    report = precompute(config, url, log=at("store", another))
    assert counts(report) == (0, 0, 11, 0)
    assert computed == []


def test_each_image_is_counted_once_and_by_whoever_committed_it(
    config: Config, tmp_path: Path
) -> None:
    """Some images are there already, another process commits some, one cannot be decoded."""
    root, out = tmp_path / "pictures", tmp_path / "s"
    paths = sorted(tiny.write_images(root, 8))
    tiny.truncate(paths[4])
    mine = with_(config, root)
    precompute(mine, out, Part(1, 4))  # rows 0 and 1
    report = precompute(mine, out, log=at("store", lambda: precompute(mine, out, Part(2, 4))))
    assert counts(report) == (3, 2, 2, 1)
    assert report.n_shards_committed == 2
    first = report.as_text().splitlines()[:2]
    assert ": 3 images computed in " in first[0]
    assert first[1] == (
        "besides: 2 there already, 2 committed by other processes meanwhile, 1 quarantined"
    )
    again = precompute(mine, out)
    assert counts(again) == (0, 7, 0, 1)
    assert again.n_shards_committed == 0


def test_an_image_with_new_arrays_and_new_rows_beside_it_counts_once(
    world: Path, tmp_path: Path
) -> None:
    """Shard 1 of 4 rows has some rows that lack a timestep, and some that lack everything."""
    root = tmp_path / "pictures"
    tiny.write_images(root, 6)
    sets = (f"dataset.root={root}", "extraction.ensemble=1")
    assert run(world, tmp_path / "s", *sets, "extraction.timesteps=[195]").exit_code == 0
    tiny.write_images(root / "more", 2)
    result = run(world, tmp_path / "s", *sets, "extraction.timesteps=[7,195]", extra=["--json"])
    report = json.loads(result.stdout)
    assert report["n_images"] == report["n_computed"] == 8
    assert report["n_already_there"] == report["n_by_others"] == report["n_quarantined"] == 0
