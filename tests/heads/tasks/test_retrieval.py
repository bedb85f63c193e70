"""Category-level retrieval: what comes into a batch, and what counts as wrong in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from configs.train import Negatives
from heads.protocols import Parts, SearchPart, find_protocol
from heads.tasks import Fitted, TaskError
from heads.tasks.retrieval import Retrieval
from heads.tasks.search import SearchPair
from tests.heads.tasks.small import MadeUp, frame_of, generator, search_part, settings

EMPTY = search_part({}, {})


def task_of(train: SearchPart, test: SearchPart = EMPTY, **keys) -> Retrieval:
    protocol = find_protocol("retrieval", "sketchy-104-21")
    parts = Parts(train, EMPTY, test)
    return Retrieval(protocol, parts, frame_of({}), settings("retrieval", **keys))


def world(n_sketches: dict[str, int], n_photos: dict[str, int]) -> SearchPart:
    """Sketches and photos named after their category and number."""
    return search_part(
        {f"s/{c}/{i}": (c, None) for c, n in n_sketches.items() for i in range(n)},
        {f"p/{c}/{i}": c for c, n in n_photos.items() for i in range(n)},
    )


def loss_of(task: Retrieval, batch: Sequence[SearchPair], known: MadeUp) -> float:
    located, _ = known.located(task.images(batch))
    return float(task.loss(batch, located, nn.Identity()).detach())


# Batches


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
@examples(max_examples=80, deadline=None)
def test_every_sketch_with_photos_of_its_category_comes_once(
    n_sketches: dict[str, int], n_photos: dict[str, int], size: int, together: int, seed: int
) -> None:
    part = world(n_sketches, n_photos)
    task = task_of(part, batch_size=size, same_category=together)
    usable = {
        sketch
        for sketch, category in zip(part.queries, part.query_categories, strict=True)
        if n_photos.get(category)
    }
    if not usable:
        with pytest.raises(TaskError, match="no training sketch has a photo to find"):
            task.batches(generator(seed))
        return
    epoch = task.batches(generator(seed))
    assert all(len(batch) == size for batch in epoch[:-1]) and 1 <= len(epoch[-1]) <= size
    pairs = [one for batch in epoch for one in batch]
    assert Counter(one.sketch for one in pairs) == Counter(usable)
    for one in pairs:
        assert one.sketch.split("/")[1] == one.photo.split("/")[1] == one.category
        assert one.photo in part.gallery


def test_the_generator_decides_everything() -> None:
    task = task_of(world({"a": 5, "b": 5}, {"a": 4, "b": 1}), batch_size=3, same_category=2)
    first, again, other = (task.batches(generator(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_sketch_meets_all_photos_of_its_category_in_time() -> None:
    task = task_of(world({"a": 1}, {"a": 3, "b": 2}))
    chance = generator()
    met = {task.batches(chance)[0][0].photo for _ in range(40)}
    assert met == {"p/a/0", "p/a/1", "p/a/2"}


def test_an_image_that_several_pairs_share_is_asked_for_once() -> None:
    batch = [SearchPair("s", "p", "a"), SearchPair("t", "p", "a"), SearchPair("s", "q", "a")]
    assert task_of(EMPTY).images(batch) == ("s", "p", "t", "q")


def longest_runs(pairs: Sequence[SearchPair]) -> list[int]:
    return [len(list(run)) for _, run in itertools.groupby(pairs, lambda one: one.category)]


def test_pairs_of_one_category_come_together_where_that_is_asked() -> None:
    part = world(dict.fromkeys("abcdef", 8), dict.fromkeys("abcdef", 2))
    task = task_of(part, batch_size=8, same_category=4)
    for batch in task.batches(generator(3)):
        assert all(run % 4 == 0 for run in longest_runs(batch))
    mixed = [{one.category for one in batch} for batch in task.batches(generator(3))]
    assert sum(len(categories) == 2 for categories in mixed) >= 3
    apart = task_of(part, batch_size=8).batches(generator(3))
    assert any(run % 4 for batch in apart for run in longest_runs(batch))


# The loss


def written_out(
    batch: Sequence[SearchPair], known: MadeUp, margin: float, kind: Negatives
) -> float:
    losses = []
    for one in batch:
        sketch = known.pooled[one.sketch].double()
        right = float(sketch @ known.pooled[one.photo].double())
        wrong = [
            float(sketch @ known.pooled[other.photo].double())
            for other in batch
            if other.category != one.category
        ]
        farther = [cosine for cosine in wrong if cosine < right - 1e-9]
        if wrong:
            chosen = max(farther) if kind == "semi-hard" and farther else max(wrong)
            losses.append(max(0.0, margin + chosen - right))
    return sum(losses) / len(losses) if losses else 0.0


PAIRS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 2)),
    min_size=1,
    max_size=6,
    unique_by=lambda drawn: drawn[:2],
).map(lambda all_: [SearchPair(f"s/{c}/{i}", f"p/{c}/{j}", c) for c, i, j in all_])


@given(PAIRS, st.floats(0.05, 1.5), st.sampled_from(["hard", "semi-hard"]), st.integers(0, 2**31))
@examples(max_examples=80, deadline=None)
def test_the_loss_is_as_written_out(
    batch: list[SearchPair], margin: float, kind: Negatives, seed: int
) -> None:
    """Photos repeat in a batch, and other photos of the category are not wrong."""
    known = MadeUp([name for one in batch for name in one[:2]], seed=seed)
    task = task_of(EMPTY, margin=margin, negatives=kind)
    expected = written_out(batch, known, margin, kind)
    assert loss_of(task, batch, known) == pytest.approx(expected, abs=1e-5)


def test_one_category_alone_teaches_nothing() -> None:
    batch = [SearchPair("s", "p", "a"), SearchPair("t", "q", "a"), SearchPair("u", "p", "a")]
    known, task = MadeUp("stupq"), task_of(EMPTY)
    located, leaves = known.located(task.images(batch))
    loss = task.loss(batch, located, nn.Identity())
    loss.backward()
    assert float(loss.detach()) == 0
    assert leaves.pooled.grad is not None and not leaves.pooled.grad.any()


# Evaluation


def test_the_score_is_scikit_learns_average_precision() -> None:
    part = world({"a": 3, "b": 2}, {"a": 4, "b": 5, "c": 2})
    task, known = task_of(EMPTY, part), MadeUp(part.ids)
    score = task.evaluate(part, known, None, Fitted())
    expected = []
    for sketch, category in zip(part.queries, part.query_categories, strict=True):
        cosines = [float(known.pooled[sketch] @ known.pooled[photo]) for photo in part.gallery]
        relevant = [name == category for name in part.gallery_categories]
        expected.append(average_precision_score(relevant, cosines))
    assert score.metrics["map@all"] == pytest.approx(sum(expected) / len(expected))
    assert score.n == 5
    assert Counter(known.asked) == Counter(part.ids)


def test_many_images_are_described_in_several_batches_and_stay_in_order() -> None:
    part = world({"a": 40, "b": 45}, {"a": 30, "b": 50})
    task, known = task_of(EMPTY, part), MadeUp(part.ids, width=3)
    for name in part.ids:
        known.pooled[name] = torch.tensor([1.0, 0, 0] if "/a/" in name else [0, 1.0, 0])
    score = task.evaluate(part, known, None, Fitted())
    assert score.metrics["map@all"] == 1.0


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_descriptors_that_are_all_the_same_are_scored(value: float) -> None:
    part = world({"a": 3, "b": 2}, {"a": 4, "b": 5})
    known = MadeUp(part.ids).all_the_same(value)
    score = task_of(part, part).evaluate(part, known, None, Fitted())
    assert all(0 <= metric <= 1 for metric in score.metrics.values())


def test_a_part_without_photos_is_an_error_that_says_so() -> None:
    part = world({"a": 3}, {})
    with pytest.raises(ValueError, match="3 queries, 0 photos"):
        task_of(part).evaluate(part, MadeUp(part.ids), None, Fitted())
