"""What a task is: examples to train on, a loss, and an evaluation by its protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from configs import TrainConfig
from heads.aggregation import Descriptors
from heads.floors import Load
from heads.frame import Frame
from heads.protocols import Part, Parts, Protocol, Score
from pipeline.networks.transfer import to_device

Describe = Callable[[Sequence[str]], Descriptors]
"""Gives the descriptors of images, without gradients, in the order of their ids."""

PartT = TypeVar("PartT", bound=Part)
ExampleT = TypeVar("ExampleT")


class TaskError(ValueError):
    """Data a task cannot learn from; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Fitted:
    """What evaluation takes from training data beside the weights, such as a threshold."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    """What a classifier's outputs stand for."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(ABC, Generic[PartT, ExampleT]):
    """One task on the images of given parts.

    A batch is a list of examples; the trainer asks for the images in it, gets their descriptors,
    and hands both to `loss`.
    """

    name: ClassVar[str]
    monitor: ClassVar[str]
    """The metric on validation data by which the best weights are chosen; higher is better."""

    headline: ClassVar[str]
    """The metric that stands for the task where there is room for one."""

    needs_cells: ClassVar[bool] = False
    """Whether loss and evaluation look at descriptors of cells. If not, the loss is always computed
    over the whole batch, however many processes share the work of describing it: it may compare any
    images of the batch. If so, each process computes it over a part of the batch, and it must be a
    mean over the examples (see `weight`)."""
    compares_cells: ClassVar[bool] = False
    """Whether pooled descriptors are compared with cells, and so must be of the same space."""

    protocol: Protocol[PartT]
    parts: Parts[PartT]
    frame: Frame
    settings: TrainConfig

    def layers(self, width: int) -> nn.Module:
        """What the task trains on top of descriptors of `width` channels."""
        return nn.Identity()

    def folds(self, n: int, n_images: int) -> list[Self]:
        """This task with training and validation parts cut from its own, to compare untrained
        descriptors by; never the test part. None where these tell nothing.

        Args:
            n: how many folds at most.
            n_images: images in each, at most.
        """
        return []

    @property
    def rating_name(self) -> str:
        """What `rating` is."""
        return self.monitor

    def rating(self, score: Score) -> float:
        """By which untrained descriptors are compared; higher is better."""
        return score.metrics[self.monitor]

    @abstractmethod
    def batches(self, generator: torch.Generator) -> list[list[ExampleT]]:
        """The training examples of one epoch in an order that the generator decides."""

    def remarks(self) -> list[str]:
        """What a user should know of training that can be done but will not do much."""
        return []

    @abstractmethod
    def images(self, batch: Sequence[ExampleT]) -> tuple[str, ...]:
        """The images in a batch, each once."""

    @abstractmethod
    def loss(self, batch: Sequence[ExampleT], found: Located, layers: nn.Module) -> Tensor:
        """The mean loss of a batch; zero, with zero gradients, if it holds nothing to learn.

        `found` has the descriptors of the batch's images, without maps unless it `needs_cells`.
        """

    def weight(self, batch: Sequence[ExampleT]) -> float:
        """What `loss` divides by, up to a factor that is the same for all batches: the losses of
        parts of a batch, weighted by it, average to the loss of the whole."""
        return len(batch)

    def fit(self, describe: Describe, layers: nn.Module | None) -> Fitted:
        """What `evaluate` needs from the training images; `layers` is None where none was trained.

        Never looks at the test part.
        """
        return Fitted()

    @classmethod
    def is_fitted(cls, fitted: Fitted) -> bool:
        """Whether this holds what `fit` gives with trained layers."""
        return True

    @abstractmethod
    def evaluate(
        self, part: PartT, describe: Describe, layers: nn.Module | None, fitted: Fitted
    ) -> Score:
        """The part's score by the protocol."""

    def score(self, part: PartT, describe: Describe, layers: nn.Module | None) -> Score:
        """The part's score, with what `fit` takes from the training images."""
        return self.evaluate(part, describe, layers, self.fit(describe, layers))

    @abstractmethod
    def floors(self, load: Load) -> dict[str, Score]:
        """Scores on the test part of what needs no network, by name."""


@dataclass(frozen=True)
class Located:
    """Descriptors of a batch's images, found by id."""

    descriptors: Descriptors
    row_of: Mapping[str, int]

    @classmethod
    def of(cls, ids: Sequence[str], descriptors: Descriptors) -> Located:
        return cls(descriptors, {image_id: row for row, image_id in enumerate(ids)})

    def spatial(self, ids: Sequence[str]) -> Tensor:
        """[N, P, G, G], an image as often as it is named."""
        return self.descriptors.spatial[self.rows(ids)]

    def pooled(self, ids: Sequence[str]) -> Tensor:
        """[N, P]."""
        return self.descriptors.pooled[self.rows(ids)]

    def corrected(self, ids: Sequence[str]) -> Tensor:
        """What is trained of the pooled descriptors, [N, Q]: all of them, or a part."""
        found = self.descriptors.corrected
        return self.pooled(ids) if found is None else found[self.rows(ids)]

    def rows(self, ids: Sequence[str]) -> Tensor:
        """int64 [N]."""
        rows = [self.row_of[image_id] for image_id in ids]
        return to_device(torch.tensor(rows), self.descriptors.pooled.device)


def pooled_descriptors(describe: Describe, ids: Sequence[str], batch_size: int = 16) -> Tensor:
    """Global descriptors [N, P] of any number of images, on the CPU; of none [0, 0].

    Maps of whole batches are computed on the way: 0.3 GB for 16 images at the paper's sizes.
    """
    parts = [describe(ids[i : i + batch_size]).pooled.cpu() for i in range(0, len(ids), batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, 0)


def in_batches(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive batches; the last may be smaller."""
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def permuted(items: Sequence[Any], generator: torch.Generator) -> list[Any]:
    """The items in random order."""
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def unique(ids: Sequence[str]) -> tuple[str, ...]:
    """Each id once, in the order of its first appearance."""
    return tuple(dict.fromkeys(ids))
