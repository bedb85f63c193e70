"""All that learns, as one module: what is in front of the head, the head, the task's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cache import StoreError
from configs import TrainConfig
from heads.aggregation import AggregationNetwork, Descriptors
from heads.probes import LinearProbe
from heads.sources import FeatureSource
from heads.tasks import Located, Task
from heads.training.processes import (
    contiguous_shares,
    gather_rows,
    n_processes,
    process_index,
)
from heads.training.run import RunError


def build_aggregation(channels: Mapping[str, int], settings: TrainConfig) -> nn.Module:
    """A new head of maps with these channels by array name: maps in, `Descriptors` out."""
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


@torch.no_grad()
def describe_maps(aggregation: nn.Module, maps: Mapping[str, Tensor]) -> Descriptors:
    """Descriptors of feature maps. Raises RunError where they are no numbers."""
    descriptors: Descriptors = aggregation(maps)
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
        settings: the head's shape.
    """

    def __init__(self, task: Task[Any, Any], source: FeatureSource, settings: TrainConfig) -> None:
        super().__init__()
        self.task = task
        self.source = source
        channels = {name: shape[0] for name, shape in source.shapes.items()}
        self.aggregation = build_aggregation(channels, settings)
        self.layers = task.layers(settings.width)
        self.front = source.trained

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
        descriptors = self.aggregation(maps)
        with self._exactly():
            if self.task.pooled_only:
                found = self._gathered(batch, descriptors.pooled)
                return self.task.loss(batch, found, self.layers)
            loss = self.task.loss(own, Located.of(ids, descriptors), self.layers)
            return loss * self._factor(batch)

    def _gathered(self, batch: Sequence[Any], pooled: Tensor) -> Located:
        """The pooled descriptors of the whole batch, of which this process has its share's."""
        shares = contiguous_shares(batch, n_processes())
        ids = [self.task.images(share) if share else () for share in shares]
        gathered = gather_rows(pooled, [len(part) for part in ids])
        no_maps = gathered.new_empty(*gathered.shape, 0, 0)
        return Located.of([*chain(*ids)], Descriptors(no_maps, gathered))

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
            return describe_maps(self.aggregation, self.source.maps(ids))
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
