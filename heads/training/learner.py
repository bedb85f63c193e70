"""All that learns, as one module: what is in front of the head, the head, the task's layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cache import StoreError
from configs import TrainConfig
from heads.aggregation import AggregationNetwork, Descriptors
from heads.probes import LinearProbe
from heads.protocols.partition import shuffled
from heads.sources import FeatureSource
from heads.statistics.choices import Choices
from heads.statistics.head import Batch, StatisticsHead
from heads.statistics.search import default_choices
from heads.tasks import Located, Task
from heads.tasks.base import in_batches
from heads.training.processes import (
    contiguous_shares,
    gather_rows,
    n_processes,
    process_index,
)
from heads.training.run import RunError
from pipeline.datasets.base import Domain

N_SAMPLED = 2048
"""Training images on which scales, and statistics of cells, are fitted, at most."""
FITTED_AT_ONCE = 16


def build_aggregation(
    shapes: Mapping[str, tuple[int, ...]],
    settings: TrainConfig,
    cells: bool,
    choices: Choices | None = None,
) -> nn.Module:
    """A new head of arrays with these shapes per image, by name: maps in, `Descriptors` out.

    Args:
        cells: whether the task compares cells.
        choices: of a statistics head.
    """
    if settings.aggregation == "statistics":
        assert choices is not None
        return StatisticsHead(shapes, choices, settings.grid, settings.dropout, cells)
    channels = {name: shape[0] for name, shape in shapes.items()}
    if settings.aggregation == "linear":
        return LinearProbe(channels, settings.width, settings.grid, settings.dropout)
    return AggregationNetwork(
        channels,
        settings.width,
        settings.grid,
        settings.dropout,
        settings.groups,
        settings.dropout_on == "grid",
    )


def run_head(
    aggregation: nn.Module, maps: Mapping[str, Tensor], kinds: Sequence[Domain | None]
) -> Descriptors:
    """Descriptors of feature maps of pictures of these kinds, which not every head looks at."""
    if isinstance(aggregation, StatisticsHead):
        return aggregation(maps, kinds)
    return aggregation(maps)


@torch.no_grad()
def describe_maps(
    aggregation: nn.Module, maps: Mapping[str, Tensor], kinds: Sequence[Domain | None]
) -> Descriptors:
    """The same without gradients. Raises RunError if they are not numbers."""
    descriptors = run_head(aggregation, maps, kinds)
    if not descriptors.pooled.isfinite().all():
        raise RunError(
            "the head gives descriptors that are not numbers; train anew with a lower "
            "train.learning_rate, or with train.gradient_norm=1"
        )
    return descriptors


class Learner(nn.Module):
    """Gives the loss of a batch, and descriptors of images.

    Args:
        task: says what the loss is.
        source: gives feature maps; its `trained` module, if any, learns with the head.
        settings: the head's shape and the seed of its weights.
        kinds: of the images, sketch or photo, as far as is known.
        choices: of a statistics head; None begins with plain parts.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        source: FeatureSource,
        settings: TrainConfig,
        kinds: Mapping[str, Domain | None] | None = None,
        choices: Choices | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.source = source
        self.settings = settings
        self.kinds = kinds or {}
        self.front = source.trained
        self.build(choices)

    def build(self, choices: Choices | None) -> None:
        """A new head with the weights of `train.seed`, and the task's layers behind it."""
        if choices is None and self.settings.aggregation == "statistics":
            choices = default_choices(self.source.shapes, self.task, self.settings.statistics)
        torch.manual_seed(self.settings.seed)
        self.aggregation = build_aggregation(
            self.source.shapes, self.settings, self.task.needs_cells, choices
        )
        self.layers = self.task.layers(getattr(self.aggregation, "width", self.settings.width))

    @property
    def fits_statistics(self) -> bool:
        """Whether the head has statistics of training images in it."""
        return isinstance(self.aggregation, StatisticsHead)

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Fit the head's statistics to the features that the training images have now."""
        assert isinstance(self.aggregation, StatisticsHead)
        ids = list(dict.fromkeys(self.task.parts.train.ids))
        sample = shuffled(ids, self.settings.seed)[:N_SAMPLED]
        was_training = self.training
        self.eval()
        self.aggregation.fit(self._batches(ids), lambda: self._batches(sample))
        self.train(was_training)

    def _batches(self, ids: Sequence[str]) -> Iterator[Batch]:
        for batch in in_batches(ids, FITTED_AT_ONCE):
            yield Batch(self.source.maps(batch), self._kinds_of(batch))

    def _kinds_of(self, ids: Sequence[str]) -> list[Domain | None]:
        return [self.kinds.get(image_id) for image_id in ids]

    def expect(self, batch: Sequence[Any]) -> None:
        """Say which batch comes next, so that its features can be read meanwhile."""
        self.source.expect(self.task.images(_own_share(batch)))

    def forward(self, batch: Sequence[Any]) -> Tensor:
        """The mean loss of a batch of the task's examples.

        Processes that train together are all given the whole batch, and each describes a share of
        it. Averaged over them, value and gradients are those of one process.
        """
        own = _own_share(batch)
        ids = self.task.images(own)
        with self._exactly():
            maps = self.source.maps(ids)
        descriptors = run_head(self.aggregation, maps, self._kinds_of(ids))
        with self._exactly():
            if not self.task.needs_cells:
                found = self._gathered(batch, descriptors)
                return self.task.loss(batch, found, self.layers)
            loss = self.task.loss(own, Located.of(ids, descriptors), self.layers)
            return loss * self._factor(batch)

    def _gathered(self, batch: Sequence[Any], own: Descriptors) -> Located:
        """The pooled descriptors of the whole batch, of which this process has its share's."""
        shares = contiguous_shares(batch, n_processes())
        ids = [self.task.images(share) if share else () for share in shares]
        sizes = [len(part) for part in ids]
        pooled = gather_rows(own.pooled, sizes)
        corrected = None if own.corrected is None else gather_rows(own.corrected, sizes)
        no_maps = pooled.new_empty(*pooled.shape, 0, 0)
        return Located.of([*chain(*ids)], Descriptors(no_maps, pooled, corrected))

    def _factor(self, batch: Sequence[Any]) -> float:
        """What makes the mean over processes of their shares' mean losses that of the batch."""
        n = n_processes()
        if n == 1:
            return 1.0
        share = contiguous_shares(batch, n)[process_index()]
        return n * self.task.weight(share) / (self.task.weight(batch) or 1.0)

    def _exactly(self) -> torch.autocast:
        """Without the mixed precision that the head may be trained in: a UNet that computes maps
        has a type of its own, and points and losses are sensitive to rounding."""
        device = next(self.aggregation.parameters()).device
        return torch.autocast(device.type, enabled=False)

    def train(self, mode: bool = True) -> Learner:
        """Training or evaluation mode of the head; what is in front of it is always in the latter,
        in which its features were precomputed."""
        super().train(mode)
        if self.front is not None:
            self.front.eval()
        return self

    def stop_dropout(self) -> None:
        """Drop nothing until `train` is called again."""
        for module in self.aggregation.modules():
            if isinstance(module, nn.Dropout):
                module.eval()

    @torch.no_grad()
    def describe(self, ids: Sequence[str]) -> Descriptors:
        """Descriptors of images, as in evaluation: nothing dropped, no gradients.

        Raises RunError where they are no numbers, as after a training that diverged.
        """
        was_training = self.training
        self.eval()
        try:
            return describe_maps(self.aggregation, self.source.maps(ids), self._kinds_of(ids))
        finally:
            self.train(was_training)

    def learned(self) -> dict[str, Tensor]:
        """Everything that training changes, by name: what requires gradients, and statistics that
        the head keeps. What is frozen is not among it."""
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        names |= {name for name, _ in self.named_buffers() if not name.startswith("front.")}
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `learned` gave. Raises StoreError where it does not fit."""
        own = self.learned()
        if tensors.keys() != own.keys():
            strangers = sorted(tensors.keys() ^ own.keys())
            raise StoreError(
                f"the weights are of another head: {strangers[0]} is only on one side; "
                "use the run's own configuration and arrays"
            )
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                raise StoreError(
                    f"the weights are of another head: {name} is {list(tensor.shape)}, "
                    f"here {list(own[name].shape)}"
                )
        self.load_state_dict(dict(tensors), strict=False)

    def restore_head(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the head of another run, whatever was in front of it. Raises StoreError."""
        own = self.learned()
        front = {name: tensor for name, tensor in own.items() if name.startswith("front.")}
        head = {name: tensor for name, tensor in tensors.items() if not name.startswith("front.")}
        self.restore({**front, **head})


def _own_share(batch: Sequence[Any]) -> list[Any]:
    """This process's examples of a batch; one that counts nothing if there are too few, because
    every process must take part in a step."""
    return contiguous_shares(batch, n_processes())[process_index()] or list(batch[:1])
