"""The order of a gallery for a query, the same on every machine: ties keep the gallery's order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BYTES_AT_ONCE = 256 * 2**20
"""About how much memory ranking and counting hits may take beyond their inputs."""

_BYTES_PER_ENTRY = 64
"""Of a query-photo combination: the similarity twice, its order, hits and precision in float64."""


def cosine_similarity(queries: Tensor, gallery: Tensor) -> Tensor:
    """Cosines float32 [Q, G] of descriptors [Q, D] and [G, D]; a descriptor of zeros gets 0.

    Computed in float64 and rounded, so that equal photos tie: sums of products in float32 differ
    in their last digits with the place in the matrix and the number of queries at once. Raises
    `ValueError` for a descriptor that is not finite.
    """
    return (_unit(queries, "query") @ _unit(gallery, "gallery").T).float()


def rank(
    queries: Tensor, gallery: Tensor, k: int | None = None, bytes_at_once: int = BYTES_AT_ONCE
) -> Iterator[Tensor]:
    """Gallery rows, best first, for queries [Q, D] by cosine with a gallery [G, D].

    Yields int64 [q, min(k, G)] for consecutive groups of queries; all G places without `k`.
    """
    unit_queries, unit_gallery = _unit(queries, "query"), _unit(gallery, "gallery")
    for rows in unit_queries.split(_rows_at_once(len(gallery), bytes_at_once)):
        yield _order((rows @ unit_gallery.T).float())[:, :k]


def rank_similarity(
    similarity: Tensor, k: int | None = None, bytes_at_once: int = BYTES_AT_ONCE
) -> Iterator[Tensor]:
    """As `rank`, for a given similarity [Q, G]. Raises `ValueError` where it holds a NaN."""
    _refuse_nan(similarity)
    for rows in similarity.split(_rows_at_once(similarity.shape[1], bytes_at_once)):
        yield _order(rows)[:, :k]


def positions(scores: Tensor, targets: Tensor) -> Tensor:
    """Place int64 [N], from 0, of column `targets[n]` when row n of `scores` [N, C] is ranked.

    Among equals the lower column comes first, as in `rank_similarity`. Raises `ValueError` for a
    NaN, or a target that is no column.
    """
    _refuse_nan(scores)
    n_columns = scores.shape[1]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < n_columns:
        raise ValueError(
            f"targets must be columns 0 to {n_columns - 1}; they reach from {int(targets.min())}"
            f" to {int(targets.max())}"
        )
    own = scores.gather(1, targets[:, None])
    earlier = torch.arange(n_columns, device=scores.device) < targets[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def _order(similarity: Tensor) -> Tensor:
    return similarity.sort(dim=1, descending=True, stable=True).indices


def _rows_at_once(n_columns: int, bytes_at_once: int) -> int:
    return max(1, bytes_at_once // (_BYTES_PER_ENTRY * max(1, n_columns)))


def _unit(descriptors: Tensor, what: str) -> Tensor:
    """Rows of [N, D] with length 1 in float64, which one kind of device cannot compute in."""
    finite = torch.isfinite(descriptors).all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"{what} descriptor {row} holds a number that is not finite")
    values = (descriptors.cpu() if descriptors.device.type == "mps" else descriptors).double()
    return torch.nn.functional.normalize(values, dim=1, eps=torch.finfo(torch.float64).tiny)


def _refuse_nan(scores: Tensor) -> None:
    bad = scores.isnan().any(1)
    if bad.any():
        raise ValueError(f"row {int(bad.nonzero()[0])} of the scores holds a NaN")
