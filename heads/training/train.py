"""`sketchfusion train` as one function: from a configuration and stores to a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from cache import StorePath
from cache.units import human_seconds
from configs import Config
from heads.machine import describe_machine
from heads.report.run import write_run_report
from heads.statistics.choices import describe_choice
from heads.statistics.search import choose
from heads.training.accelerator import open_accelerator
from heads.training.checkpoint import Checkpoint, load_checkpoint, load_facts, save_checkpoint
from heads.training.experiment import Experiment, Log, open_experiment
from heads.training.learner import Learner
from heads.training.run import Run, RunError, open_run
from heads.training.trainer import State, TrainListener, fit
from heads.training.validation import validate
from pipeline.networks.injection import Injection, InjectionError, open_injection


@dataclass(frozen=True)
class TrainReport:
    """A finished run."""

    run: Path
    epochs: int
    steps: int
    best: float | None
    """The best validation result by the task's metric; None without validation."""
    best_epoch: int | None
    monitor: str
    seconds: float
    injection: Path | None
    """The file with the trained injection."""

    def as_text(self) -> str:
        """What happened, for a terminal."""
        lines = [
            f"{self.run}: {self.epochs} epochs, {self.steps:,} steps in "
            f"{human_seconds(self.seconds)}"
        ]
        if self.best is not None:
            lines.append(
                f"best validation {self.monitor}: {100 * self.best:.2f} in epoch {self.best_epoch}"
            )
        if self.injection is not None:
            lines.append(
                f"injection: {self.injection}; precompute it into a store of its own with "
                f"--set extraction.injection={self.injection}"
            )
        lines.append(f"next: sketchfusion evaluate {self.run}")
        return "\n".join(lines)


def train(
    config: Config,
    caches: Sequence[StorePath],
    out: Path,
    resume: bool,
    listener: TrainListener | None = None,
    log: Log = lambda line: None,
    initial: Path | None = None,
) -> TrainReport:
    """Train one task and write the run into `out`; with `resume` go on where it stopped.

    Args:
        caches: stores to read; none leaves it to the configuration.
        listener: told about progress.
        log: told about each step in one line.
        initial: a finished run whose head this one starts from.

    Raises:
        RunError: `out` holds a run already and `resume` is false, or one of another
            configuration. Otherwise as `open_experiment` and `fit`.
    """
    run = Run(out)
    exists = run.exists
    if exists and not resume:
        raise RunError(f"{out}: holds a run already; add --resume, or choose another --out")
    if exists:
        run.check_config(config)
    else:
        run.check_free()
    accelerator = open_accelerator(config.train)
    # Of several processes, which `accelerate launch` starts, none begins the run before all have
    # seen that there is none.
    accelerator.wait_for_everyone()
    experiment = open_experiment(
        config,
        list(caches) or (run.store_paths() if exists else []),
        accelerator.device,
        log,
        run.image_ids() if exists else None,
        run.choices() if exists else None,
    )
    if not exists:
        # Where there is nothing to learn from, nothing is begun.
        experiment.task.batches(torch.Generator())
    main = accelerator.is_main_process
    with run.held() if main else nullcontext():
        if main and run.exists and not exists:
            # Somebody else was a moment faster.
            raise RunError(f"{out}: holds a run already; choose another --out")
        state, injection = _train(run, experiment, exists, accelerator, listener, log, initial)
    accelerator.wait_for_everyone()
    return _report(run, experiment, state, injection)


def _train(
    run: Run,
    experiment: Experiment,
    resumed: bool,
    accelerator: Accelerator,
    listener: TrainListener | None,
    log: Log,
    initial: Path | None,
) -> tuple[State, Path | None]:
    """Begin the run or take it up, train to its end, and write what belongs to it."""
    if resumed:
        run.check_stores(experiment.stores)
        run.check_split(experiment.task.parts)
        _recount_best(run, experiment, accelerator.is_main_process, log)
    elif accelerator.is_main_process:
        for remark in experiment.task.remarks():
            log(f"{experiment.task.name} by {experiment.task.protocol.name}: {remark}")
        _begin(run, experiment)
    if accelerator.is_main_process:
        for line in idle_processes(experiment.config.train.batch_size, accelerator.num_processes):
            log(line)
    accelerator.wait_for_everyone()
    learner = experiment.learner
    if not run.last.exists():
        _start_head(run, learner, accelerator, log, initial)
    parts = experiment.task.parts
    log(
        f"{experiment.task.name} by {experiment.task.protocol.name}: {len(parts.train):,} to train "
        f"on, {len(parts.val):,} to validate, {len(parts.test):,} to test"
    )
    # A finished run is not trained again, and keeps the report of its evaluation.
    trained = not (run.last.is_file() and load_facts(run.last).get("finished"))
    state = fit(learner, run, experiment.config.train, accelerator, listener)
    if accelerator.is_main_process:
        learner.eval()
        run.fitted(lambda: experiment.task.fit(learner.describe, learner.layers))
    injection = None
    if isinstance(learner.front, Injection):
        injection = run.injection
        if accelerator.is_main_process:
            _write_injection(learner.front, injection)
    if accelerator.is_main_process and (trained or not run.report.is_file()):
        try:
            write_run_report(run)
        except OSError as error:
            log(f"{run.report}: not written ({error.strerror}); the run itself is whole")
    return state, injection


def _recount_best(run: Run, experiment: Experiment, main: bool, log: Log) -> None:
    """Validate the best weights of an unfinished run again if its protocol counts otherwise now.

    Otherwise their number by the old count would be compared with numbers by the new one. All
    processes validate, and the main one writes the number down.
    """
    task, learner = experiment.task, experiment.learner
    began = run.protocol_version()
    changes = task.protocol.changes_since(began)
    if not changes or not run.last.is_file():
        return
    last = load_checkpoint(run.last)
    if last.facts.get("finished"):
        return
    line = f"{task.protocol.difference_from(began)}; validations so far were counted that way"
    if last.facts.get("best") is not None and any(task.monitor in c.metrics for c in changes):
        learner.to(experiment.device)
        learner.restore(run.best_checkpoint().tensors)
        best = validate(learner)[task.monitor]
        if main:
            save_checkpoint(run.last, Checkpoint(last.tensors, {**last.facts, "best": best}))
        line += f"; the best weights are validated again: {100 * best:.2f} {task.monitor}"
    if main:
        log(line)


def idle_processes(batch_size: int, n_processes: int) -> list[str]:
    """A line to log if a batch is too small to give every process an example, else none."""
    if batch_size >= n_processes:
        return []
    return [
        f"train.batch_size={batch_size}: {n_processes - batch_size} of {n_processes} processes have"
        f" no example in any step; set it to {n_processes} or more, or start fewer processes"
    ]


def _write_injection(injection: Injection, path: Path) -> None:
    """Write a trained injection, unless the file holds it already. Raises OSError."""
    try:
        if open_injection(path).digest() == injection.digest():
            return
    except InjectionError:
        pass  # Not there, or damaged.
    injection.save(path)


def _start_head(
    run: Run, learner: Learner, accelerator: Accelerator, log: Log, initial: Path | None
) -> None:
    """Choose and fit what the head takes from training images, or take over another run's head."""
    start = None if initial is None else open_run(initial)
    if learner.fits_statistics:
        found = run.statistics() if start is None else start.statistics()
        if found is None and accelerator.is_main_process:
            found = choose(learner.source, learner.task, learner.kinds, learner.settings.statistics)
        (found,) = broadcast_object_list([found])
        if accelerator.is_main_process:
            run.write_statistics(found)
            log(f"statistics head, by {found.measure}:")
            for name, choice in found.choices.items():
                is_map = len(learner.source.shapes[name]) == 3
                log(f"  {name}: {describe_choice(choice, is_map and not learner.task.needs_cells)}")
        learner.build(found.choices)
    if start is not None:
        learner.restore_head(start.best_checkpoint().tensors)
    elif learner.fits_statistics:
        learner.to(accelerator.device)
        learner.fit_statistics()


def _begin(run: Run, experiment: Experiment) -> None:
    task = experiment.task
    facts = {
        "task": task.name,
        "protocol": task.protocol.name,
        "protocol_version": task.protocol.version,
        "variants": dict(task.protocol.variants),
        "notes": list(task.parts.notes),
        "machine": describe_machine(),
    }
    run.begin(experiment.config, experiment.stores, experiment.images, task.parts, facts)


def _report(run: Run, experiment: Experiment, state: State, injection: Path | None) -> TrainReport:
    return TrainReport(
        run=run.folder,
        epochs=state.epoch,
        steps=state.step,
        best=state.best,
        best_epoch=state.best_epoch,
        monitor=experiment.task.monitor,
        seconds=state.seconds,
        injection=injection,
    )
