"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """Results of a run, as fractions of 1 by metric name."""

    name: str
    """What the run is called in the table."""
    task: str
    protocol: str
    variants: Mapping[str, str]
    split: str
    metrics: Mapping[str, float]
    beside: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    """Untrained features, other runs, and floors."""
    missing: Mapping[str, str]
    """Baselines that no store could give, and why."""
    chance: Mapping[str, float]
    paper: Mapping[str, Mapping[str, float]]
    """Published numbers by method; empty where the protocol or the data is not the paper's."""
    n: int
    stores: Sequence[str]
    """Fingerprints of those that the run, and then the baselines, may be read from."""
    notes: Sequence[str] = field(default_factory=tuple)
    protocol_version: int = 1
    """How the protocol counted: numbers of different versions are not comparable."""
    floors: Sequence[str] = field(default_factory=tuple)
    """Which of the baselines need no network."""
    mean_ranks: Mapping[str, float] = field(default_factory=dict)
    """Mean place of the right photo, from 1, by row; the run's under its own name. Empty but in
    fine-grained retrieval."""
    headline: str = ""
    """The metric that stands for the task where there is room for one."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of `metrics`; this and what follows as `heads.evaluation.uncertainty` finds
    it."""
    baseline_errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """This run minus each baseline, by metric: `difference`, `error`, `low` and `high`."""
    resampled: str = ""
    """What was drawn with replacement to find them."""
    categories: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Metrics by row and category, the run's under its own name; empty if there is but one."""
    category_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By category and metric: the weight in the mean over categories."""

    def as_json(self) -> dict[str, Any]:
        """One plain object."""
        return {key: _plain(value) for key, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
