"""The demonstration's second stage: five heads from one cache, then an injection and its cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.units import human_seconds
from configs import Config, load_config
from configs.train import SITES
from heads.demo.records import InjectionEffect, TrainedHead
from heads.evaluation.alone import alone_configs
from heads.evaluation.evaluate import Examined, examine
from heads.evaluation.table import percent
from heads.report.run import write_run_report
from heads.tasks import TASKS
from heads.training.checkpoint import load_facts
from heads.training.cycle import train_cycle
from heads.training.experiment import Log
from heads.training.run import Run
from heads.training.train import train
from heads.training.trainer import TrainListener
from pipeline.compute import Listener

INJECTED_TASK = "retrieval"
"""Whose head is trained with the injection: SD's layers alone know little of categories, and CLIP
much."""
LIVE_EPOCHS = 4
CACHED_EPOCHS = 2


@dataclass(frozen=True)
class Stage2:
    """The heads of a demonstration.

    Args:
        demo: the configuration of its store.
        store: the store with the features of plain SD.
        runs: the folder that the runs' folders go into.
        overrides: `train.` settings on top of each task's `shapes` preset.
        images: told about the progress of a precompute.
        steps: told about the progress of training.
        log: told about each step in one line.
    """

    demo: Config
    store: Path
    runs: Path
    overrides: Sequence[str]
    images: Listener
    steps: TrainListener
    log: Log

    def heads(self) -> tuple[TrainedHead, ...]:
        """Train a head for each task on the one store, and evaluate it beside the same head on
        each part alone."""
        return tuple(self._fused(task) for task in TASKS)

    def injection(self) -> InjectionEffect:
        """Train an injection live, precompute with it, go on from the new cache; beside a head of
        as many epochs without one."""
        config = self._config(INJECTED_TASK)
        plain = _with_train(config, features=("sd",), epochs=LIVE_EPOCHS + CACHED_EPOCHS)
        without = self._on_cache(plain, self.runs / f"{INJECTED_TASK}-sd")
        settings = config.train
        cycle = _with_train(
            plain,
            epochs=LIVE_EPOCHS,
            injection=settings.injection.model_copy(update={"sites": SITES}),
            cycle=settings.cycle.model_copy(update={"epochs": CACHED_EPOCHS}),
        )
        run = Run(self.runs / f"{INJECTED_TASK}-injected")
        started = time.perf_counter()
        report = train_cycle(
            cycle, [self.store], run.folder, True, self.steps, self.images, self._indented
        )
        seconds = time.perf_counter() - started
        injected = self._examined(run, report.epochs, report.seconds)
        live = load_facts(Run(run.folder / "live").last)
        return InjectionEffect(
            without=without,
            injected=injected,
            sites=SITES,
            live_epochs=live["epoch"],
            n_live=live["epoch"] * _reads_of_an_epoch(injected.examined),
            live_seconds=live["seconds"],
            cycle_seconds=seconds,
        )

    def _config(self, task: str) -> Config:
        """The task's preset for the procedural world, with the demonstration's own images."""
        preset = load_config(f"shapes/{task}", self.overrides)
        return preset.model_copy(
            update={
                "name": f"{self.demo.name}-{task}",
                "backbone": self.demo.backbone,
                "dataset": self.demo.dataset,
                "extraction": self.demo.extraction,
            }
        )

    def _fused(self, task: str) -> TrainedHead:
        config = self._config(task)
        beside = []
        for name, alone in alone_configs(config).items():
            beside.append(self.runs / "alone" / f"{task}-{name}")
            train(alone, [self.store], beside[-1], resume=True, listener=self.steps)
        return self._on_cache(config, self.runs / task, beside)

    def _on_cache(self, config: Config, folder: Path, beside: Sequence[Path] = ()) -> TrainedHead:
        report = train(config, [self.store], folder, resume=True, listener=self.steps)
        return self._examined(Run(folder), report.epochs, report.seconds, beside)

    def _examined(
        self, run: Run, epochs: int, seconds: float, beside: Sequence[Path] = ()
    ) -> TrainedHead:
        """A trained head with its evaluation; its own report is written too."""
        examined = examine(run.folder, beside=beside)
        write_run_report(run, examined.evaluation, examined.findings)
        head = TrainedHead(examined, epochs, epochs * _reads_of_an_epoch(examined), seconds)
        score = percent(examined.evaluation.metrics[head.main_metric])
        self._indented(
            f"{run.folder.name}: {epochs} epochs in {human_seconds(seconds)}, "
            f"{head.main_metric} {score}"
        )
        return head

    def _indented(self, line: str) -> None:
        self.log(f"    {line}")


def _with_train(config: Config, **settings: Any) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def _reads_of_an_epoch(examined: Examined) -> int:
    """How many images' features one epoch of training asks for."""
    task = examined.experiment.task
    return sum(len(task.images(batch)) for batch in task.batches(torch.Generator()))
