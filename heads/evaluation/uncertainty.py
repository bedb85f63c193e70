"""How far a result can be trusted: a bootstrap over categories, paired between two results.

Queries of one category are alike, so they are no independent samples: what is drawn with
replacement is whole categories with all their queries, the cluster bootstrap (C. A. Field and A. H.
Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69, 2007). Queries are not drawn anew
inside a category: the spread of the categories' means holds that of their queries already, and a
second stage would count it twice (A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8). Only sums over categories are drawn, so the number of queries does
not matter.

Few categories give too narrow a spread. Standard errors are multiplied by sqrt(C / (C - 1)) for C
categories, and intervals are percentiles expanded to the width of Student's t with C - 1 degrees of
freedom (T. C. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
Statistician 69, 2015). `docs/protocols.md` says the same in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from heads.protocols import Score, Units

LEVEL = 0.95
"""How often an interval is meant to hold the truth."""
N_RESAMPLES = 10_000
SEED = 0
FEW = 20
"""Below so many categories a result is said to be rough."""
_MOST_GROUPS = 300
"""Of the queries of a single category."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What can be drawn: categories, or groups of queries where there is only one category.

    The metrics of a draw are the sums of `values` divided by the sums of `weights`, each float64
    [C, M].
    """

    values: np.ndarray
    weights: np.ndarray
    names: tuple[str, ...]
    """Of the categories with queries, sorted; one name if queries are drawn."""

    @classmethod
    def of(cls, units: Units) -> Sums:
        """Sums over the categories that have units, or over groups of units of the only one."""
        labels = units.labels
        present = np.unique(labels)
        names = [units.categories[label] for label in present]
        if len(present) == 1:
            # Dealt out in turn, which is as good as at random: units are in no order of values.
            groups = np.arange(len(labels)) % _MOST_GROUPS
            n_groups = min(len(labels), _MOST_GROUPS)
        else:
            # Rows in the order of the names, so that another part with other labels fits.
            row_of = np.empty(int(present[-1]) + 1, np.int64)
            row_of[present[np.argsort(names)]] = np.arange(len(present))
            groups, n_groups = row_of[labels], len(present)
        weights = np.ones_like(units.values) if units.weights is None else units.weights

        def total(columns: np.ndarray) -> np.ndarray:
            return np.stack([np.bincount(groups, column, n_groups) for column in columns.T], 1)

        return cls(total(units.values * weights), total(weights), tuple(sorted(names)))

    @classmethod
    def pooled(cls, several: Sequence[Sums]) -> Sums:
        """Of several worlds, each of which counts alike; categories of one name are drawn as one.
        Metrics are the means over the worlds."""
        names = tuple(sorted({name for sums in several for name in sums.names}))
        n_metrics = several[0].values.shape[1]
        values, weights = np.zeros((2, len(names), n_metrics))
        for sums in several:
            rows = [names.index(name) for name in sums.names]
            values[rows] += sums.values / sums.weights.sum(0)
            weights[rows] += sums.weights / sums.weights.sum(0)
        return cls(values, weights, names)

    @classmethod
    def of_row(cls, evaluation: Mapping[str, Any], row: str) -> Sums | None:
        """Of a row of an evaluation's JSON; None if it holds no results by category."""
        by_category = evaluation.get("categories", {}).get(row)
        if not by_category:
            return None
        metrics, names = list(evaluation["metrics"]), tuple(sorted(by_category))
        means, weights = (
            np.array([[found[name][metric] for metric in metrics] for name in names])
            for found in (by_category, evaluation["category_weights"])
        )
        return cls(means * weights, weights, names)

    @property
    def metrics(self) -> np.ndarray:
        """float64 [M]."""
        return self.values.sum(0) / self.weights.sum(0)

    def drawn(self) -> np.ndarray:
        """Metrics float64 [resamples, M]; the same groups are drawn for all results on a part."""
        counts = _counts(len(self.values))
        return (counts @ self.values) / (counts @ self.weights)

    def errors(self) -> np.ndarray:
        """Standard errors float64 [M]; 0 if only one query can be drawn."""
        return _errors(self.drawn(), len(self.values))


class Difference(NamedTuple):
    """This run's metric minus another's, with its standard error and interval. They cannot be told
    apart if the interval holds 0."""

    difference: float
    error: float
    low: float
    high: float


def differences(ours: Sums, theirs: Sums) -> list[Difference]:
    """Paired differences of two results on the same part, for each metric.

    Both are drawn with the same categories, so what makes a category hard for both cancels. Raises
    ValueError for results on other images.
    """
    if ours.names != theirs.names or len(ours.values) != len(theirs.values):
        raise ValueError("only results on the same images can be paired")
    n_groups = len(ours.values)
    drawn = ours.drawn() - theirs.drawn()
    tail = _tail(n_groups)
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    means = ours.metrics - theirs.metrics
    columns = (means, _errors(drawn, n_groups), low, high)
    return [Difference(*map(float, row)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Uncertainty:
    """Of a run and everything on the same test part; numbers by metric name."""

    errors: Mapping[str, float]
    baseline_errors: Mapping[str, Mapping[str, float]]
    differences: Mapping[str, Mapping[str, Mapping[str, float]]]
    """This run minus each baseline: `difference`, `error`, `low` and `high`."""
    resampled: str
    """What was drawn, in words."""
    categories: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Metrics by row and category, the run's under its own name."""
    category_weights: Mapping[str, Mapping[str, float]]
    """By category: the weight of its metrics in the mean over categories."""


def uncertainty(name: str, ours: Score, others: Mapping[str, Score]) -> Uncertainty:
    """Of a run's score, and of others' on the same part, by name."""
    metrics = list(ours.metrics)
    own = Sums.of(ours.units)
    sums = {other: Sums.of(score.units) for other, score in others.items()}
    whole = {} if len(own.names) == 1 else {name: own, **sums}
    return Uncertainty(
        errors=_named(metrics, own.errors()),
        baseline_errors={other: _named(metrics, s.errors()) for other, s in sums.items()},
        differences={
            other: {
                metric: found._asdict()
                for metric, found in zip(metrics, differences(own, s), strict=True)
            }
            for other, s in sums.items()
        },
        resampled=in_words(own),
        categories={
            row: {
                category: _named(metrics, means)
                for category, means in zip(s.names, s.values / s.weights, strict=True)
            }
            for row, s in whole.items()
        },
        category_weights={
            category: _named(metrics, weights)
            for s in list(whole.values())[:1]
            for category, weights in zip(s.names, s.weights, strict=True)
        },
    )


def in_words(sums: Sums) -> str:
    """What is drawn to get errors, and whether that is enough of it."""
    n = len(sums.names)
    if n == 1:
        return "what is tested of one category, which says nothing of others"
    return f"{n} categories" + (", few: a rough estimate" if n < FEW else "")


def _named(metrics: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(metrics, values.tolist(), strict=True))


@lru_cache(maxsize=2)
def _counts(n_groups: int) -> np.ndarray:
    """How often each group is in each resample, float64 [resamples, groups]."""
    generator = np.random.default_rng(SEED)
    chances = np.full(n_groups, 1 / n_groups)
    return generator.multinomial(n_groups, chances, N_RESAMPLES).astype(np.float64)


def _errors(drawn: np.ndarray, n_groups: int) -> np.ndarray:
    return drawn.std(0) * (n_groups / max(n_groups - 1, 1)) ** 0.5


def _tail(n_groups: int) -> float:
    """The share of resamples below an interval, and above it."""
    if n_groups < 2:
        return 0.0
    freedom = n_groups - 1
    return NormalDist().cdf(-((n_groups / freedom) ** 0.5) * student_t(freedom))


def student_t(freedom: int) -> float:
    """The quantile of Student's t at the upper end of an interval of `LEVEL`.

    By the expansion of Cornish and Fisher in 1 / `freedom`: exact to 0.01 from 4 degrees of freedom
    on. With fewer it is too small, but beyond all resamples of so few categories anyway.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
