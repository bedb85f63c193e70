"""`sketchfusion evaluate` as one function: a run beside baselines, floors, chance and the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache import FeatureStore, StorePath
from configs import Config
from heads.evaluation.baselines import find_baselines, score_baseline, score_floors
from heads.evaluation.result import Evaluation
from heads.evaluation.table import protocol_in_words
from heads.evaluation.uncertainty import uncertainty
from heads.explain import Explained, Findings, Remembered, find
from heads.protocols import Score, find_protocol
from heads.report.run import write_run_report
from heads.statistics.head import StatisticsHead
from heads.tasks import Fitted, Task
from heads.training.accelerator import open_accelerator
from heads.training.checkpoint import load_facts, write_text
from heads.training.experiment import Experiment, Log, open_experiment
from heads.training.reading import check_same_pictures
from heads.training.run import Run, RunError, open_run

OURS = "SketchFusion"
FINETUNING = "B-Finetuning"
UNTRAINED = "the same head, untrained"


@dataclass(frozen=True)
class Examined:
    """An evaluated run: its numbers, and what it says about its test part."""

    run: Run
    experiment: Experiment
    evaluation: Evaluation
    findings: Findings


def evaluate(
    folder: Path,
    caches: Sequence[StorePath] = (),
    beside: Sequence[Path] = (),
    floors: bool = True,
    log: Log = lambda line: None,
) -> Evaluation:
    """`examine` a run and write its report, if that can be. Raises as it does."""
    examined = examine(folder, caches, beside, floors, log)
    try:
        log(f"report: {write_run_report(examined.run, examined.evaluation, examined.findings)}")
    except OSError as error:
        log(f"{examined.run.report}: not written ({error.strerror})")
    return examined.evaluation


def examine(
    folder: Path,
    caches: Sequence[StorePath] = (),
    beside: Sequence[Path] = (),
    floors: bool = True,
    log: Log = lambda line: None,
) -> Examined:
    """Evaluate a run on its test part, and everything it is compared with; find examples of it.

    Writes the numbers into the run's folder, if that can be.

    Args:
        caches: further stores, for baselines that the run's own cannot give.
        beside: other runs of the same task and protocol, shown among the baselines.
        floors: whether to compute the scores that need no network; they read every picture.

    Raises:
        RunError: a run without weights, or a run beside it that is not comparable; otherwise as
            `open_experiment`.
    """
    run = open_run(folder)
    experiment = reopen(run, log)
    task = experiment.task
    log(f"evaluating {folder}: {len(task.parts.test):,} of the test part")
    learner = experiment.learner
    fitted = fitted_of(run, experiment)
    describe = Remembered(learner.describe)
    score = task.evaluate(task.parts.test, describe, learner.layers, fitted)
    findings = find(Explained(experiment, fitted, describe))
    if findings.missing is not None:
        log(f"the report has no pictures: {findings.missing}")
    others: dict[str, Score] = {}
    if isinstance(learner.aggregation, StatisticsHead):
        log(f"evaluating {UNTRAINED}")
        with learner.aggregation.uncorrected():
            others[UNTRAINED] = task.score(task.parts.test, learner.describe, None)
    further = [*caches, *experiment.config.train.baseline_caches]
    stores = [*experiment.stores, *(FeatureStore.open(path) for path in further)]
    check_same_pictures(stores)
    found, missing = find_baselines(experiment.config, stores, _tested(experiment))
    for baseline in found:
        log(f"evaluating {baseline.name}")
        others[baseline.name] = score_baseline(baseline, task, experiment.device)
    own_name = run_name(experiment.config)
    for path in beside:
        name, other = _score_beside(open_run(path), experiment, log)
        taken = name == own_name or name in others
        others[f"{name} ({path})" if taken else name] = other
    lowest: dict[str, Score] = {}
    if floors:
        log("evaluating floors")
        lowest = score_floors(task, experiment.dataset)
        others |= lowest
    paper = task.protocol.paper
    notes = [
        *_other_versions(run, task),
        *_unfinished(run, experiment.config),
        *task.parts.notes,
        *score.notes,
    ]
    if paper is not None and not task.parts.complete:
        notes.append("published numbers are left out: the protocol's images are not all here")
    elif paper is not None and paper.note:
        notes.append(f"published numbers: {paper.note}")
    if task.parts.complete:
        notes += task.protocol.differences(task.parts.test)
    evaluation = Evaluation(
        name=own_name,
        task=task.name,
        protocol=task.protocol.name,
        variants=dict(task.protocol.variants),
        split="test",
        metrics=dict(score.metrics),
        beside=dict(score.beside),
        baselines={name: dict(other.metrics) for name, other in others.items()},
        floors=list(lowest),
        missing=missing,
        chance=task.protocol.chance(task.parts.test),
        paper=dict(paper.results) if paper is not None and task.parts.complete else {},
        n=score.n,
        stores=list(dict.fromkeys(store.fingerprint for store in stores)),
        notes=notes,
        protocol_version=task.protocol.version,
        mean_ranks={
            name: found.mean_rank
            for name, found in {own_name: score, **others}.items()
            if found.mean_rank is not None
        },
        headline=task.headline,
        **vars(uncertainty(own_name, score, others)),
    )
    try:
        write_text(run.evaluation, json.dumps(evaluation.as_json(), indent=2) + "\n")
    except OSError as error:
        # A folder of somebody else's, or a full disk: no reason to lose the numbers.
        log(f"{run.evaluation}: not written ({error.strerror})")
    return Examined(run, experiment, evaluation, findings)


def reopen(run: Run, log: Log) -> Experiment:
    """A run's experiment, with its best weights. Raises RunError where there are none."""
    if not run.best.is_file():
        raise RunError(f"{run.folder}: has no trained weights yet; train it with --resume")
    config = run.config()
    device = open_accelerator(config.train, trains=False).device
    experiment = open_experiment(
        config, run.store_paths(), device, log, run.image_ids(), run.choices()
    )
    run.check_stores(experiment.stores)
    run.check_split(experiment.task.parts)
    experiment.learner.to(experiment.device)
    experiment.learner.restore(run.best_checkpoint().tensors)
    experiment.learner.eval()
    return experiment


def fitted_of(run: Run, experiment: Experiment) -> Fitted:
    """What the run keeps beside its weights; fitted now where it does not. Raises OSError."""
    task, learner = experiment.task, experiment.learner
    return run.fitted(lambda: task.fit(learner.describe, learner.layers))


def score_run(run: Run, experiment: Experiment) -> Score:
    """The test score of a reopened run, without anything beside it."""
    task, learner = experiment.task, experiment.learner
    fitted = fitted_of(run, experiment)
    return task.evaluate(task.parts.test, learner.describe, learner.layers, fitted)


def is_evaluated(run: Run) -> bool:
    """Whether the run holds an evaluation that counts as its protocol does now.

    Raises RunError and ConfigError for a run that cannot be read.
    """
    return run.evaluation.is_file() and run.evaluated_version() == present_version(run)


def present_version(run: Run) -> int:
    """The version by which the run's protocol counts now. Raises as `is_evaluated`."""
    config = run.config()
    assert config.task is not None
    return find_protocol(config.task, run.facts()["protocol"], **config.train.variants).version


def run_name(config: Config) -> str:
    """What a run is called beside others: the paper's name for what it trains."""
    train = config.train
    if train.finetune:
        return FINETUNING
    families = {family.removesuffix("_pooled") for family in train.features}
    features = "+".join(family.upper() for family in ("sd", "clip", "dino") if family in families)
    if train.injection.sites or config.extraction.injection is not None:
        return features.replace("SD", OURS)
    heads = {"linear": f"B-{features} (probe)", "statistics": f"{features}, statistics"}
    return heads.get(train.aggregation, f"{features}, aggregated")


def _unfinished(run: Run, config: Config) -> list[str]:
    """A note where training has not come to its end."""
    if not run.last.is_file() or load_facts(run.last).get("finished"):
        return []
    epoch = load_facts(run.best).get("epoch")
    return [f"training is not finished: weights of epoch {epoch} of {config.train.epochs}"]


def _other_versions(run: Run, task: Task[Any, Any]) -> list[str]:
    """A note if the run was trained or evaluated when its protocol counted otherwise."""
    protocol, began, evaluated = task.protocol, run.protocol_version(), run.evaluated_version()
    others = [v for v in (began, evaluated) if v is not None and v != protocol.version]
    if not others:
        return []
    note = (
        f"{protocol.difference_from(min(others))}; earlier numbers of this run are not comparable"
    )
    chose = any(task.monitor in change.metrics for change in protocol.changes_since(began))
    if chose and len(task.parts.val):
        note += f", and its best weights were chosen by version {began}"
    return [note]


def _score_beside(run: Run, experiment: Experiment, log: Log) -> tuple[str, Score]:
    """Another run's name and score; it must have been tested the same way on the same images."""
    other = reopen(run, log)
    task = experiment.task
    theirs, ours = _counting(other.task), _counting(task)
    if theirs != ours:
        raise RunError(f"{run.folder}: is {theirs}, not {ours}; they do not belong into one table")
    if other.task.parts.test.ids != task.parts.test.ids:
        raise RunError(f"{run.folder}: was tested on other images; train it on the same stores")
    log(f"evaluating {run.folder}")
    return run_name(other.config), score_run(run, other)


def _counting(task: Task[Any, Any]) -> str:
    """A task, its protocol and the protocol's variants, in words."""
    return f"{task.name} by {protocol_in_words(task.protocol.name, task.protocol.variants)}"


def _tested(experiment: Experiment) -> list[str]:
    """Every image of the training, validation and test parts."""
    return list(dict.fromkeys(i for ids in experiment.task.parts.ids().values() for i in ids))
