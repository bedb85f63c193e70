"""The training loop: AdamW, a cosine schedule, validation, checkpoints that resume exactly.

What happens in a step depends on the seed and the step's number alone: the order of examples is
drawn per epoch, dropout and noise per step. So a run that was killed and resumed ends with the
weights of one that was not: the same ones on a CPU; a GPU adds up some gradients in no fixed order.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from configs import TrainConfig
from heads.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    write_facts,
)
from heads.training.learner import Learner
from heads.training.run import Run, RunError
from heads.training.validation import validate

LOG_SECONDS = 2.0
"""At most this often a step is logged."""


@dataclass(frozen=True)
class TrainProgress:
    """Where training is; `validation` only right after one."""

    step: int
    n_steps: int
    epoch: int
    n_epochs: int
    loss: float
    validation: Mapping[str, float] | None = None


TrainListener = Callable[[TrainProgress], None]


@dataclass
class State:
    """How far a run is: what a checkpoint knows beside tensors."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epochs done."""
    best: float | None = None
    best_epoch: int | None = None
    n_worse: int = 0
    """Validations since the best one."""
    finished: bool = False
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any], path: Path) -> State:
        """What the facts of the checkpoint ``path`` say; CheckpointError where they are others."""
        fits = {
            "step": _is_count,
            "epoch": _is_count,
            "best": lambda value: value is None or type(value) in (int, float),
            "best_epoch": lambda value: value is None or _is_count(value),
            "n_worse": _is_count,
            "finished": lambda value: isinstance(value, bool),
            "seconds": lambda value: type(value) in (int, float) and value >= 0,
            "scaler": lambda value: isinstance(value, dict),
        }
        wrong = [name for name, fit in fits.items() if name not in facts or not fit(facts[name])]
        wrong += sorted(facts.keys() - fits.keys())
        if wrong:
            raise CheckpointError(
                f"{path}: does not say how far the run is ({wrong[0]}); restore it, or train the "
                "run again in another folder"
            )
        return cls(**facts)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def fit(
    learner: Learner,
    run: Run,
    settings: TrainConfig,
    accelerator: Accelerator,
    listener: TrainListener | None = None,
) -> State:
    """Train until the last epoch, or until validation no longer improves; the best weights are
    then in the learner and in `run.best`.

    Goes on from `run.last` where it exists. Raises TaskError where there is nothing to learn, and
    RunError for a loss that is not a number.
    """
    learner.to(accelerator.device)
    optimizer = _optimizer(learner, settings)
    trained = [p for p in learner.parameters() if p.requires_grad]
    names = {p: name for name, p in learner.named_parameters()}
    model, optimizer = accelerator.prepare(learner, optimizer)
    state = State()
    if run.last.exists():
        state = _resume(learner, optimizer, names, run, accelerator)
    if not state.finished and accelerator.is_main_process:
        run.rewind(state.step, state.epoch)
    logger = _Logger(run, accelerator, listener, settings.epochs)
    task, has_validation = learner.task, len(learner.task.parts.val) > 0

    while not state.finished:
        batches = task.batches(_generator(settings.seed, "epoch", state.epoch))
        first_step = state.epoch * len(batches)
        n_steps = settings.epochs * len(batches)
        started = saved = time.monotonic()
        learner.train()
        if settings.dropout_epochs is not None and state.epoch >= settings.dropout_epochs:
            learner.stop_dropout()
        remaining = batches[state.step - first_step :]
        for batch, following in zip_longest(remaining, remaining[1:]):
            _schedule(optimizer, settings, state.step / (settings.cosine_steps or n_steps))
            torch.manual_seed(_seed(settings.seed, "step", state.step, accelerator.process_index))
            optimizer.zero_grad(set_to_none=True)
            if following is not None:
                learner.expect(following)
            loss = model(batch)
            accelerator.backward(loss)
            # Asked for once everything is queued: a GPU has then something to do meanwhile.
            value = accelerator.reduce(loss.detach(), "mean").item()
            if not math.isfinite(value):
                raise RunError(
                    f"{run.folder}: the loss is {value} at step {state.step + 1}; lower "
                    "train.learning_rate, or set train.gradient_norm=1"
                )
            if settings.gradient_norm is not None:
                accelerator.clip_grad_norm_(trained, settings.gradient_norm)
            optimizer.step()
            state.step += 1
            now = time.monotonic()
            logger.step(state, n_steps, value, optimizer.param_groups[0]["lr"])
            if now - saved > settings.checkpoint_minutes * 60 and state.step < n_steps:
                state.seconds += now - started
                started = saved = now
                _save(learner, optimizer, names, run, state, accelerator)

        state.epoch += 1
        last = state.epoch == settings.epochs
        improved = not has_validation
        validates = has_validation and (state.epoch % settings.validate_every == 0 or last)
        if (validates or improved) and learner.front is not None and learner.fits_statistics:
            # What learns in front of the head has moved the features.
            learner.fit_statistics()
        if validates:
            metrics = validate(learner)
            logger.validation(state, n_steps, metrics)
            # What is not a number is no result, and worse than any.
            found = metrics[task.monitor]
            found = -math.inf if math.isnan(found) else found
            # Among equals the latest is taken: a small validation part is soon at its ceiling.
            improved = state.best is None or found >= state.best
            better = state.best is None or found > state.best
            state.n_worse = 0 if better else state.n_worse + 1
            if improved:
                state.best, state.best_epoch = found, state.epoch
        state.seconds += time.monotonic() - started
        worn_out = settings.patience is not None and state.n_worse >= settings.patience
        state.finished = last or worn_out
        if accelerator.is_main_process and improved:
            facts = {"epoch": state.epoch, "step": state.step, task.monitor: state.best}
            save_checkpoint(run.best, Checkpoint(learner.learned(), facts))
        _save(learner, optimizer, names, run, state, accelerator)

    accelerator.wait_for_everyone()
    learner.restore(load_checkpoint(run.best).tensors)
    logger.close()
    return state


def _optimizer(learner: Learner, settings: TrainConfig) -> torch.optim.AdamW:
    front = list(learner.front.parameters()) if learner.front is not None else []
    in_front = {id(p) for p in front}
    rest = [p for p in learner.parameters() if p.requires_grad and id(p) not in in_front]
    rate = settings.learning_rate
    groups: list[dict[str, Any]] = [{"params": rest, "peak": rate}]
    trained = [p for p in front if p.requires_grad]
    if trained:
        groups.append({"params": trained, "peak": settings.injection.learning_rate or rate})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=settings.weight_decay)


def _schedule(optimizer: Any, settings: TrainConfig, done: float) -> None:
    """The paper's cosine, as a function of the share of steps done; beyond 1 it rises again."""
    falling = (1 + math.cos(math.pi * done)) / 2
    for group in optimizer.param_groups:
        low = min(settings.final_learning_rate, group["peak"])
        group["lr"] = low + (group["peak"] - low) * falling


def _seed(seed: int, what: str, *numbers: int) -> int:
    text = ":".join(map(str, (seed, what, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _generator(seed: int, what: str, *numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, what, *numbers))


def _save(
    learner: Learner,
    optimizer: Any,
    names: Mapping[nn.Parameter, str],
    run: Run,
    state: State,
    accelerator: Accelerator,
) -> None:
    if not accelerator.is_main_process:
        return
    if accelerator.scaler is not None:
        state.scaler = dict(accelerator.scaler.state_dict())
    inner = getattr(optimizer, "optimizer", optimizer)
    tensors = {f"model.{name}": t for name, t in learner.learned().items()}
    tensors |= {f"optimizer.{k}": t for k, t in optimizer_tensors(inner, names).items()}
    save_checkpoint(run.last, Checkpoint(tensors, vars(state)))


def _resume(
    learner: Learner,
    optimizer: Any,
    names: Mapping[nn.Parameter, str],
    run: Run,
    accelerator: Accelerator,
) -> State:
    checkpoint = load_checkpoint(run.last)
    state = State.of(checkpoint.facts, run.last)
    learner.restore(checkpoint.under("model"))
    inner = getattr(optimizer, "optimizer", optimizer)
    restore_optimizer(inner, names, checkpoint.under("optimizer"))
    if accelerator.is_main_process:
        write_facts(run.last, checkpoint)  # The last run may have been killed just before it.
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)
    return state


class _Logger:
    """Tells the curve, the listener, and TensorBoard where it is installed."""

    def __init__(
        self,
        run: Run,
        accelerator: Accelerator,
        listener: TrainListener | None,
        n_epochs: int,
    ) -> None:
        self._run = run
        self._main = accelerator.is_main_process
        self._listener = listener
        self._n_epochs = n_epochs
        self._logged = 0.0
        self._board = _tensorboard(run) if self._main else None

    def step(self, state: State, n_steps: int, loss: float, rate: float) -> None:
        if not self._main:
            return
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS or state.step == n_steps:
            self._logged = now
            self._run.log({"step": state.step, "epoch": state.epoch, "loss": loss, "rate": rate})
            self._to_board({"loss": loss, "rate": rate}, state.step)
        self._tell(TrainProgress(state.step, n_steps, state.epoch, self._n_epochs, loss))

    def validation(self, state: State, n_steps: int, metrics: Mapping[str, float]) -> None:
        if not self._main:
            return
        self._run.log({"step": state.step, "epoch": state.epoch, "validation": dict(metrics)})
        self._to_board({f"validation/{k}": v for k, v in metrics.items()}, state.step)
        progress = TrainProgress(
            state.step, n_steps, state.epoch, self._n_epochs, math.nan, dict(metrics)
        )
        self._tell(progress)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _to_board(self, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def _tell(self, progress: TrainProgress) -> None:
        if self._listener is not None:
            self._listener(progress)


def _tensorboard(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run.folder / "tensorboard"))
