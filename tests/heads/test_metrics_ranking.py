"""The order of a gallery: against sorting in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.metrics import cosine_similarity, positions, rank, rank_similarity

MAX_EXAMPLES = settings(max_examples=60, deadline=None)


@st.composite
def score_tables(draw):
    """Scores [Q, G] with many ties, infinities among them."""
    n_queries, n_gallery = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    values = st.sampled_from([-1.0, 0.0, -0.0, 0.5, 1.0, float("inf"), float("-inf")])
    rows = st.lists(values, min_size=n_gallery, max_size=n_gallery)
    return torch.tensor(draw(st.lists(rows, min_size=n_queries, max_size=n_queries)))


@given(score_tables(), st.integers(1, 15), st.integers(1, 4000))
@MAX_EXAMPLES
def test_ranking_is_a_stable_sort(similarity, k, bytes_at_once):
    expected = [
        sorted(range(len(row)), key=lambda place: -row[place])[:k] for row in similarity.tolist()
    ]
    chunks = list(rank_similarity(similarity, k, bytes_at_once))
    assert torch.cat(chunks).tolist() == expected


@given(score_tables(), st.data())
@MAX_EXAMPLES
def test_positions_are_where_the_ranking_has_them(scores, data):
    targets = torch.tensor([data.draw(st.integers(0, scores.shape[1] - 1)) for _ in scores])
    (ranking,) = rank_similarity(scores)
    expected = [row.tolist().index(t) for row, t in zip(ranking, targets.tolist(), strict=True)]
    assert positions(scores, targets).tolist() == expected


@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**31))
@MAX_EXAMPLES
def test_equal_photos_keep_the_gallery_order_whatever_the_chunk(n_distinct, n_queries, seed):
    generator = torch.Generator().manual_seed(seed)
    distinct = torch.randn(n_distinct, 33, generator=generator)
    gallery = distinct[torch.randint(n_distinct, (40,), generator=generator)]
    queries = torch.randn(n_queries, 33, generator=generator)
    whole = torch.cat(list(rank(queries, gallery)))
    one_by_one = torch.cat(list(rank(queries, gallery, bytes_at_once=1)))
    assert torch.equal(whole, one_by_one)
    for row in whole.tolist():
        for photo in distinct:
            same = [place for place in row if torch.equal(gallery[place], photo)]
            assert same == sorted(same)


def test_memory_bounds_the_number_of_queries_at_once():
    chunks = list(rank(torch.randn(10, 3), torch.randn(100, 3), bytes_at_once=3 * 100 * 64))
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 1]


def test_cosine_of_any_length_and_of_nothing():
    queries = torch.tensor([[3.0, 0.0], [1e-30, 1e-30], [0.0, 0.0], [3e38, 3e38]])
    gallery = torch.tensor([[1e-38, 0.0], [0.0, 2.0]])
    half = 0.5**0.5
    expected = torch.tensor([[1.0, 0.0], [half, half], [0.0, 0.0], [half, half]])
    torch.testing.assert_close(cosine_similarity(queries, gallery), expected)


def test_a_nan_is_refused_and_named():
    good = torch.zeros(3, 2)
    bad = good.clone()
    bad[1, 0] = float("nan")
    with pytest.raises(ValueError, match="gallery descriptor 1"):
        next(rank(good, bad))
    with pytest.raises(ValueError, match="row 1"):
        next(rank_similarity(bad))
    with pytest.raises(ValueError, match="row 1"):
        positions(bad, torch.zeros(3, dtype=torch.int64))


def test_a_target_that_is_no_column_is_refused():
    with pytest.raises(ValueError, match="columns 0 to 1"):
        positions(torch.zeros(1, 2), torch.tensor([2]))
