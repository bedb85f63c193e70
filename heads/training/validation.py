"""Validation while training, by one process or by several that share the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from heads.aggregation import Descriptors
from heads.tasks import Describe
from heads.training.learner import Learner
from heads.training.processes import (
    contiguous_shares,
    gather_rows,
    n_processes,
    process_index,
)
from heads.training.run import RunError


def validate(learner: Learner) -> dict[str, float]:
    """The metrics of the validation part, with what is fitted on the training part.

    Of processes that train together the main one computes the metrics, which all return; every
    batch of images that it needs descriptors of is described by all of them. Raises RunError in
    the others if the main one fails.
    """
    learner.eval()
    if n_processes() == 1:
        return _metrics(learner, learner.describe)
    if process_index() > 0:
        return _help(learner)
    try:
        metrics = _metrics(learner, lambda ids: _describe_together(learner, _broadcast(tuple(ids))))
    except Exception:
        _broadcast(None)
        raise
    return _broadcast(metrics)


def _metrics(learner: Learner, describe: Describe) -> dict[str, float]:
    task = learner.task
    return dict(task.score(task.parts.val, describe, learner.layers).metrics)


def _help(learner: Learner) -> dict[str, float]:
    """Describe what the main process asks for, until it sends the metrics."""
    while True:
        message = _broadcast(None)
        if message is None:
            raise RunError("validation failed in the main process; it says why")
        if isinstance(message, dict):
            return message
        _describe_together(learner, message)


def _broadcast(message: Any) -> Any:
    """The main process's message: image ids, the metrics, or None after an error."""
    return broadcast_object_list([message])[0]


@torch.no_grad()
def _describe_together(learner: Learner, ids: Sequence[str]) -> Descriptors:
    """Descriptors of images, of which each process describes a share; without maps if the task
    does not look at them."""
    shares = contiguous_shares(ids, n_processes())
    counts = [len(share) for share in shares]
    own = learner.describe(shares[process_index()] or ids[:1])
    pooled = gather_rows(own.pooled, counts)
    if not learner.task.needs_cells:
        return Descriptors(pooled.new_empty(*pooled.shape, 0, 0), pooled)
    return Descriptors(gather_rows(own.spatial, counts), pooled)
