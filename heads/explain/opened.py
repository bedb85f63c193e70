"""A run that can be asked: its experiment with the best weights, and what evaluation fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heads.aggregation import AggregationNetwork, Descriptors
from heads.plots.records import Picture
from heads.tasks import Describe, Fitted
from heads.tasks.base import pooled_descriptors
from heads.training.experiment import Experiment
from pipeline.datasets.base import Dataset


class ExplainError(ValueError):
    """A run that does not know what is asked; the message says what it knows."""


class Remembered:
    """Describes images, and keeps their pooled descriptors, which are small: whoever needs these
    again need not compute maps again."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._pooled: dict[str, Tensor] = {}

    def __call__(self, ids: Sequence[str]) -> Descriptors:
        """Descriptors of images, in the order of their ids."""
        found = self._describe(ids)
        self._pooled |= zip(ids, found.pooled.cpu(), strict=True)
        return found

    def pooled(self, ids: Sequence[str]) -> Tensor:
        """Global descriptors [N, P] on the CPU; only images that were never described are now."""
        pooled_descriptors(self, [name for name in dict.fromkeys(ids) if name not in self._pooled])
        return torch.stack([self._pooled[name] for name in ids])


@dataclass(frozen=True)
class Explained:
    """A run's experiment with its weights in place (`heads.evaluation.evaluate.reopen`)."""

    experiment: Experiment
    fitted: Fitted
    describe: Remembered

    def other_task(self, what: str) -> ExplainError:
        """What to raise where the run's task has no `what`."""
        return ExplainError(
            f"a run of {self.experiment.task.name} has no {what}; give a run of a task that has, "
            "or another figure (`sketchfusion plot --help`)"
        )

    def picture(self, image_id: str) -> Picture:
        """An image of the dataset as decoded. Raises OSError, DatasetError or ImageError."""
        return read_picture(self.experiment.dataset, image_id)

    def mixing(self) -> dict[str, float]:
        """Each array's share in the aggregated descriptor. Raises ExplainError where it is none."""
        aggregation = self.experiment.learner.aggregation
        if not isinstance(aggregation, AggregationNetwork):
            raise ExplainError(
                "this run has no mixing weights: only train.aggregation=bottleneck has, and its "
                f"head is {self.experiment.config.train.aggregation}"
            )
        return aggregation.mixing_weights()


def read_picture(dataset: Dataset, image_id: str) -> Picture:
    """An image as decoded. Raises OSError, DatasetError or ImageError."""
    return Picture(image_id, dataset.decode(image_id, dataset.read(image_id)))
