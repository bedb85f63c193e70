"""Several processes that train one head together: who takes which examples, and how rows meet.

Each process has the whole head, on its own device, and knows the whole batch's annotations. It
describes a contiguous share of the batch; rows that a loss compares across the batch are gathered.
With one process all of this is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def n_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """This process's number, from 0; the main one is 0."""
    return dist.get_rank() if n_processes() > 1 else 0


def contiguous_shares(items: Sequence[T], n_shares: int) -> list[list[T]]:
    """The items in order, in shares whose sizes differ by at most one, the larger ones first.

    With fewer items than shares the last shares are empty.
    """
    size, n_larger = divmod(len(items), n_shares)
    ends = [(i + 1) * size + min(i + 1, n_larger) for i in range(n_shares)]
    return [list(items[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, [sum(counts), ...], in the order of the processes.

    Differentiable: rows get the sum of the gradients that they have in the processes' losses.

    Args:
        rows: at least counts[process_index()] rows; further ones are ignored.
        counts: number of rows of each process.
    """
    if n_processes() == 1:
        return rows[: counts[0]]
    gathered: Tensor = _GatherRows.apply(rows, counts)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    """torch.distributed.nn's `all_gather` for shares of several sizes, which torch deprecates."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        index = process_index()
        start = sum(counts[:index])
        ctx.own, ctx.n_ignored = slice(start, start + counts[index]), len(rows) - counts[index]
        # Collectives need the same size everywhere.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: counts[index]] = rows[: counts[index]]
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        ignored = total.new_zeros(ctx.n_ignored, *total.shape[1:])
        return torch.cat([total[ctx.own], ignored]), None
