"""Fine-grained retrieval: every photo but the sketch's own is wrong, its own never is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from configs.train import Negatives
from heads.protocols import Parts, SearchPart, find_protocol
from heads.tasks import Fitted, TaskError
from heads.tasks.fine_grained import FineGrained
from heads.tasks.search import SearchPair
from tests.heads.tasks.small import MadeUp, frame_of, generator, search_part, settings

EMPTY = search_part({}, {})


def task_of(train: SearchPart, test: SearchPart = EMPTY, **keys) -> FineGrained:
    protocol = find_protocol("fine_grained", "sketchy-104-21")
    parts = Parts(train, EMPTY, test)
    return FineGrained(protocol, parts, frame_of({}), settings("fine_grained", **keys))


def world(n_photos: dict[str, int], n_sketches: int = 2, n_orphans: int = 0) -> SearchPart:
    """Photos of categories, sketches of each, and sketches of no known photo."""
    photos = {f"p/{c}/{i}": c for c, n in n_photos.items() for i in range(n)}
    sketches: dict[str, tuple[str, str | None]] = {
        f"{photo.replace('p', 's', 1)}-{k}": (category, photo)
        for photo, category in photos.items()
        for k in range(n_sketches)
    }
    sketches |= {f"o/{c}/{i}": (c, None) for c in n_photos for i in range(n_orphans)}
    return search_part(sketches, photos)


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 4), min_size=1),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
@examples(max_examples=80, deadline=None)
def test_every_sketch_of_a_known_photo_comes_once_with_it(
    n_photos: dict[str, int], n_sketches: int, n_orphans: int, size: int, together: int, seed: int
) -> None:
    part = world(n_photos, n_sketches, n_orphans)
    task = task_of(part, batch_size=size, same_category=together)
    own = {s: p for s, p in zip(part.queries, part.sources, strict=True) if p is not None}
    if not own:
        with pytest.raises(TaskError, match="no training sketch has a photo to find"):
            task.batches(generator(seed))
        return
    epoch = task.batches(generator(seed))
    assert max(map(len, epoch)) <= size
    pairs = [one for batch in epoch for one in batch]
    assert Counter(one.sketch for one in pairs) == Counter(own.keys())
    assert all(own[one.sketch] == one.photo for one in pairs)
    assert task.batches(generator(seed)) == epoch


def test_photos_of_one_category_come_together() -> None:
    part = world(dict.fromkeys("abcdefgh", 4))
    for batch in task_of(part, batch_size=8, same_category=4).batches(generator()):
        assert len({one.category for one in batch}) <= 2


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
            if other.photo != one.photo
        ]
        farther = [cosine for cosine in wrong if cosine < right]
        if wrong:
            chosen = max(farther) if kind == "semi-hard" and farther else max(wrong)
            losses.append(max(0.0, margin + chosen - right))
    return sum(losses) / len(losses) if losses else 0.0


PAIRS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2)),
    min_size=1,
    max_size=6,
    unique=True,
).map(lambda all_: [SearchPair(f"s/{c}/{i}-{k}", f"p/{c}/{i}", c) for c, i, k in all_])


@given(PAIRS, st.floats(0.05, 1.5), st.sampled_from(["hard", "semi-hard"]), st.integers(0, 2**31))
@examples(max_examples=80, deadline=None)
def test_the_loss_is_as_written_out(
    batch: list[SearchPair], margin: float, kind: Negatives, seed: int
) -> None:
    known = MadeUp([name for one in batch for name in one[:2]], seed=seed)
    located, _ = known.located(task_of(EMPTY).images(batch))
    loss = task_of(EMPTY, margin=margin, negatives=kind).loss(batch, located, nn.Identity())
    expected = written_out(batch, known, margin, kind)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)


def test_two_sketches_of_one_photo_teach_nothing_alone() -> None:
    batch = [SearchPair("s", "p", "a"), SearchPair("t", "p", "a")]
    known, task = MadeUp("stp"), task_of(EMPTY, margin=1.9)
    located, leaves = known.located(task.images(batch))
    loss = task.loss(batch, located, nn.Identity())
    loss.backward()
    assert float(loss.detach()) == 0
    assert leaves.pooled.grad is not None and not leaves.pooled.grad.any()


def test_the_score_is_the_place_of_the_own_photo_within_its_category() -> None:
    part = world({"a": 7, "b": 1})
    task, known = task_of(EMPTY, part), MadeUp(part.ids, width=4)
    score = task.evaluate(part, known, None, Fitted())
    right = {1: [], 5: []}
    for sketch, category, source in zip(
        part.queries, part.query_categories, part.sources, strict=True
    ):
        rivals = [
            p for p, c in zip(part.gallery, part.gallery_categories, strict=True) if c == category
        ]
        cosine = {photo: float(known.pooled[sketch] @ known.pooled[photo]) for photo in rivals}
        ranking = sorted(rivals, key=lambda photo: -cosine[photo])
        for q in right:
            right[q].append(source in ranking[:q])
    assert 0 < sum(right[1]) < len(right[1])
    for q, found in right.items():
        assert score.metrics[f"acc@{q}"] == pytest.approx(sum(found) / len(found))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_descriptors_that_are_all_the_same_are_scored(value: float) -> None:
    part = world({"a": 3, "b": 1})
    known = MadeUp(part.ids).all_the_same(value)
    score = task_of(part, part).evaluate(part, known, None, Fitted())
    assert score.metrics == {"acc@1": pytest.approx(0.5), "acc@5": 1.0}
