"""Two processes that train together, as `accelerate launch` starts them, make one run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from cache import FeatureStore, verify_store
from heads.training.processes import contiguous_shares
from heads.training.train import idle_processes
from tests.heads.training.ranks import (
    BATCHES,
    RUNS,
    batch_of,
    step,
    together,
    uneven,
    whole_run,
)
from tests.heads.training.test_trainer import BARS
from tests.heads.worlds import ROOT, World, curve, ok, validations, weights


def launch(*arguments: str | Path) -> None:
    """Run a command in two processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "cli", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n---\n".join(errors)


def test_two_processes_run_the_whole_cycle(world: World, tmp_path: Path) -> None:
    items = (
        *("task=correspondence", "dataset.size=96", "train.batch_size=6"),
        *("extraction.shard_size=16", "extraction.batch_size=16"),
        *("train.injection.sites=[up.0]", "train.cycle.epochs=2"),
    )
    out = tmp_path / "run"
    launch(*world.command(out, *items))
    assert verify_store(out / "store").sound
    store = FeatureStore.open(out / "store")
    assert len(store.readable(list(store.arrays))) == len(store) == 96
    for part in (out / "live", out):
        lines = curve(part)
        assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
        n_steps = lines[-1]["step"]
        assert validations(part) == [(1, n_steps // 2), (2, n_steps)]
    facts = json.loads((out / "last.json").read_text())
    assert facts["finished"] is True
    assert all(tensor.isfinite().all() for tensor in weights(out)["best"].values())
    assert json.loads(ok("evaluate", out, "--no-floors", "--json").stdout)["n"] > 0


# The same as one process --------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [0, 1, 2, 3, 7, 12])
def test_shares_are_contiguous_and_even(n_items: int) -> None:
    shares = contiguous_shares(range(n_items), 3)
    assert [item for share in shares for item in share] == list(range(n_items))
    sizes = [len(share) for share in shares]
    assert len(sizes) == 3 and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return together(folder)


def test_rows_of_all_processes_come_with_their_gradients(ranks: list[dict[str, Any]]) -> None:
    """Uneven numbers of rows, and a process without any."""
    first, last = torch.arange(4.0).reshape(2, 2), torch.arange(6.0).reshape(3, 2) + 200
    found = [rank["gathered"] for rank in ranks]
    for rank in found:
        assert torch.equal(rank["rows"], torch.cat([first, last]))
    # Process r's loss is (r + 1) times the sum of the squares.
    n_losses = 1 + 2 + 3
    none = torch.zeros(4, 2)
    for rank, own, n in ((found[0], first, 2), (found[1], none, 0), (found[2], last, 3)):
        expected = none.clone()
        expected[:n] = 2 * n_losses * own[:n]
        assert torch.equal(rank["gradient"], expected)


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("name", BARS)
def test_loss_and_gradients_are_those_of_one_process(
    ranks: list[dict[str, Any]], name: str, n: int
) -> None:
    """With unlike shares: of examples, of points, of margins, and empty ones."""
    learner = uneven(name)
    one = step(learner, learner, batch_of(learner, n))
    assert one["loss"] > 0, "the oracle has nothing to learn"
    assert any(gradient.abs().max() > 1e-3 for gradient in one["gradients"].values())
    for rank in ranks:
        other = rank["losses"][f"{name} {n}"]
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
        # As a whole: two examples behind a batch norm leave single gradients that are all rounding.
        expected, found = (
            torch.cat([result["gradients"][key].flatten() for key in one["gradients"]])
            for result in (one, other)
        )
        assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("name", RUNS)
def test_validation_is_shared_and_all_processes_decide_alike(
    ranks: list[dict[str, Any]], folder: Path, tmp_path: Path, name: str
) -> None:
    one = whole_run(name, Accelerator(cpu=True), tmp_path / name)
    runs = [rank["runs"][name] for rank in ranks]
    several, alone = (
        [line["validation"] for line in curve(place / name) if "validation" in line]
        for place in (folder, tmp_path)
    )
    assert len(several) == len(alone) == 2
    for ours, theirs in zip(several, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    best = pytest.approx(one["state"]["best"], abs=1e-3)
    for run in runs:
        assert run["state"] == {**one["state"], "best": best}
        for key, value in one["weights"].items():
            torch.testing.assert_close(run["weights"][key], value, rtol=1e-2, atol=1e-3)
    described = [run["described"] for run in runs]
    assert sum(described) < 1.1 * one["described"]
    assert max(described) < 1.2 * min(described)


def test_all_processes_stop_if_the_main_one_cannot_validate(ranks: list[dict[str, Any]]) -> None:
    assert "score" in ranks[0]["failure"]
    assert [rank["failure"] for rank in ranks[1:]] == [
        "validation failed in the main process; it says why"
    ] * 2


@pytest.mark.parametrize(("batch_size", "n_idle"), [(1, 3), (3, 1), (4, 0), (9, 0)])
def test_processes_without_an_example_are_named(batch_size: int, n_idle: int) -> None:
    lines = idle_processes(batch_size, n_processes=4)
    assert len(lines) == bool(n_idle)
    assert all(f"train.batch_size={batch_size}: {n_idle} of 4" in line for line in lines)
