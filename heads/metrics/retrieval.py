"""Retrieval: mAP@K and P@K over categories, Acc@q of one photo within its category.

The literature counts the same names differently, so both ways have names (docs/protocols.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from heads.metrics.ranking import cosine_similarity, positions

APVariant = Literal["ap-hits", "ap-voc"]
PrecisionVariant = Literal["p-k", "p-min"]

_NAME = re.compile(r"(map|p|acc)@(all|[1-9]\d*)")


@dataclass(frozen=True)
class RetrievalScores:
    """Means over all queries, by metric name.

    A query whose category has no photo in the gallery scores 0 and is counted apart.
    """

    metrics: Mapping[str, float]
    values: Tensor
    """float64 [Q, M] on the CPU: each query's own, a column for each metric."""
    n_queries: int
    n_without_relevant: int


@dataclass(frozen=True)
class InstanceScores:
    """Acc@q as the mean over sketches, and as the mean over categories of their means."""

    metrics: Mapping[str, float]
    over_categories: Mapping[str, float]
    values: Tensor
    """float64 [Q, M]: 1 for each sketch whose photo was found, a column for each metric."""
    mean_rank: float
    """Mean place of the sketches' photos, from 1."""
    reciprocal_rank: float
    """Mean of 1 / place."""
    n_queries: int


def depth(names: Sequence[str]) -> int | None:
    """How many places of a ranking the metrics look at; None for all of them."""
    cuts = [_parsed(name)[1] for name in names]
    return None if None in cuts else max(cut for cut in cuts if cut is not None)


def average_precision(
    hits: Tensor, n_relevant: Tensor, k: int | None = None, variant: APVariant = "ap-hits"
) -> Tensor:
    """AP@K float64 [Q] of rankings whose place r holds a relevant photo where `hits[:, r]`.

    `ap-hits` divides the sum of the precisions at the hits within K by their number; `ap-voc`
    takes the highest precision from there to K in place of each precision, as PASCAL VOC does,
    and divides by min(K, relevant photos). Without a hit both are 0.

    Args:
        hits: bool [Q, R] in the order of the ranking.
        n_relevant: int [Q], relevant photos in the whole gallery.
        k: None for all R places.
    """
    counted = hits[:, :k].double()
    ranks = torch.arange(1, counted.shape[1] + 1, dtype=torch.float64, device=hits.device)
    precision = counted.cumsum(1) / ranks
    if variant == "ap-hits":
        denominator = counted.sum(1)
    else:
        precision = precision.flip(1).cummax(1).values.flip(1)
        denominator = (n_relevant if k is None else n_relevant.clamp(max=k)).double()
    return (precision * counted).sum(1) / denominator.clamp(min=1)


def precision_at(
    hits: Tensor, n_relevant: Tensor, k: int, variant: PrecisionVariant = "p-k"
) -> Tensor:
    """P@K float64 [Q]: the share of hits among the first K (`p-k`), or among the first
    min(K, relevant photos) as ZSE-SBIR counts them (`p-min`).

    `p-k` divides by K even if the gallery is smaller; `p-min` is 0 without a relevant photo.
    Arguments as in `average_precision`.
    """
    hits = hits[:, :k]
    if variant == "p-k":
        return hits.sum(1).double() / k
    cut = n_relevant.clamp(max=k)[:, None]
    counted = hits & (torch.arange(hits.shape[1], device=hits.device) < cut)
    return counted.sum(1).double() / cut[:, 0].clamp(min=1)


def category_scores(
    rankings: Iterable[Tensor],
    query_labels: Tensor,
    gallery_labels: Tensor,
    names: Sequence[str],
    ap: APVariant = "ap-hits",
    precision: PrecisionVariant = "p-k",
) -> RetrievalScores:
    """Category-level scores: a photo is relevant if it has the query's label.

    Args:
        rankings: gallery rows int64 [q, R] for consecutive queries, as `rank` yields them, to at
            least `depth(names)` places.
        query_labels: int64 [Q].
        gallery_labels: int64 [G].
        names: such as `map@all`, `map@200`, `p@100`.

    Raises `ValueError` for a name it does not know, rankings that are too short or not as many as
    queries, and where there is no query or no photo.
    """
    n_queries, n_gallery = len(query_labels), len(gallery_labels)
    if not n_queries or not n_gallery:
        raise ValueError(f"nothing to rank: {n_queries} queries, {n_gallery} photos")
    metrics = {name: _parsed(name) for name in names}
    for name, (kind, _) in metrics.items():
        if kind == "acc":
            raise ValueError(f"no metric {name!r} over categories; give map@all, map@K or p@K")
    needed = min(depth(names) or n_gallery, n_gallery)
    sums = dict.fromkeys(names, 0.0)
    found: list[Tensor] = []
    n_ranked = n_without = 0
    for ranking in rankings:
        if ranking.shape[1] < needed:
            raise ValueError(f"rankings have {ranking.shape[1]} places, the metrics need {needed}")
        labels = query_labels[n_ranked : n_ranked + len(ranking), None].to(ranking.device)
        photos = gallery_labels.to(ranking.device)
        n_ranked += len(ranking)
        if len(labels) < len(ranking):
            break
        hits = photos[ranking] == labels
        n_relevant = (photos == labels).sum(1)
        n_without += int((n_relevant == 0).sum())
        columns = []
        for name, (kind, k) in metrics.items():
            if kind == "map":
                values = average_precision(hits, n_relevant, k, ap)
            else:
                values = precision_at(hits, n_relevant, k or n_gallery, precision)
            sums[name] += float(values.sum())
            columns.append(values.cpu())
        found.append(torch.stack(columns, dim=1))
    if n_ranked != n_queries:
        raise ValueError(f"{n_queries} queries have labels but {n_ranked} or more are ranked")
    means = {name: total / n_queries for name, total in sums.items()}
    return RetrievalScores(means, torch.cat(found), n_queries, n_without)


def instance_positions(
    queries: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    sources: Tensor,
) -> Tensor:
    """Place int64 [Q], from 0, of each sketch's own photo among the photos of its category.

    Args:
        queries: descriptors [Q, D]; `gallery` [G, D].
        query_labels: categories int64 [Q]; `gallery_labels` int64 [G].
        sources: gallery row int64 [Q] of the photo each sketch was drawn from.

    Raises `ValueError` where a sketch's photo is not in the gallery or of another category.
    """
    if len(sources) and not 0 <= int(sources.min()) <= int(sources.max()) < len(gallery):
        raise ValueError("every sketch needs its photo in the gallery; leave the others out")
    strangers = (gallery_labels[sources] != query_labels).nonzero()
    if len(strangers):
        raise ValueError(f"query {int(strangers[0])} and its photo are of different categories")
    found = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    for label in query_labels.unique():
        rows = (query_labels == label).nonzero()[:, 0]
        photos = (gallery_labels == label).nonzero()[:, 0]
        similarity = cosine_similarity(queries[rows], gallery[photos]).to(found.device)
        found[rows] = positions(similarity, torch.searchsorted(photos, sources[rows]))
    return found


def instance_scores(
    found: Tensor, query_labels: Tensor, names: Sequence[str] = ("acc@1", "acc@5")
) -> InstanceScores:
    """Acc@q of the places int64 [Q] at which each sketch's photo was found.

    Raises `ValueError` for a name it does not know, and where there is no query.
    """
    if not len(found):
        raise ValueError("no sketch to find a photo for")
    over_sketches, over_categories, columns = {}, {}, []
    categories, index = query_labels.unique(return_inverse=True)
    sizes = index.bincount(minlength=len(categories)).double()
    for name in names:
        kind, q = _parsed(name)
        if kind != "acc" or q is None:
            raise ValueError(f"no metric {name!r} within a category; give acc@Q")
        right = (found < q).double()
        over_sketches[name] = float(right.mean())
        over_categories[name] = float((index.bincount(weights=right) / sizes).mean())
        columns.append(right)
    places = found.double() + 1
    return InstanceScores(
        over_sketches,
        over_categories,
        torch.stack(columns, dim=1),
        float(places.mean()),
        float((1 / places).mean()),
        len(found),
    )


def _parsed(name: str) -> tuple[str, int | None]:
    """A metric's kind and K, None for `all`."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"no metric {name!r}; give map@all, map@K, p@K or acc@Q")
    return match[1], None if match[2] == "all" else int(match[2])
