"""Runs that can be asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from heads.evaluation.evaluate import reopen
from heads.explain import Explained, Remembered
from heads.protocols import Score
from heads.training.run import open_run
from tests.heads.conftest import Runs

Ask = Callable[[str], Explained]


@pytest.fixture(scope="session")
def ask(runs: Runs) -> Ask:
    """The run of a task, opened."""

    @cache
    def opened(task: str) -> Explained:
        run = open_run(runs(task))
        experiment = reopen(run, lambda line: None)
        fitted = run.read_fitted(run.weights_digest())
        return Explained(experiment, fitted, Remembered(experiment.learner.describe))

    return opened


def score(explained: Explained) -> Score:
    """What evaluation says of the whole test part."""
    experiment = explained.experiment
    task, learner = experiment.task, experiment.learner
    return task.score(task.parts.test, learner.describe, learner.layers)


def metrics(explained: Explained) -> dict[str, float]:
    """The metrics of the whole test part."""
    return dict(score(explained).metrics)
