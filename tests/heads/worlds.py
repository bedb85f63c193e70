"""A small `shapes` world for the tests of training: tiny networks, stores made once, commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import Tensor

from cli import main
from tests import tiny

ROOT = Path(__file__).parents[2]
SIZE = 192
"""Images: the 32 categories twice, each instance a photo and two sketches."""
PIXELS = 64
TRAIN: dict[str, Any] = {
    "features": ["sd", "clip"],
    "width": 16,
    "grid": 6,
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
}
"""A head that is trained in a moment."""


def run(*arguments: str | Path) -> Result:
    """A command in this process; bad input must never be a traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    crashed = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not crashed, f"{arguments}: {result.exception!r}"
    return result


def ok(*arguments: str | Path) -> Result:
    """A command that must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def complaint(*arguments: str | Path) -> str:
    """The one line of a command that must fail."""
    result = run(*arguments)
    assert result.exit_code != 0, result.output
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: "), result.stderr
    assert "Traceback" not in result.output
    return lines[-1]


def sets(*items: str) -> list[str]:
    """`--set` before each item."""
    return [word for item in items for word in ("--set", item)]


@dataclass(frozen=True)
class World:
    """A configuration on disk, its store of plain SD in float32, and the files beside it."""

    root: Path
    config: Path
    store: Path

    def train(self, out: Path, *items: str, extra: Sequence[str | Path] = ()) -> Result:
        """`train` on the plain store, which must succeed."""
        return ok(*self.command(out, *items, extra=extra))

    def command(
        self, out: Path, *items: str, extra: Sequence[str | Path] = (), store: Path | None = None
    ) -> list[str | Path]:
        """The arguments of `train`; without `store` it reads the plain one."""
        cache = ["--cache", store or self.store]
        return ["train", self.config, *cache, "--out", out, *sets(*items), *extra]

    def precompute(self, out: Path, *items: str) -> Path:
        """A store made with some keys changed."""
        ok("precompute", self.config, "--out", out, *sets(*items))
        return out


def write_config(path: Path, networks: Path, dataset: Mapping[str, Any], **train: Any) -> Path:
    """A configuration with the tiny networks below a folder."""
    document = {
        "backbone": {
            "sd": {"source": str(networks / "sd")},
            "clip": {
                "model": str(networks / "clip" / "tiny-vit.json"),
                "pretrained": str(networks / "clip" / "tiny-vit.safetensors"),
            },
            "resolution": PIXELS,
        },
        "dataset": dict(dataset),
        "extraction": {
            "timesteps": [195],
            "store_dtype": "float32",
            "shard_size": 48,
            "batch_size": 48,
            "workers": 0,
            "device": "cpu",
        },
        "train": {**TRAIN, **train},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def save_networks(root: Path, seed: int = 0) -> Path:
    """Tiny Stable Diffusion and CLIP checkpoints."""
    tiny.save_tiny_sd(root / "sd", text="null_prompt", seed=seed)
    tiny.save_tiny_clip(root / "clip", image_size=PIXELS)
    return root


def shapes_world(factory: pytest.TempPathFactory) -> World:
    """The world of this test session, made when it is first asked for."""
    return _shapes_world(factory.getbasetemp() / "shapes-world")


@cache
def _shapes_world(root: Path) -> World:
    root.mkdir()
    save_networks(root)
    dataset = {"name": "shapes", "size": SIZE, "pixels": PIXELS}
    config = write_config(root / "shapes.yaml", root, dataset)
    world = World(root, config, root / "plain")
    world.precompute(world.store)
    return world


def weights(run_folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a run's two checkpoints."""
    return {name: load_file(run_folder / f"{name}.safetensors") for name in ("best", "last")}


def assert_equal_weights(a: Path, b: Path) -> None:
    """Best and last checkpoint of two runs are equal, tensor for tensor."""
    ours, theirs = weights(a), weights(b)
    for name, tensors in theirs.items():
        assert ours[name].keys() == tensors.keys()
        for key, value in tensors.items():
            assert torch.equal(ours[name][key], value), f"{name}: {key}"


def curve(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's curve, all of them whole."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def validations(run_folder: Path) -> list[tuple[int, int]]:
    """Epoch and step of each validation in the curve."""
    return [(entry["epoch"], entry["step"]) for entry in curve(run_folder) if "validation" in entry]


_SERVER = """
import json, os, signal, sys
import cli, heads.training.bar, heads.training.cycle
import heads.evaluation.evaluate, heads.evaluation.table, pipeline.bar, torch
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        cli.main(job["arguments"], prog_name="sketchfusion")
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Processes:
    """Commands in processes of their own, which may be killed; the imports are done once."""

    log: Path
    _server: subprocess.Popen[str] = field(repr=False)

    def start(self, *arguments: str | Path) -> int:
        """Begin a command; its process number."""
        job = {"arguments": [str(a) for a in arguments], "log": str(self.log)}
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """The exit code of what was started last, negative for a signal."""
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def output(self) -> str:
        """What it wrote."""
        return self.log.read_text()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Start commands from one process that has imported everything."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Processes(folder / "output.txt", server)
        assert server.stdin
        server.stdin.close()
