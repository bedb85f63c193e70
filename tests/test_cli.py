"""The command line: documented commands, honest exit codes, one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli import main

TINY_WORLD = ["--set", "dataset.size=6", "--set", "extraction.workers=0"]


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert "Traceback" not in result.output
    return result


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "store"
    result = run("precompute", "demo", "--out", str(out), *TINY_WORLD)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_every_command_has_help_with_examples(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"  sketchfusion {' '.join(path)}" in result.output
    assert "Examples:" in result.output


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, cli; cli.main(['-h'], standalone_mode=False); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"


def test_plan_counts_what_precompute_then_writes(tmp_path: Path) -> None:
    sets = ["--set", "dataset.size=6"]
    plan = json.loads(run("plan", "demo", *sets, "--json").stdout)
    assert plan["images"] == plan["images_to_do"] == 6
    assert plan["fits"] is True
    out = tmp_path / "store"
    assert run("precompute", "demo", "--out", str(out), *sets).exit_code == 0
    for name, n_bytes in plan["bytes_per_image"].items():
        written = sum(path.stat().st_size for path in (out / name).glob("c.*"))
        if name != "clip/pooled":  # its files hold 1,024 rows from the start
            assert written == pytest.approx(6 * n_bytes, rel=0.05)
    after = json.loads(run("plan", "demo", "--out", str(out), *sets, "--json").stdout)
    assert after["images_to_do"] == after["seconds_estimate"] == 0
    assert "nothing to do" in run("plan", "demo", "--out", str(out), *sets).stdout
    fewer = json.loads(
        run("plan", "demo", "--out", str(out), "--set", "dataset.size=4", "--json").stdout
    )
    assert fewer["images_to_do"] == 0
    more = ["--set", "dataset.size=9"]
    grown = json.loads(run("plan", "demo", "--out", str(out), *more, "--json").stdout)
    assert grown["images_to_do"] == 3


def test_plan_refuses_a_job_that_does_not_fit() -> None:
    result = run("plan", "demo", "--set", "dataset.size=90000", "--set", "dataset.pixels=96",
                 "--set", "extraction.timesteps=" + str(list(range(1000))))  # fmt: skip
    assert result.exit_code == 1
    assert "needs" in result.stderr
    assert "free" in result.stderr


def test_the_cache_commands(store: Path) -> None:
    listed = json.loads(run("cache", "ls", str(store.parent), "--json").stdout)
    assert [Path(entry["path"]) for entry in listed["stores"]] == [store]
    assert listed["damaged"] == {}
    info = json.loads(run("cache", "info", str(store), "--json").stdout)
    assert info["n_images"] == info["n_committed"] == 6
    assert info["fingerprint"] in run("cache", "info", str(store)).stdout
    assert info["fingerprint"][:12] in run("cache", "ls", str(store.parent)).stdout
    assert run("cache", "verify", str(store)).exit_code == 0
    assert json.loads(run("cache", "verify", str(store), "--json").stdout)["sound"] is True


def test_verify_exits_with_one_for_a_flipped_bit(tmp_path: Path) -> None:
    out = tmp_path / "store"
    assert run("precompute", "demo", "--out", str(out), *TINY_WORLD).exit_code == 0
    path = next((out / "sd").rglob("c.*"))
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    result = run("cache", "verify", str(out))
    assert result.exit_code == 1
    assert path.name in result.stdout
    assert "by hand: delete commits/000000.json" in result.stdout
    assert run("cache", "verify", str(out), "--fast").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["precompute", "nowhere.yaml"], "nowhere.yaml"),
        (["precompute", "demo", "--set", "extraction.timestep=1"], "extraction.timesteps"),
        (["precompute", "demo", "--part", "5/4"], "1 <= K <= N"),
        (["precompute", "demo", "--part", "0/4"], "1 <= K <= N"),
        (["precompute", "demo", "--set", "dataset=folder"], "root"),
        (["plan", "demo", "--set", "dataset={name: folder, root: /nowhere}"], "/nowhere"),
        (["precompute", "demo", "--set", "extraction.device=cuda:77"], "not available"),
        (["precompute", "demo", "--set", "extraction.timesteps=[1000]"], "beyond"),
        (["precompute", "demo", "--set", "extraction.injection=none.safetensors"], "no such"),
        (["precompute", "demo", "--set", "backbone.sd.source=nowhere"], "no such folder"),
        (["cache", "info", "/nowhere"], "/nowhere"),
        (["cache", "verify", "/nowhere"], "/nowhere"),
        (["cache", "ls", "/nowhere"], "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_a_non_zero_exit(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code != 0
    complaint = result.stderr.strip().splitlines()[-1]
    assert complaint.startswith("Error: ")
    assert says in complaint


def test_an_existing_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = run("precompute", "demo", "--out", str(tmp_path), *TINY_WORLD)
    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "demo", "--out", "s3://bucket/run"],
        ["evaluate", "s3://bucket/run"],
        ["cache", "export", "stores/x", "s3://bucket/x.h5"],
        ["plot", "spectrum", "stores/x", "--out", "s3://bucket/x.png"],
    ],
)
def test_only_stores_may_lie_elsewhere(arguments: list[str]) -> None:
    """A path would take `s3://bucket` for the folder `s3:`."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "give a local path" in result.stderr.splitlines()[-1]
