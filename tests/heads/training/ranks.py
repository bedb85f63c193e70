"""Processes that train together, forked from one that has imported everything.

    python -m tests.heads.training.ranks FOLDER

starts three, which form a gloo group by way of accelerate, and keeps what each of them found.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from configs import TrainConfig
from heads.tasks import Task
from heads.training.accelerator import open_accelerator
from heads.training.learner import Learner
from heads.training.processes import gather_rows, n_processes, process_index
from heads.training.run import Run, RunError
from heads.training.trainer import fit
from heads.training.validation import validate
from tests.heads.training.test_trainer import BARS, Answers, make_learner

ROOT = Path(__file__).parents[3]
N_RANKS = 3
BATCHES = (7, 2)
"""Examples: shares of 3, 2 and 2, and of 1, 1 and none."""


def together(folder: Path) -> list[dict[str, Any]]:
    """What each of the processes found."""
    command = [sys.executable, "-m", __name__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(N_RANKS)]


# What one process and several do alike --------------------------------------------------------


def uneven(name: str) -> Learner:
    """A learner without dropout or noise, whose examples do not all count the same."""
    more = {"correspondence": {"target_noise": 0.0}, "fine_grained": {"same_category": 3}}
    learner = make_learner(name, dropout=0.0, width=32, groups=4, **{name: more.get(name, {})})
    learner.train()
    return learner


def batch_of(learner: Learner, n: int) -> list[Any]:
    """The first n examples of an epoch, as uneven as they may be."""
    batches = learner.task.batches(torch.Generator().manual_seed(5))
    batch = [example for some in batches for example in some][:n]
    if learner.task.name == "correspondence":
        # The second of three shares has nothing to learn; the others have unlike numbers of points.
        visible = [[0, 1, 2, 3, 4], [0], [], [], [], [1, 2], [5]]
        batch = [
            replace(pair, visible=torch.isin(torch.arange(len(pair.visible)), torch.tensor(seen)))
            for pair, seen in zip(batch, visible, strict=False)
        ]
    if learner.task.name == "segmentation":
        # Photos of unlike heights: margins count for nothing.
        crop(learner.task, {pair.photo: 16 + 6 * number for number, pair in enumerate(batch)})
    return batch


def crop(task: Task[Any, Any], heights: Mapping[str, int]) -> None:
    """Let training photos of a segmentation task be the upper part of what they were."""
    frame, train = task.frame, task.parts.train
    sizes = {name: (frame.sizes[name][0], height) for name, height in heights.items()}
    masks = {
        name: lambda name=name: train.masks[name]()[: heights[name]]  # type: ignore[misc]
        for name in heights
    }
    cropped = replace(train, masks={**train.masks, **masks})
    object.__setattr__(task, "frame", replace(frame, sizes={**frame.sizes, **sizes}))
    object.__setattr__(task, "parts", replace(task.parts, train=cropped))


def step(model: nn.Module, learner: Learner, batch: list[Any]) -> dict[str, Any]:
    """The loss of a batch, and everything that a step leaves in the learner."""
    learner.zero_grad(set_to_none=True)
    loss: Tensor = model(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in learner.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients, "buffers": dict(learner.named_buffers())}


def losses(accelerator: Accelerator) -> dict[str, Any]:
    """A step of every task on each of the batches."""
    found: dict[str, Any] = {}
    for name in BARS:
        for n in BATCHES:
            learner = uneven(name)
            batch = batch_of(learner, n)
            model = accelerator.prepare(learner)
            result = step(model, learner, batch)
            result["loss"] = accelerator.reduce(result["loss"], "mean")
            found[f"{name} {n}"] = result
    return found


def gathered() -> dict[str, Any]:
    """Rows of all processes, and the gradients of a loss that differs between them."""
    rank, counts = process_index(), [2, 0, 3]
    assert n_processes() == len(counts)
    rows = (torch.arange(8.0).reshape(4, 2) + 100 * rank).requires_grad_()
    together = gather_rows(rows, counts)
    ((rank + 1) * together.square()).sum().backward()  # type: ignore[no-untyped-call]
    return {"rows": together.detach(), "gradient": rows.grad}


def failure() -> str:
    """What a process says if the main one cannot validate."""
    learner = uneven("retrieval")
    if process_index() == 0:
        object.__setattr__(learner.task, "protocol", None)
    try:
        validate(learner)
    except (AttributeError, RunError) as error:
        return str(error)
    return "nothing"


RUNS = ("fine_grained", "segmentation")


def whole_run(name: str, accelerator: Accelerator, out: Path) -> dict[str, Any]:
    """Two epochs of a task into a folder: how far they came, and how many images were described."""
    out.mkdir(exist_ok=True)
    learner = uneven(name)
    state = fit(learner, Run(out), learner.task.settings.model_copy(
        update={"epochs": 2, "learning_rate": 1e-4}), accelerator)  # fmt: skip
    assert isinstance(learner.source, Answers)
    described = [ids for call, ids in learner.source.calls if call == "maps"]
    return {
        "state": {**vars(state), "seconds": 0.0},
        "described": sum(map(len, described)),
        "weights": learner.learned(),
    }


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(N_RANKS),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    accelerator = open_accelerator(TrainConfig(device="cpu"))
    assert accelerator.num_processes == N_RANKS
    found = {
        "gathered": gathered(),
        "losses": losses(accelerator),
        "failure": failure(),
        "runs": {name: whole_run(name, accelerator, folder / name) for name in RUNS},
    }
    torch.save(found, folder / f"{rank}.pt")
    accelerator.wait_for_everyone()


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = set()
    for rank in range(N_RANKS):
        if (pid := os.fork()) == 0:
            try:
                _rank(rank, port, folder)
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
        running.add(pid)
    failed = False
    while running:
        pid, status = os.wait()
        running.remove(pid)
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
