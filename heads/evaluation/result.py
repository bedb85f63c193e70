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
    floors: Sequence[str]
    """Which of the baselines need no network."""
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

    def as_json(self) -> dict[str, Any]:
        """One plain object."""
        return {key: _plain(value) for key, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
