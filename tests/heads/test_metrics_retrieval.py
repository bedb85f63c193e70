"""mAP@K, P@K and Acc@q: against scikit-learn where it says the same, else written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from heads.metrics import (
    average_precision,
    category_scores,
    depth,
    instance_positions,
    instance_scores,
    precision_at,
    rank,
    rank_similarity,
)

EXAMPLES = settings(max_examples=80, deadline=None)

hit_lists = st.lists(st.booleans(), min_size=1, max_size=25)
cuts = st.one_of(st.none(), st.integers(1, 30))


def written_out_ap(hits, n_relevant, k, variant):
    """One query, by the definitions and nothing else."""
    kept = hits if k is None else hits[:k]
    precisions = [sum(kept[: rank + 1]) / (rank + 1) for rank in range(len(kept))]
    places = [rank for rank, hit in enumerate(kept) if hit]
    if not places:
        return 0.0
    if variant == "ap-hits":
        return sum(precisions[place] for place in places) / len(places)
    best_from_there = [max(precisions[place:]) for place in places]
    return sum(best_from_there) / (n_relevant if k is None else min(k, n_relevant))


def area_under_voc_curve(hits, n_relevant, k):
    """PASCAL VOC's AP as the area under the monotone precision-recall curve, after SAKE."""
    kept = np.array(hits[:k], float)
    recall = np.concatenate([[0], kept.cumsum() / min(k, n_relevant), [1]])
    precision = np.concatenate([[0], kept.cumsum() / np.arange(1, len(kept) + 1), [0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(np.diff(recall))
    return ((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum()


@pytest.mark.parametrize("variant", ["ap-hits", "ap-voc"])
@given(hits=hit_lists, beyond=st.integers(0, 5), k=cuts)
@EXAMPLES
def test_ap_is_as_written_out(variant, hits, beyond, k):
    n_relevant = sum(hits) + beyond  # a ranking may be shorter than the gallery
    ours = average_precision(torch.tensor([hits]), torch.tensor([n_relevant]), k, variant)
    assert ours.item() == pytest.approx(written_out_ap(hits, n_relevant, k, variant), abs=1e-12)


@given(hits=hit_lists.filter(any), k=st.integers(1, 30))
@EXAMPLES
def test_ap_voc_is_the_area_of_its_curve(hits, k):
    ours = average_precision(torch.tensor([hits]), torch.tensor([sum(hits)]), k, "ap-voc")
    assert ours.item() == pytest.approx(area_under_voc_curve(hits, sum(hits), k), abs=1e-12)


@given(hits=hit_lists, k=st.integers(1, 30))
@EXAMPLES
def test_ap_hits_is_scikit_learns_on_the_truncated_ranking(hits, k):
    kept = hits[:k]
    expected = average_precision_score(kept, -np.arange(len(kept))) if any(kept) else 0.0
    ours = average_precision(torch.tensor([hits]), torch.tensor([sum(hits)]), k)
    assert ours.item() == pytest.approx(expected, abs=1e-12)


@given(hits=hit_lists, beyond=st.integers(0, 5), k=st.integers(1, 30))
@EXAMPLES
def test_precision_at_k(hits, beyond, k):
    n_relevant = sum(hits) + beyond
    arguments = torch.tensor([hits]), torch.tensor([n_relevant]), k
    found = sum(hits[:k])
    assert precision_at(*arguments).item() == pytest.approx(found / k)
    least = min(k, n_relevant)
    expected = sum(hits[:least]) / least if least else 0.0
    assert precision_at(*arguments, "p-min").item() == pytest.approx(expected)


def as_zse_sbir(distances, labels, query_label, k):
    """P@K as its evaluation does it: the relevant among the first min(K, relevant), as a mean."""
    same = labels == query_label
    in_order = same[np.argsort(distances, kind="stable")]
    return in_order[: min(k, same.sum())].mean()


@pytest.mark.parametrize("n_relevant", [1, 10, 60])
def test_p_min_is_what_zse_sbir_computes(n_relevant):
    rng = np.random.default_rng(n_relevant)
    gallery = np.repeat(np.arange(5), n_relevant)
    queries = np.arange(5)
    distances = rng.normal(size=(5, len(gallery))) + 0.8 * (queries[:, None] != gallery)
    names = ["p@1", "p@20", "p@100", "p@200"]
    scores = category_scores(
        rank_similarity(torch.from_numpy(-distances), depth(names)),
        torch.from_numpy(queries),
        torch.from_numpy(gallery),
        names,
        precision="p-min",
    )
    for name in names:
        k = int(name.removeprefix("p@"))
        expected = [as_zse_sbir(row, gallery, query, k) for query, row in enumerate(distances)]
        assert scores.metrics[name] == pytest.approx(np.mean(expected), abs=1e-12)


def test_p_min_looks_no_farther_than_there_are_relevant_photos():
    hits = torch.tensor([[False, True]])
    assert precision_at(hits, torch.tensor([1]), 100, "p-min").item() == 0
    # 10 relevant photos of 2,000: two of the first ten, the others by place 200.
    hits = torch.zeros(1, 200, dtype=torch.bool)
    hits[0, [0, 5, *range(20, 28)]] = True
    assert precision_at(hits, torch.tensor([10]), 200, "p-min").item() == 0.2
    assert precision_at(hits, torch.tensor([10]), 200).item() == 10 / 200


@st.composite
def searches(draw):
    """Similarities with ties, labels of queries (some without a photo) and of the gallery."""
    n_queries, n_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 15))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, draw(st.integers(1, 8)), (n_queries, n_gallery)).astype(np.float32)
    return similarity, rng.integers(0, 4, n_queries), rng.integers(0, 3, n_gallery)


@pytest.mark.parametrize("ap", ["ap-hits", "ap-voc"])
@given(search=searches(), k=st.integers(1, 20), bytes_at_once=st.integers(1, 3000))
@EXAMPLES
def test_category_scores_are_means_over_queries(ap, search, k, bytes_at_once):
    similarity, queries, gallery = search
    names = ("map@all", f"map@{k}", f"p@{k}")
    scores = category_scores(
        rank_similarity(torch.from_numpy(similarity), depth(names), bytes_at_once),
        torch.from_numpy(queries),
        torch.from_numpy(gallery),
        names,
        ap,
    )
    expected = {name: [] for name in names}
    for row, label in zip(similarity, queries, strict=True):
        order = sorted(range(len(row)), key=lambda place, row=row: (-row[place], place))
        hits = [bool(gallery[place] == label) for place in order]
        expected["map@all"].append(written_out_ap(hits, sum(hits), None, ap))
        expected[f"map@{k}"].append(written_out_ap(hits, sum(hits), k, ap))
        expected[f"p@{k}"].append(sum(hits[:k]) / k)
    for name in names:
        assert scores.metrics[name] == pytest.approx(np.mean(expected[name]), abs=1e-12)
    assert scores.n_queries == len(queries)
    assert scores.n_without_relevant == sum(label not in gallery for label in queries)


def test_map_equals_scikit_learn_on_random_descriptors():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(n, 16, generator=generator) for n in (30, 200))
    labels = torch.arange(30) % 7, torch.arange(200) % 7
    scores = category_scores(rank(queries, gallery), *labels, ["map@all"])
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2).numpy()
    expected = [
        average_precision_score(labels[1].numpy() == label, row)
        for row, label in zip(cosine, labels[0].numpy(), strict=True)
    ]
    assert scores.metrics["map@all"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_no_relevant_photo_is_zero_and_counted():
    scores = category_scores(
        rank_similarity(torch.eye(2)),
        torch.tensor([0, 9]),
        torch.tensor([0, 1]),
        ["map@all", "map@200", "p@100"],
        precision="p-min",
    )
    assert scores.metrics == {"map@all": 0.5, "map@200": 0.5, "p@100": 0.5}
    assert scores.n_without_relevant == 1


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (1, ["map@all"], "2 queries have labels but 1"),
        (3, ["map@all"], "2 queries have labels but 3"),
        (2, ["acc@1"], "no metric 'acc@1' over categories"),
        (2, ["map@0"], "no metric 'map@0'"),
        (2, ["recall@5"], "no metric 'recall@5'"),
    ],
)
def test_what_does_not_fit_is_refused(rows, names, message):
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        category_scores(rank_similarity(torch.zeros(rows, 2)), labels, labels, names)


def test_rankings_that_are_too_short_are_refused():
    labels = torch.arange(4)
    with pytest.raises(ValueError, match="2 places, the metrics need 4"):
        category_scores(rank_similarity(torch.eye(4), k=2), labels, labels, ["map@all"])


def test_nothing_to_rank_is_refused():
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="nothing to rank: 0 queries, 1 photos"):
        category_scores([], none, torch.zeros(1, dtype=torch.int64), ["map@all"])


def test_depth_is_the_longest_cut():
    assert depth(["map@200", "p@100"]) == 200
    assert depth(["map@all", "p@100"]) is None


@st.composite
def drawn_from_photos(draw):
    """Sketches of photos of few distinct looks: ties, categories of one photo among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n_queries, n_gallery = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    looks = rng.normal(size=(3, 4))
    gallery = looks[rng.integers(0, 3, n_gallery)]
    categories = rng.integers(0, draw(st.integers(1, 4)), n_gallery)
    sources = rng.integers(0, n_gallery, n_queries)
    queries = gallery[sources] + rng.integers(0, 2, (n_queries, 1)) * rng.normal(size=4)
    return queries.astype(np.float32), gallery.astype(np.float32), categories, sources


@given(drawn_from_photos())
@EXAMPLES
def test_own_photo_within_its_category(case):
    queries, gallery, categories, sources = case
    labels = categories[sources]
    found = instance_positions(
        *(torch.from_numpy(values) for values in (queries, gallery, labels, categories, sources))
    )
    expected = []
    for query, source in zip(queries, sources, strict=True):
        photos = [g for g in range(len(gallery)) if categories[g] == categories[source]]
        cosine = {}
        for g in photos:
            a, b = query.astype(float), gallery[g].astype(float)
            cosine[g] = np.float32(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))
        expected.append(sorted(photos, key=lambda g, c=cosine: (-c[g], g)).index(source))
    # Rounding the cosine to float32 hides the last digits of float64 but for rare boundaries.
    assert found.tolist() == expected

    scores = instance_scores(found, torch.from_numpy(labels))
    for q in (1, 5):
        right = np.array(expected) < q
        assert scores.metrics[f"acc@{q}"] == pytest.approx(right.mean())
        per_category = [right[labels == label].mean() for label in np.unique(labels)]
        assert scores.over_categories[f"acc@{q}"] == pytest.approx(np.mean(per_category))
    assert scores.values.tolist() == [[place < q for q in (1, 5)] for place in expected]
    assert scores.mean_rank == pytest.approx(np.mean(expected) + 1)
    assert scores.reciprocal_rank == pytest.approx(np.mean([1 / (p + 1) for p in expected]))
    assert scores.n_queries == len(queries)


def test_a_sketch_without_its_photo_is_refused():
    one, zero = torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="needs its photo in the gallery"):
        instance_positions(one, one, zero, zero, zero - 1)
    with pytest.raises(ValueError, match="different categories"):
        instance_positions(one, one, zero + 1, zero, zero)
    with pytest.raises(ValueError, match="no sketch"):
        instance_scores(zero[:0], zero[:0])
    with pytest.raises(ValueError, match="give acc@Q"):
        instance_scores(zero, zero, ["map@all"])
