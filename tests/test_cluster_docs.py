"""The SLURM templates of docs/slurm, without SLURM: the script runs, and what dask would submit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.test_precompute import array_bytes, run, world

__all__ = ["world"]  # the fixture

SLURM = Path(__file__).parents[1] / "docs" / "slurm"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH with this checkout's command, and an `scontrol` that writes down what it is told."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, line in (
        ("sketchfusion", f'exec "{sys.executable}" -m cli "$@"'),
        ("scontrol", f'echo "$@" >> "{tmp_path}/scontrol"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_ID": "4711",
        "PARTS": "2",
    }


def start(
    world: Path, store: Path, task: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    script = [str(SLURM / "array.sbatch"), str(world / "config.yaml"), str(store)]
    return subprocess.Popen(
        ["bash", *script], env={**environment, "SLURM_ARRAY_TASK_ID": str(task)}, cwd=ROOT
    )


def test_the_array_script_computes_its_parts_and_queues_a_stopped_task_again(
    world: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    alone, store = tmp_path / "alone", tmp_path / "store"
    assert run(world, alone, "extraction.shard_size=1").exit_code == 0
    # Its shard size is the store's from then on: many pieces, so that a signal falls in between.
    first = run(world, store, "extraction.shard_size=1", extra=["--part", "11/11"])
    assert first.exit_code == 0
    commits = store / "commits"
    before = len(list(commits.glob("*.json")))

    stopped = start(world, store, 1, environment)
    while len(list(commits.glob("*.json"))) == before:
        assert stopped.poll() is None
        time.sleep(0.005)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 143
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"

    for task in (1, 2):
        assert start(world, store, task, environment).wait(120) == 0
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"
    assert array_bytes(store) == array_bytes(alone)


def test_bad_input_ends_a_task_for_good(tmp_path: Path, environment: dict[str, str]) -> None:
    environment = {**environment, "PARTS": "0"}
    assert start(tmp_path, tmp_path / "store", 1, environment).wait(60) == 2
    assert not (tmp_path / "scontrol").exists()


def test_dask_would_submit_one_worker_with_one_thread_and_one_gpu() -> None:
    pytest.importorskip("dask_jobqueue")
    made = subprocess.run(
        [sys.executable, str(SLURM / "dask_cluster.py"), "--script"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = made.stdout.splitlines()
    assert lines[0].startswith("#!")
    for line in ("#SBATCH --gpus=1", "#SBATCH --cpus-per-task=8", "#SBATCH --requeue"):
        assert line in lines
    (worker,) = (line for line in lines if "dask_worker" in line)
    assert "--nthreads 1 " in worker
    assert "--lifetime 225m" in worker
    assert lines.index("export HF_HUB_OFFLINE=1") < lines.index(worker)
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n"], input=made.stdout, text=True, check=True)
