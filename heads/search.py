"""Exact nearest neighbours of many queries in a large gallery, at the speed of float32."""

from __future__ import annotations

import torch
from torch import Tensor

from heads.metrics.ranking import BYTES_AT_ONCE, cosine_similarity

_BYTES_PER_ENTRY = 8
"""Of a query-photo combination: its rough similarity, whether it is a candidate, and room."""


def search(
    queries: Tensor, gallery: Tensor, k: int, bytes_at_once: int = BYTES_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """Rows int64 [Q, min(k, G)] of a gallery [G, P] and their cosines float32, best first.

    Queries [Q, P] and gallery are float32 and of length 1, on one device. As exact as
    `heads.metrics.ranking.rank`, equals by row: a float32 product finds the candidates, with room
    for its rounding, and only they are compared in float64.

    Args:
        bytes_at_once: about how much memory is taken beyond the inputs.
    """
    k = min(k, len(gallery))
    found = [
        part
        for group in queries.split(max(1, bytes_at_once // (_BYTES_PER_ENTRY * len(gallery))))
        for part in _group(group, gallery, k)
    ]
    rows, cosines = zip(*found, strict=True)
    return torch.stack(rows), torch.stack(cosines)


def _group(queries: Tensor, gallery: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """Rows [k] and cosines [k] of each of some queries."""
    rough = _products(queries, gallery)
    # Both the k-th and a candidate may be off, each by half of this for vectors of length 1.
    room = 2 * gallery.shape[1] * torch.finfo(torch.float32).eps
    lowest = rough.topk(k, dim=1).values[:, -1] - room
    found = []
    for query, similarity, bound in zip(queries, rough, lowest, strict=True):
        candidates = (similarity >= bound).nonzero()[:, 0]
        cosines = cosine_similarity(query[None], gallery[candidates])[0]
        order = cosines.sort(descending=True, stable=True).indices[:k]
        found.append((candidates[order], cosines[order]))
    return found


def _products(queries: Tensor, gallery: Tensor) -> Tensor:
    """Float32 [Q, G]."""
    if len(queries) == 1 and gallery.device.type == "cpu":
        # A single pass over the gallery's memory; torch's own takes 1.7 times as long.
        return torch.from_numpy(gallery.numpy() @ queries[0].numpy())[None]
    return queries @ gallery.T
