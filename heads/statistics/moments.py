"""Means and covariance of vectors, one batch at a time, and the whitening that follows from them.

Everything is float64: a covariance of thousands of dimensions has eigenvalues that float32 cannot
tell from zero. Memory does not grow with the number of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.datasets.base import Domain

Centring = Literal["none", "common", "kind"]
CENTRINGS: tuple[Centring, ...] = get_args(Centring)

KINDS: tuple[Domain | None, ...] = ("sketch", "photo", None)
"""What a picture may be; None is one of which that is not known."""


def kind_rows(kinds: Sequence[Domain | None]) -> Tensor:
    """The row of each picture's kind in `KINDS`: int64 [B]."""
    return torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int64)


class Moments:
    """First and second moments of vectors [D], the first by kind.

    Args:
        width: D.
        device: where sums are kept and batches are expected.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros(len(KINDS), dtype=torch.float64, device=device)
        self._shift: Tensor | None = None
        self._sums = torch.zeros(len(KINDS), width, dtype=torch.float64, device=device)
        self._squares = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, vectors: Tensor, kinds: Tensor) -> None:
        """Add vectors [B, D] whose kinds are rows of `KINDS`, int64 [B]."""
        values = vectors.double()
        if self._shift is None:
            # Variances of values far from zero would drown in the squares of their means.
            self._shift = values.mean(0)
        values = values - self._shift
        kinds = kinds.to(values.device)
        self._sums.index_add_(0, kinds, values)
        self.count.index_add_(0, kinds, torch.ones_like(kinds, dtype=torch.float64))
        self._squares += values.T @ values

    def centres(self, centring: Centring) -> Tensor:
        """What is taken off a vector, by the row of its kind: float64 [3, D].

        A kind without any vector has the common mean.
        """
        shift = self._mean_shift()
        if centring == "none":
            return torch.zeros_like(self._sums)
        common = self._sums.sum(0) / self.count.sum()
        centres = common.expand_as(self._sums).clone()
        if centring == "kind":
            own = self.count > 0
            own[KINDS.index(None)] = False
            centres[own] = self._sums[own] / self.count[own, None]
        return centres + shift

    def covariance(self, centring: Centring) -> Tensor:
        """Of the centred vectors, float64 [D, D]; without centring, their second moment."""
        shift = self._mean_shift()
        n = self.count.sum()
        second = self._squares / n
        centres = self.centres(centring) - shift
        cross = self._sums.T @ centres / n
        return second - cross - cross.T + (centres.T * (self.count / n)) @ centres

    def _mean_shift(self) -> Tensor:
        if self._shift is None:
            raise ValueError("moments: no vectors yet")
        return self._shift


def whitening(covariance: Tensor, shrinkage: float) -> Tensor:
    """The symmetric whitening matrix (S + shrinkage * mean eigenvalue of S)^(-1/2), [D, D].

    Shrinkage keeps directions that the training images hardly use from being blown up. The
    symmetric root, and not another, changes little when the covariance does: what was trained
    behind it survives a refit.

    Args:
        covariance: S, float64 [D, D], positive semi-definite.
        shrinkage: above 0.
    """
    power, axes = torch.linalg.eigh(covariance)
    power = power.clamp(min=0)
    floor = shrinkage * power.mean()
    if floor == 0:
        # Constant vectors: nothing to whiten.
        return torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return (axes * (power + floor).rsqrt()) @ axes.T
