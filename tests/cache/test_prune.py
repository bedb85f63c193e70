"""Dropping arrays and leftovers: what is shown is what goes, and nothing else changes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cache import (
    FeatureStore,
    StoreError,
    StoreWriter,
    plan_arrays,
    plan_temporaries,
    prune_arrays,
    prune_temporaries,
    verify_store,
)
from cli import main
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    POOLED,
    QUANTISED,
    RECIPE,
    S3,
    array_contents,
    contents,
    image_records,
    write,
)
from tests.cache.test_crash import on_disk_call


def test_a_pruned_store_is_one_that_never_had_the_array(store_path: Path, tmp_path: Path) -> None:
    for dropped in ([QUANTISED.name], [S3.name, LATENT.name]):
        plan = plan_arrays(store_path, names=dropped)
        before = sum(map(len, contents(store_path).values()))
        prune_arrays(store_path, plan.bytes_by_name)
        freed = before - sum(map(len, contents(store_path).values()))
        assert 0 < plan.n_bytes <= freed
        assert verify_store(store_path).problems == verify_store(store_path).notes == ()
    write(tmp_path / "never", 11, [POOLED], quarantined={5})
    assert array_contents(store_path) == array_contents(tmp_path / "never")
    assert not (store_path / "sd").exists()
    # And it takes them again.
    write(tmp_path / "whole", 11, quarantined={5})
    write(store_path, 11, quarantined={5})
    assert array_contents(store_path) == array_contents(tmp_path / "whole")


def test_images_that_no_array_has_any_more_leave_the_commit(tmp_path: Path) -> None:
    write(tmp_path / "s", 2, [S3])
    write(tmp_path / "s", 4, [LATENT], quarantined={3})
    prune_arrays(tmp_path / "s", [LATENT.name])
    report = verify_store(tmp_path / "s")
    assert report.sound
    assert FeatureStore.open(tmp_path / "s").quarantined == {}
    assert FeatureStore.open(tmp_path / "s").committed[S3.name].tolist() == [True] * 2 + [False] * 2


def test_timesteps_groups_and_what_is_not_there(tmp_path: Path) -> None:
    from cache import ArraySpec

    prefix = ArraySpec("prefix/t195/down0/draw0/hidden", (1, 2, 2), "float16")
    other = ArraySpec("sd/t500/s3", (3, 4, 5), "float16")
    store = tmp_path / "s"
    write(store, 5, [S3, QUANTISED, prefix, other, POOLED])
    assert set(plan_arrays(store, [195]).bytes_by_name) == {S3.name, QUANTISED.name, prefix.name}
    assert set(plan_arrays(store, names=["prefix/t195"]).bytes_by_name) == {prefix.name}
    with pytest.raises(StoreError, match="has no features of timestep 19"):
        plan_arrays(store, [19])
    with pytest.raises(StoreError, match=r"has no array sd/t195/s33; the nearest is sd/t195/s3$"):
        plan_arrays(store, names=["sd/t195/s33"])
    with pytest.raises(StoreError, match="no array would be left"):
        plan_arrays(store, [195, 500], ["clip"])


def die_at(call: int) -> None:
    on_disk_call(lambda count: os._exit(9) if count == call else None)


def test_death_at_any_step_of_pruning(tmp_path: Path) -> None:
    """The store is sound whatever was done, and the same command, or a writer, ends it."""
    write(tmp_path / "whole", 9, quarantined={5})
    write(tmp_path / "expected", 9, [POOLED, LATENT], quarantined={5})
    dropped = [S3.name, QUANTISED.name]
    for at_call in range(1, 200, 4):
        store = tmp_path / str(at_call)
        write(store, 9, quarantined={5})
        child = os.fork()
        if child == 0:
            die_at(at_call)
            prune_arrays(store, dropped)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert verify_store(store).problems == (), at_call
        if at_call % 8 == 1:
            write(store, 9, quarantined={5})
            assert array_contents(store) == array_contents(tmp_path / "whole"), at_call
        else:
            prune_arrays(store, dropped)
            assert array_contents(store) == array_contents(tmp_path / "expected"), at_call
            assert verify_store(store).notes == (), at_call
        if code == 0:
            return
    raise AssertionError("never came to its end")


def test_leftovers_of_killed_writers(tmp_path: Path) -> None:
    store = tmp_path / "s"
    write(store, 4, [S3, LATENT])
    writer = StoreWriter.open(store, RECIPE, image_records(8), [S3, LATENT], shard_size=4)
    (task,) = writer.pending()
    child = os.fork()
    if child == 0:
        with writer.shard(task):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    # And a publication that stopped before its commit.
    (store / S3.name / "c.1.0.0.0").write_bytes(b"x" * 5)
    (store / "commits/.000001.json.abc.tmp").write_bytes(b"xyz")
    plan = plan_temporaries(store)
    assert len(plan.bytes_by_name) == 4 and plan.n_bytes == 8
    prune_temporaries(store)
    assert plan_temporaries(store).bytes_by_name == {}
    assert {note.kind for note in verify_store(store).notes} == {"unfinished"}


def test_a_writer_at_work_is_not_disturbed(tmp_path: Path) -> None:
    store = tmp_path / "s"
    write(store, 4, ARRAYS)
    writer = StoreWriter.open(store, RECIPE, image_records(8), [S3, LATENT], shard_size=4)
    (task,) = writer.pending()
    with writer.shard(task):
        assert plan_temporaries(store).bytes_by_name == {}
        with pytest.raises(StoreError, match="a writer is at work here"):
            prune_arrays(store, [S3.name])
        prune_arrays(store, [QUANTISED.name])
    assert verify_store(store).sound


def test_from_the_command_line(store_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["cache", "prune", str(store_path), *arguments])
        return result.exit_code, result.output

    before = contents(store_path)
    code, output = run("--array", S3.name)
    assert code == 1 and "nobody to ask, nothing dropped; add --yes" in output
    assert "KiB  sd/t195/s3\n" in output and contents(store_path) == before
    assert run()[0] == run("--temporary", "--timestep", "195")[0] == 2
    assert "nothing to drop" in run("--temporary")[1]
    code, output = run("--array", S3.name, "--yes")
    assert code == 0 and "dropped" in output
    assert S3.name not in FeatureStore.open(store_path).arrays


def test_json_drops_only_what_it_is_told_to(store_path: Path) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        words = ["cache", "prune", str(store_path), "--array", S3.name, "--json", *arguments]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0
        return dict(json.loads(result.stdout))

    before = contents(store_path)
    planned = run()
    assert not planned["dropped"] and contents(store_path) == before
    assert set(planned["bytes_by_name"]) == {S3.name}
    assert planned["bytes"] == planned["bytes_by_name"][S3.name] > 0
    assert run("--yes") == {**planned, "dropped": True}
    assert S3.name not in FeatureStore.open(store_path).arrays
