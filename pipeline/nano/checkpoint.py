"""What the three trainings share: checkpoints to go on from, a log, an average of the weights."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.storage.files import replacing

SECONDS_BETWEEN_CHECKPOINTS = 120


class Run:
    """A training's folder: `state.pt` (all that is needed to go on) and `log.jsonl`.

    `parts` are what has a state: networks, optimiser, schedule. Random numbers come from one
    generator, whose state is kept too, so a resumed training goes on as it would have.
    """

    def __init__(self, out: Path, seed: int, parts: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self._state, self._log = out / "state.pt", out / "log.jsonl"
        self._parts = parts
        self._seconds = 0.0
        self._since = self._saved = time.monotonic()
        if self._state.exists():
            self._load()

    def done(self, n_steps: int, **values: Tensor) -> None:
        """Count a step of `n_steps`, log `values` every 50 and save every two minutes."""
        self.step += 1
        last = self.step == n_steps
        if self.step % 50 == 0 or last:
            line: dict[str, float] = {"step": self.step, "seconds": round(self.seconds)}
            for name, value in values.items():
                line[name] = round(float(value.item()), 5)
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if last or time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    @property
    def seconds(self) -> float:
        """Spent so far, in all runs together."""
        return self._seconds + time.monotonic() - self._since

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"step": self.step, "seconds": self.seconds, "rng": self.generator.get_state()}
        # PyTorch's own generator draws dropped patches.
        state["torch_rng"] = torch.get_rng_state()
        with replacing(self._state) as new:
            torch.save(state, new)
        self._saved = time.monotonic()

    def _load(self) -> None:
        state = torch.load(self._state, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self._seconds = state["step"], state["seconds"]


class Average(nn.Module):
    """An exponential moving average of a network's weights, faster at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network` after its step number `step`, counted from 1."""
        decay = min(self._decay, step / (step + 10))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


def load_part(out: Path, name: str) -> dict[str, Tensor]:
    """The state of one part of a training's last checkpoint."""
    return torch.load(out / "state.pt", weights_only=True)[name]


def set_learning_rate(
    optimiser: torch.optim.Optimizer, peak: float, step: int, n_steps: int, warm_up: int
) -> None:
    """Rise over `warm_up` steps, then a cosine down to nothing; a group's `share` multiplies it."""
    rate = peak * min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / n_steps)) / 2
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
