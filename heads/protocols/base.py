"""What a protocol is: from a dataset's annotations to training, validation and test parts."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np

from heads.protocols.paper import PaperNumbers, paper_numbers
from pipeline.datasets.base import Annotations

Task = Literal["correspondence", "retrieval", "fine_grained", "recognition", "segmentation"]

Images = Mapping[str, tuple[int, int]]
"""The ids that can be read from the stores, each with the image's width and height in pixels."""


class ProtocolError(ValueError):
    """A protocol that cannot be applied; one line says what is there and what to do."""


class Part(typing.Protocol):
    """What all kinds of part have in common."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Every image the part speaks of, once."""

    def __len__(self) -> int:
        """Queries, pairs or images, whichever the task counts."""


PartT = TypeVar("PartT", bound=Part)


@dataclass(frozen=True)
class Parts(Generic[PartT]):
    """What to learn from, what to choose by, and what to report. Only `test` is never empty."""

    train: PartT
    val: PartT
    test: PartT
    notes: tuple[str, ...] = ()
    """What was left out or is missing, each in one line."""
    complete: bool = True
    """Whether every category or pair that the protocol's name stands for is there; only then may
    published numbers stand beside."""

    def ids(self) -> dict[str, list[str]]:
        """The images of each part by name: the split, to be written beside a result."""
        return {name: list(getattr(self, name).ids) for name in ("train", "val", "test")}


@dataclass(frozen=True, eq=False)
class Units:
    """What a score's metrics are means of: a row for each query, pair, image or mask.

    A metric is the sum of its column of `values` times `weights`, divided by the sum of the
    weights.
    """

    values: np.ndarray
    """float64 [N, M], a column for each metric of the score, in its order."""
    labels: np.ndarray
    """int64 [N], the place of each unit's category in `categories`."""
    categories: tuple[str, ...]
    """Some may have no units."""
    weights: np.ndarray | None = None
    """float64 [N, M], above 0; None if all units count alike."""


@dataclass(frozen=True)
class Score:
    """A result by metric name, as fractions of 1."""

    metrics: Mapping[str, float]
    n: int
    """Queries, pairs, images or masks that the metrics are means over."""
    units: Units = field(compare=False, repr=False, kw_only=True)
    beside: Mapping[str, float] = field(default_factory=dict)
    """The same counted another way, reported beside the metrics."""
    notes: tuple[str, ...] = ()
    mean_rank: float | None = None
    """Mean place of the one right photo, from 1, in fine-grained retrieval."""


@dataclass(frozen=True)
class Change:
    """How a version of a protocol counts otherwise than the version before it."""

    text: str
    metrics: tuple[str, ...]
    """The metrics whose numbers changed."""


@dataclass(frozen=True)
class Protocol(ABC, Generic[PartT]):
    """How one task is evaluated. Reported under `name` with `variants` and `version`."""

    task: ClassVar[Task]
    metrics: ClassVar[tuple[str, ...]]

    name: str

    @property
    @abstractmethod
    def variants(self) -> Mapping[str, str]:
        """What else decides how the numbers are counted, such as `{"ap": "ap-hits"}`."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """What each version after the first changed, oldest first."""
        return ()

    @property
    def version(self) -> int:
        """Counted from 1. Numbers of different versions are not comparable."""
        return 1 + len(self.changes)

    def changes_since(self, version: int) -> tuple[Change, ...]:
        """What changed after `version`; nothing if it is the present one or a later one."""
        return self.changes[version - 1 :]

    def difference_from(self, version: int) -> str:
        """In words, how an earlier version counted otherwise, or that `version` is a later one."""
        if version > self.version:
            return f"{self.task} by {self.name} is version {self.version} here, not {version}"
        texts = "; ".join(change.text for change in self.changes_since(version))
        return f"{self.task} by {self.name} is version {self.version} now: {texts}"

    @property
    def paper(self) -> PaperNumbers | None:
        """Published numbers on this protocol; they hold only where `Parts.complete`."""
        return paper_numbers(self.task, self.name)

    @abstractmethod
    def apply(self, annotations: Annotations, images: Images) -> Parts[PartT]:
        """The parts among the given images. Raises `ProtocolError` where nothing is to be tested.

        The same annotations and images, in any order, give the same parts.
        """

    def differences(self, part: PartT) -> Sequence[str]:
        """What other code that publishes numbers on this benchmark counts differently, a line
        each; empty if nothing is known to differ."""
        return ()

    @abstractmethod
    def chance(self, part: PartT) -> dict[str, float]:
        """What guessing is expected to score; a metric without a formula for it is missing."""

    def _error(self, message: str) -> ProtocolError:
        return ProtocolError(f"{self.task} by {self.name}: {message}")


def some(names: Sequence[str], n_shown: int = 6) -> str:
    """The first names for a message, sorted, and how many more there are."""
    ordered = sorted(names)
    rest = len(ordered) - n_shown
    return ", ".join(ordered[:n_shown]) + (f" and {rest} more" if rest > 0 else "")
