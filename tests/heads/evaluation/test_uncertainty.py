"""Standard errors and paired differences, against bootstraps written as loops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.stats

from heads.evaluation.evaluate import examine
from heads.evaluation.result import Evaluation
from heads.evaluation.table import interval_in_words, text_table
from heads.evaluation.uncertainty import Sums, differences, student_t, uncertainty
from heads.protocols import Score, Units
from heads.report.results import results_table
from heads.tasks import TASKS
from tests.heads.conftest import Runs


def made(
    seed: int,
    n_categories: int,
    n_queries: int = 12,
    shift: float = 0.0,
    between: float = 0.1,
    weighted: bool = False,
) -> Units:
    """Two metrics of a few queries in each category, which differ from category to category."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_categories), rng.integers(2, n_queries, n_categories))
    rng.shuffle(labels)
    values = shift + rng.normal(0, between, (n_categories, 2))[labels]
    values = values + rng.normal(0, 0.3, (len(labels), 2))
    # Names are not in the order of labels, and one has no query.
    names = (*(f"c{(7 * label) % 101}" for label in range(n_categories)), "empty")
    weights = rng.uniform(1, 9, values.shape) if weighted else None
    return Units(values, labels, names, weights)


def categories_as_lists(units: Units) -> list[list[tuple[float, float]]]:
    """For the first metric, (weight times value, weight) of each query, by category."""
    lists: list[list[tuple[float, float]]] = [[] for _ in units.categories]
    for row, label in enumerate(units.labels):
        weight = 1.0 if units.weights is None else float(units.weights[row, 0])
        lists[label].append((weight * float(units.values[row, 0]), weight))
    return [found for found in lists if found]


def mean(chosen: Sequence[Sequence[tuple[float, float]]]) -> float:
    total = sum(value for queries in chosen for value, _ in queries)
    return total / sum(weight for queries in chosen for _, weight in queries)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_and_intervals_are_those_of_a_bootstrap_in_loops(weighted: bool) -> None:
    ours, theirs = made(1, 9, weighted=weighted), made(1, 9, weighted=weighted)
    rng = np.random.default_rng(5)
    theirs.values[:] = theirs.values - rng.normal(0.05, 0.1, theirs.values.shape)
    one, other = categories_as_lists(ours), categories_as_lists(theirs)
    n = len(one)
    means, gaps = [], []
    for _ in range(4000):
        drawn = rng.integers(0, n, n)
        means.append(mean([one[c] for c in drawn]))
        gaps.append(means[-1] - mean([other[c] for c in drawn]))
    error = Sums.of(ours).errors()[0]
    assert error == pytest.approx(np.std(means) * np.sqrt(n / (n - 1)), rel=0.04)
    found = differences(Sums.of(ours), Sums.of(theirs))[0]
    assert found.difference == pytest.approx(mean(one) - mean(other))
    assert found.error == pytest.approx(np.std(gaps) * np.sqrt(n / (n - 1)), rel=0.04)
    # As far out as Student's t is, in the percentiles of the resamples.
    tail = scipy.stats.norm.cdf(-np.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1))
    low, high = np.quantile(gaps, [tail, 1 - tail])
    assert (found.low, found.high) == (
        pytest.approx(low, abs=0.25 * found.error),
        pytest.approx(high, abs=0.25 * found.error),
    )
    # Paired: far less than two results that are drawn apart.
    assert found.error < 0.5 * np.hypot(error, Sums.of(theirs).errors()[0])


@pytest.mark.parametrize(("n_categories", "least"), [(8, 0.90), (30, 0.91)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    n_categories: int, least: float
) -> None:
    """150 worlds of one seed each; the truth is 0.05."""
    n_right = 0
    for seed in range(150):
        ours = made(seed, n_categories, shift=0.05, between=0.2)
        nothing = Units(np.zeros_like(ours.values), ours.labels, ours.categories)
        found = differences(Sums.of(ours), Sums.of(nothing))[0]
        n_right += found.low <= 0.05 <= found.high
    assert least <= n_right / 150 <= 0.99


def test_equal_rows_differ_by_exactly_nothing() -> None:
    sums = Sums.of(made(0, 8, weighted=True))
    for found in differences(sums, Sums.of(made(0, 8, weighted=True))):
        assert found == (0, 0, 0, 0)
    for found in differences(sums, Sums.of(made(0, 8, shift=9.0, weighted=True))):
        assert found.high < 0


def test_results_on_other_images_are_not_paired() -> None:
    with pytest.raises(ValueError, match="same images"):
        differences(Sums.of(made(0, 8)), Sums.of(made(0, 9)))


def test_of_a_single_category_queries_are_drawn() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((5000, 1))
    one = Units(values, np.full(5000, 3), ("a", "b", "c", "d"))
    assert Sums.of(one).errors()[0] == pytest.approx(values.std() / np.sqrt(5000), rel=0.1)
    score = Score({"acc@1": float(values.mean())}, 5000, units=one)
    found = uncertainty("ours", score, {"other": score})
    assert "one category" in found.resampled and not found.categories
    single = Units(np.array([[0.25]]), np.zeros(1, np.int64), ("a",))
    (nothing,) = differences(Sums.of(single), Sums.of(single))
    assert Sums.of(single).errors()[0] == 0 and nothing == (0, 0, 0, 0)


def test_the_same_numbers_again_and_soon_enough() -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"{c:03d}" for c in range(30))
    units = Units(rng.random((70_000, 4)), rng.integers(0, 30, 70_000), names)
    started = time.perf_counter()
    first = differences(Sums.of(units), Sums.of(made_like(units)))
    assert time.perf_counter() - started < 2
    assert first == differences(Sums.of(units), Sums.of(made_like(units)))


def made_like(units: Units) -> Units:
    return Units(units.values[::-1].copy(), units.labels, units.categories)


@pytest.mark.parametrize("freedom", [4, 7, 20, 344])
def test_the_width_is_students(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=0.01)


def test_worlds_count_alike_and_share_their_categories() -> None:
    """A category that is hard in every world is drawn in all of them at once."""
    worlds = [made(seed, 8, n_queries=6 + 4 * seed) for seed in range(3)]
    for world in worlds:
        world.values[:] = np.arange(8)[world.labels, None]
    alone = [Sums.of(world) for world in worlds]
    together = Sums.pooled(alone)
    np.testing.assert_allclose(together.metrics, np.mean([s.metrics for s in alone], axis=0))
    # What categories differ by does not shrink with worlds; what queries differ by does.
    assert together.errors()[0] > 0.7 * np.mean([s.errors()[0] for s in alone])
    noise = [Sums.of(made(seed, 8, between=0.0)) for seed in range(9)]
    assert Sums.pooled(noise).errors()[0] < 0.5 * np.mean([s.errors()[0] for s in noise])


# In an evaluation ---------------------------------------------------------------------------------


Results = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def results(runs: Runs) -> Results:
    """The evaluation of each task's run, not to be changed."""

    @cache
    def found(task: str) -> dict[str, Any]:
        return examine(runs(task), log=lambda line: None).evaluation.as_json()

    return found


@pytest.mark.parametrize("task", TASKS)
def test_units_make_up_every_metric_of_every_row(results: Results, task: str) -> None:
    found = results(task)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = {found["name"]: found["metrics"], **found["baselines"]}
    assert found["categories"].keys() == rows.keys()
    for name, metrics in rows.items():
        sums = Sums.of_row(found, name)
        assert sums is not None
        np.testing.assert_allclose(sums.metrics, list(metrics.values()), rtol=1e-12)
        for metric, value in metrics.items():
            weights = {c: w[metric] for c, w in found["category_weights"].items()}
            by_category = [weights[c] * m[metric] for c, m in found["categories"][name].items()]
            assert sum(by_category) / sum(weights.values()) == pytest.approx(value)
    assert found["errors"].keys() == found["metrics"].keys()
    for key in ("baseline_errors", "differences"):
        assert found[key].keys() == found["baselines"].keys()
    for name, by_metric in found["differences"].items():
        for metric, gap in by_metric.items():
            expected = found["metrics"][metric] - found["baselines"][name][metric]
            assert gap["difference"] == pytest.approx(expected, abs=1e-12)
            assert gap["low"] <= gap["difference"] <= gap["high"]
    assert found["headline"] == TASKS[task].headline in found["metrics"]
    assert (task == "fine_grained") == bool(found["mean_ranks"])


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "name": "ours",
        "task": "fine_grained",
        "protocol": "p",
        "variants": {},
        "split": "test",
        "metrics": {"acc@1": 0.5, "acc@5": 0.75},
        "beside": {},
        "baselines": {"B-CLIP": {"acc@1": 0.1, "acc@5": 0.5}, "B-SD": {"acc@1": 0.5, "acc@5": 0.7}},
        "missing": {},
        "chance": {"acc@1": 0.02, "acc@5": 0.1},
        "paper": {},
        "n": 1234,
        "stores": ["f"],
        "headline": "acc@5",
        "errors": {"acc@1": 0.02, "acc@5": 0.0125},
        "baseline_errors": {
            "B-CLIP": {"acc@1": 0.01, "acc@5": 0.02},
            "B-SD": {"acc@1": 0.01, "acc@5": 0.05},
        },
        "differences": {
            "B-CLIP": {"acc@5": {"difference": 0.25, "error": 0.1, "low": 0.125, "high": 0.375}},
            "B-SD": {"acc@5": {"difference": 0.05, "error": 0.1, "low": -0.1, "high": 0.15}},
        },
        "resampled": "8 categories, few: a rough estimate",
        "mean_ranks": {"ours": 1.5, "B-CLIP": 2.25},
    }
    return Evaluation(**(values | changes))


def test_the_table_says_what_can_be_told_apart() -> None:
    assert text_table(evaluation()).splitlines() == [
        "fine_grained by p, test part, n = 1,234",
        "                       acc@1         acc@5",
        "this run: ours  50.00 ± 2.00  75.00 ± 1.25",
        "B-CLIP          10.00 ± 1.00  50.00 ± 2.00",
        "B-SD            50.00 ± 1.00  70.00 ± 5.00",
        "chance           2.00         10.00",
        "±: standard error; intervals: 95 %, paired; bootstrap over 8 categories, few: a rough"
        " estimate (docs/protocols.md)",
        "acc@5: this run minus",
        "  B-CLIP  +25.00  +12.50 to +37.50",
        "  B-SD     +5.00  -10.00 to +15.00  not distinguishable",
        "mean rank of the right photo (1 is best): ours 1.50, B-CLIP 2.25",
    ]
    plain = text_table(evaluation(errors={}, baseline_errors={}, differences={}))
    assert "±" not in plain and "distinguishable" not in plain


def test_the_report_says_it_too() -> None:
    body = results_table(evaluation())
    for text in ("75.00 ± 1.25", "+12.50 to +37.50", "not distinguishable", "8 categories, few"):
        assert text in body
    assert body.count("not distinguishable") == 1


def test_worlds_are_pooled_for_the_table_of_several(results: Results) -> None:
    from benchmarks.tasks import markdown, pooled

    found = results("retrieval")
    rows = pooled("retrieval", [found, found])
    assert rows.keys() == found["baselines"].keys()
    # The same world twice tells no more than once.
    for name, cells in rows.items():
        gap = found["differences"][name][found["headline"]]
        assert cells == interval_in_words(gap["difference"], gap["low"], gap["high"])
    assert "95 %" in markdown("retrieval", [found, found])
    fine = results("fine_grained")
    assert "Mean rank of the right photo" in markdown("fine_grained", [fine, fine])


def test_results_from_before_there_were_errors_are_read(results: Results) -> None:
    from benchmarks.tasks import markdown, pooled

    new = ("categories", "category_weights", "mean_ranks", "errors", "differences")
    old = {key: value for key, value in results("fine_grained").items() if key not in new}
    assert pooled("fine_grained", [old, old]) == {}
    table = markdown("fine_grained", [old, old])
    assert "95 %" not in table and "B-CLIP" in table
