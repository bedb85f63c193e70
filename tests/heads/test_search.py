"""The fast search gives the plain ranking."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from heads.metrics.ranking import cosine_similarity, rank
from heads.search import search


def vectors(n: int, seed: int, width: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=generator), dim=1)


@pytest.mark.parametrize("n_queries", [1, 7])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_it_is_the_plain_ranking(n_queries: int, k: int) -> None:
    queries, gallery = vectors(n_queries, 0), vectors(300, 1)
    rows, cosines = search(queries, gallery, k)
    expected = torch.cat(list(rank(queries, gallery, k)))
    assert torch.equal(rows, expected)
    assert torch.equal(cosines, cosine_similarity(queries, gallery).gather(1, expected))


def test_equal_photos_keep_their_order_and_none_is_lost() -> None:
    gallery = vectors(30, 2).repeat(20, 1)
    queries = vectors(5, 3)
    rows, _ = search(queries, gallery, 25)
    assert torch.equal(rows, torch.cat(list(rank(queries, gallery, 25))))
    best = rows[0, :20]
    assert (best % 30 == best[0]).all() and (best.diff() == 30).all()


def test_photos_that_float32_cannot_tell_apart_are_told_apart() -> None:
    # Nearly equal photos: the float32 products differ by no more than their rounding.
    base = vectors(1, 4, 1280)
    gallery = F.normalize(base + 1e-7 * vectors(500, 5, 1280), dim=1)
    queries = F.normalize(base + 0.1 * vectors(3, 6, 1280), dim=1)
    rows, _ = search(queries, gallery, 10)
    assert torch.equal(rows, torch.cat(list(rank(queries, gallery, 10))))


def test_little_memory_gives_the_same() -> None:
    queries, gallery = vectors(9, 7), vectors(200, 8)
    small, large = search(queries, gallery, 5, bytes_at_once=1), search(queries, gallery, 5)
    assert torch.equal(small[0], large[0])
    assert torch.equal(small[1], large[1])
