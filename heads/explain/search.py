"""Sketches of the test part with the photos that the run ranks first for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from heads.explain.choosing import CANDIDATES, best_to_worst, named, spread
from heads.explain.opened import Explained
from heads.metrics.ranking import cosine_similarity, positions, rank_similarity
from heads.plots.records import Hit, Ranking
from heads.tasks.fine_grained import FineGrained
from heads.tasks.search import SearchTask

N_HITS = 8


def find_rankings(
    explained: Explained, n: int, ids: Sequence[str] = (), n_hits: int = N_HITS
) -> list[Ranking]:
    """At most `n` queries, best first, each with its `n_hits` best photos; with `ids` these.

    In fine-grained retrieval a query searches the photos of its own category, as its protocol
    has it. Raises ExplainError for a run of another task or an unknown id, and OSError,
    DatasetError or ImageError for a picture.
    """
    task = explained.experiment.task
    if not isinstance(task, SearchTask):
        raise explained.other_task("rankings")
    part = task.parts.test
    rows: Sequence[int] = range(len(part.queries))
    if ids:
        rows = named(rows, lambda row: (part.queries[row],), ids)[:n]
    else:
        rows = spread(rows, lambda row: part.query_categories[row], n * CANDIDATES)
    similarity = cosine_similarity(
        explained.describe.pooled([part.queries[row] for row in rows]),
        explained.describe.pooled(part.gallery),
    )
    own = part.query_labels[list(rows)][:, None] == part.gallery_labels
    if isinstance(task, FineGrained):
        # Photos of other categories come last, and are not shown.
        similarity = similarity.masked_fill(~own, -torch.inf)
        sources = part.source_rows[list(rows)]
        relevant = torch.zeros_like(own).scatter_(1, sources[:, None], True)
        goodness = -positions(similarity, sources).double()
    else:
        relevant = own
        first = torch.cat(list(rank_similarity(similarity, n_hits)))
        goodness = relevant.gather(1, first).double().mean(1)
    chosen = best_to_worst(range(len(rows)), goodness.tolist(), n)
    order = torch.cat(list(rank_similarity(similarity[chosen], n_hits)))
    photos = {photo: explained.picture(part.gallery[photo]) for photo in order.unique().tolist()}
    return [
        Ranking(
            explained.picture(part.queries[rows[row]]),
            tuple(
                Hit(photos[photo], float(similarity[row, photo]), bool(relevant[row, photo]))
                for photo in best
                if similarity[row, photo].isfinite()
            ),
        )
        for row, best in zip(chosen, order.tolist(), strict=True)
    ]
