"""Two processes that train together, as `accelerate launch` starts them, make one run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from cache import FeatureStore, verify_store
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
