"""Correspondence: the loss against the whole correlation; places in pictures of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.train import Matcher
from heads.aggregation import Descriptors
from heads.frame import Frame
from heads.protocols import CorrespondencePart, Parts, PointPair, find_protocol
from heads.tasks import Fitted, Located, TaskError
from heads.tasks.correspondence import Correspondence
from tests.heads.tasks.small import MadeUp, frame_of, generator, settings

SIZES = {"s0": (40, 20), "s1": (9, 31), "p0": (25, 50), "p1": (64, 16), "p2": (30, 30)}
NOTHING = Fitted()


def pair(sketch: str, photo: str, visible: Sequence[bool], seed: int = 0) -> PointPair:
    """Random points; those that are not visible are 0, as the protocols give them."""
    seen = torch.tensor(visible, dtype=torch.bool)
    points = torch.rand(2, len(seen), 2, generator=generator(seed), dtype=torch.float64)
    points[:, ~seen] = 0
    return PointPair(sketch, photo, "a", points[0], points[1], seen)


def task_of(
    train: Sequence[PointPair] = (), test: Sequence[PointPair] = (), **keys
) -> Correspondence:
    parts = Parts(*(CorrespondencePart(tuple(pairs)) for pairs in (train, (), test)))
    pad = keys.pop("pad", "edge")
    keys = {"target_noise": 0.0, **keys}
    protocol = find_protocol("correspondence", "psc6k-official")
    return Correspondence(protocol, parts, frame_of(SIZES, pad), settings("correspondence", **keys))


def square(frame: Frame, name: str, points: Tensor) -> np.ndarray:
    """By the pipeline's own letterbox, in pixels of an image `width` x `height`."""
    return frame._letterbox(name).to_square(points.numpy() * SIZES[name]) / frame.resolution


def read_at(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """A descriptor [P] of maps [P, G, G] at a place of the square, bilinear."""
    grid = maps.shape[-1]
    column, row = (min(max(at * grid - 0.5, 0), grid - 1) for at in (x, y))
    left, top = int(column), int(row)
    right, bottom = min(left + 1, grid - 1), min(top + 1, grid - 1)
    upper = maps[:, top, left] * (1 - column + left) + maps[:, top, right] * (column - left)
    lower = maps[:, bottom, left] * (1 - column + left) + maps[:, bottom, right] * (column - left)
    return upper * (1 - row + top) + lower * (row - top)


def written_out(task: Correspondence, batch: Sequence[PointPair], known: MadeUp) -> float:
    """Point by point, over every cell of the other picture, one way and back."""
    temperature = task.settings.correspondence.temperature
    errors = []
    for one in batch:
        ends = [(one.sketch, one.sketch_points), (one.photo, one.photo_points)]
        for (source, points), (target, true_points) in (ends, ends[::-1]):
            ours, theirs = (known.spatial[name].double().numpy() for name in (source, target))
            grid = theirs.shape[-1]
            starts = square(task.frame, source, points)
            places = square(task.frame, target, true_points)
            for start, place, seen in zip(starts, places, one.visible.tolist(), strict=True):
                if not seen:
                    continue
                own = read_at(ours, *start)
                total, expected = 0.0, np.zeros(2)
                for row in range(grid):
                    for column in range(grid):
                        weight = np.exp(float(own @ theirs[:, row, column]) / temperature)
                        total += weight
                        expected += weight * np.array([column + 0.5, row + 0.5]) / grid
                errors.append(np.linalg.norm(expected / total - place) * grid)
    return sum(errors) / len(errors) if errors else 0.0


def loss_of(task: Correspondence, batch: Sequence[PointPair], known: MadeUp) -> Tensor:
    located, _ = known.located(task.images(batch))
    return task.loss(batch, located, nn.Identity()).detach()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["s0", "s1"]),
            st.sampled_from(["p0", "p1", "p2"]),
            st.lists(st.booleans(), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["edge", "stretch"]),
    st.floats(0.02, 1.0),
    st.integers(0, 2**31),
)
@examples(max_examples=40, deadline=None)
def test_the_loss_is_as_written_out_over_the_whole_map(
    drawn: list[tuple[str, str, list[bool]]], pad: str, temperature: float, seed: int
) -> None:
    """Pairs of one batch have different numbers of points, visible and not, and share images."""
    batch = [pair(*one, seed=seed + i) for i, one in enumerate(drawn)]
    task = task_of(batch, temperature=temperature, pad=pad)
    known = MadeUp(SIZES, seed=seed)
    expected = written_out(task, batch, known)
    assert float(loss_of(task, batch, known)) == pytest.approx(expected, abs=1e-4)


def test_points_that_are_not_visible_may_be_anything() -> None:
    known = MadeUp(SIZES)
    shown = pair("s0", "p0", [True, False, True])
    task = task_of([shown])
    expected = loss_of(task, [shown], known)
    for value in (float("nan"), float("inf"), -7.0):
        points = [shown.sketch_points.clone(), shown.photo_points.clone()]
        for side in points:
            side[1] = value
        strange = replace(shown, sketch_points=points[0], photo_points=points[1])
        located, leaves = known.located(task.images([strange]))
        loss = task.loss([strange], located, nn.Identity())
        assert float(loss.detach()) == pytest.approx(float(expected))
        loss.backward()
        assert leaves.spatial.grad is not None and leaves.spatial.grad.isfinite().all()


def test_without_a_visible_point_loss_and_gradients_are_zero() -> None:
    batch = [pair("s0", "p0", [False, False]), pair("s1", "p1", [False])]
    task, known = task_of(batch), MadeUp(SIZES)
    located, leaves = known.located(task.images(batch))
    loss = task.loss(batch, located, nn.Identity())
    loss.backward()
    assert float(loss.detach()) == 0
    assert leaves.spatial.grad is not None and not leaves.spatial.grad.any()


def test_gradients_reach_both_pictures() -> None:
    batch = [pair("s0", "p0", [True, True])]
    task, known = task_of(batch, temperature=0.5), MadeUp(SIZES)
    ids = task.images(batch)
    located, leaves = known.located(ids)
    task.loss(batch, located, nn.Identity()).backward()
    assert ids == ("s0", "p0")
    assert leaves.spatial.grad is not None and leaves.spatial.grad.flatten(1).any(1).all()
    assert leaves.spatial.grad.isfinite().all()


def test_target_noise_moves_the_targets_and_the_seed_decides() -> None:
    batch = [pair("s0", "p0", [True] * 6)]
    known = MadeUp(SIZES)
    noisy, still = task_of(batch, target_noise=0.05), task_of(batch)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(loss_of(noisy, batch, known)))
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != float(loss_of(still, batch, known))


# Batches


def test_every_training_pair_comes_once_an_epoch() -> None:
    pairs = [pair("s0", "p0", [True], seed=i) for i in range(7)]
    task = task_of(pairs, batch_size=3)
    epoch = task.batches(generator(1))
    assert [len(batch) for batch in epoch] == [3, 3, 1]
    order = [pairs.index(one) for batch in epoch for one in batch]
    assert sorted(order) == list(range(7)) != order
    again = [pairs.index(one) for batch in task.batches(generator(1)) for one in batch]
    other = [pairs.index(one) for batch in task.batches(generator(2)) for one in batch]
    assert again == order != other


def test_an_image_is_asked_for_once() -> None:
    batch = [pair("s0", "p0", [True]), pair("s1", "p0", [True]), pair("s0", "p1", [True])]
    assert task_of(batch).images(batch) == ("s0", "p0", "s1", "p1")


def test_without_training_pairs_there_is_a_way_out() -> None:
    with pytest.raises(TaskError, match="psc6k-official: no annotated training pairs") as caught:
        task_of(test=[pair("s0", "p0", [True])]).batches(generator())
    assert "\n" not in str(caught.value)


# Prediction


def marked(grid: int, sketch_cell: tuple[int, int], photo_cell: tuple[int, int]) -> Descriptors:
    """Maps of s0 and p0 that agree in one cell (column, row) of each and nowhere else."""
    spatial = torch.zeros(2, 3, grid, grid)
    spatial[0, 1], spatial[1, 2] = 1, 1
    for row, (x, y) in enumerate((sketch_cell, photo_cell)):
        spatial[row, :, y, x] = torch.tensor([1.0, 0.0, 0.0])
    return Descriptors(spatial, torch.zeros(2, 3))


@pytest.mark.parametrize("matcher", ["windowed", "soft-argmax", "nearest"])
@pytest.mark.parametrize("pad", ["edge", "stretch"])
def test_a_match_is_a_place_of_the_picture(matcher: Matcher, pad: str) -> None:
    """The sketch is 40 x 20, the photo 25 x 50: margins above and below, left and right."""
    grid, sketch_cell, photo_cell = 12, (2, 4), (7, 9)
    maps = marked(grid, sketch_cell, photo_cell)
    in_sketch = [(at + 0.5) / grid for at in sketch_cell]
    in_photo = [(at + 0.5) / grid for at in photo_cell]
    # Of the square; a sketch twice as wide as high fills the middle half of its height.
    if pad == "edge":
        in_sketch[1] = (in_sketch[1] - 0.25) * 2
        in_photo[0] = (in_photo[0] - 0.25) * 2
    starts, ends = (torch.tensor([place], dtype=torch.float64) for place in (in_sketch, in_photo))
    one = PointPair("s0", "p0", "a", starts, ends, torch.tensor([True]))
    task = task_of(test=[one], matcher=matcher, pad=pad)
    (found,) = task.predict([one], lambda ids: maps)
    for own, expected in ((found.photo_points, ends), (found.sketch_points, starts)):
        assert own.dtype == torch.float64
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def two_peaks() -> Descriptors:
    """A photo with its best cell at (2, 2) and one nearly as good at (13, 13) of 16 x 16."""
    grid = 16
    spatial = torch.zeros(2, 2, grid, grid)
    spatial[0, 0] = 1
    spatial[1, 1] = 1
    for cell, cosine in ((2, 1.0), (13, 0.99)):
        spatial[1, :, cell, cell] = torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    return Descriptors(spatial, torch.zeros(2, 2))


def test_matchers_differ_where_a_second_peak_lies_far_away() -> None:
    points = torch.full((1, 2), 0.5, dtype=torch.float64)
    one = PointPair("s0", "p2", "a", points, points, torch.tensor([True]))
    weights = np.exp(np.array([1.0, 0.99]) / 0.02)
    mean = float((weights * [2.5, 13.5]).sum() / weights.sum() / 16)
    expected = {"nearest": 2.5 / 16, "windowed": 2.5 / 16, "soft-argmax": mean}
    for matcher, place in expected.items():
        task = task_of(test=[one], matcher=matcher)
        (found,) = task.predict([one], lambda ids: two_peaks())
        assert found.photo_points[0].tolist() == pytest.approx([place, place], abs=1e-4)
    wide = task_of(test=[one], matcher="windowed", window=11)
    (found,) = wide.predict([one], lambda ids: two_peaks())
    assert found.photo_points[0, 0] == pytest.approx(mean, abs=1e-4)


def test_batches_do_not_change_what_is_predicted() -> None:
    pairs = [
        pair(sketch, photo, [True] * (1 + i), seed=i)
        for i, (sketch, photo) in enumerate(
            [("s0", "p0"), ("s1", "p1"), ("s0", "p2"), ("s1", "p0")]
        )
    ]
    known = MadeUp(SIZES)
    one_by_one = task_of(test=pairs, batch_size=1).predict(pairs, known)
    together = task_of(test=pairs, batch_size=3).predict(pairs, known)
    for alone, found, one in zip(one_by_one, together, pairs, strict=True):
        for side in ("photo_points", "sketch_points"):
            own = getattr(found, side)
            assert own.shape == getattr(one, side).shape
            torch.testing.assert_close(own, getattr(alone, side), atol=1e-6, rtol=0)


def test_the_score_counts_errors_in_the_pictures_own_fractions() -> None:
    """The photo's point is annotated 0.06 of its width beside the match, 0.03 of the square's side.

    From there the way back reads a cell that looks like the whole sketch but for the marked cell.
    """
    maps = marked(12, (5, 5), (7, 9))
    start = torch.tensor([[5.5 / 12, (5.5 / 12 - 0.25) * 2]], dtype=torch.float64)
    right = torch.tensor([[(7.5 / 12 - 0.25) * 2 + 0.06, 9.5 / 12]], dtype=torch.float64)
    one = PointPair("s0", "p0", "a", start, right, torch.tensor([True]))
    task = task_of(test=[one])
    score = task.evaluate(task.parts.test, lambda ids: maps, None, NOTHING)
    there = {name: score.beside[f"{name} sketch to photo"] for name in score.metrics}
    assert there == {"pck@5": 0.0, "pck@10": 1.0, "pck@15": 1.0} and score.n == 1


@pytest.mark.parametrize("strict", [False, True])
def test_both_directions_are_counted_as_the_benchmark_does(strict: bool) -> None:
    """PSC6K's own way: all errors of both ways, pair by pair, in pixels of a 256 x 256 frame."""
    pairs = [
        pair("s0", "p0", [True] * 40, seed=1),
        pair("s1", "p1", [True, False, True] * 10, seed=2),
        pair("s0", "p2", [True], seed=3),
    ]
    known = MadeUp(SIZES, grid=12, seed=4)
    task = task_of(test=pairs, matcher="nearest", pad="stretch")
    task = replace(task, protocol=replace(task.protocol, strict=strict))
    shares = []
    for one in pairs:
        ends = [(one.sketch, one.sketch_points), (one.photo, one.photo_points)]
        for (source, points), (target, truth) in (ends, ends[::-1]):
            ours, theirs = (known.spatial[name].double().numpy() for name in (source, target))
            right = []
            for point, place, seen in zip(points, truth, one.visible.tolist(), strict=True):
                likeness = np.einsum("p,pyx->yx", read_at(ours, *point.tolist()), theirs)
                row, column = np.unravel_index(likeness.argmax(), likeness.shape)
                found = np.array([column + 0.5, row + 0.5]) / 12 * 256
                error = np.hypot(*(found - place.numpy() * 256))
                if seen:
                    right.append([error < a * 256 if strict else error <= a * 256
                                  for a in (0.05, 0.10, 0.15)])  # fmt: skip
            shares.append(np.mean(right, axis=0))
    score = task.evaluate(task.parts.test, known, None, NOTHING)
    assert list(score.metrics.values()) == pytest.approx(np.mean(shares, axis=0).tolist())
    ways = {"sketch to photo": shares[::2], "photo to sketch": shares[1::2]}
    for way, own in ways.items():
        found = [score.beside[f"{name} {way}"] for name in score.metrics]
        assert found == pytest.approx(np.mean(own, axis=0).tolist())
    assert score.beside["pck@15 sketch to photo"] != score.beside["pck@15 photo to sketch"]
    assert score.n == 3


def test_a_pair_right_one_way_and_wrong_the_other_is_half() -> None:
    """The photo has its point's look twice: the way there finds the wrong one of them."""
    spatial = torch.zeros(2, 3, 12, 12)
    spatial[0, 1], spatial[1, 2] = 1, 1
    for image, x, y in ((0, 2, 4), (1, 1, 1), (1, 7, 9)):
        spatial[image, :, y, x] = torch.tensor([1.0, 0.0, 0.0])
    points = [[[(x + 0.5) / 12, (y + 0.5) / 12]] for x, y in ((2, 4), (7, 9))]
    starts, ends = (torch.tensor(own, dtype=torch.float64) for own in points)
    one = PointPair("s0", "p0", "a", starts, ends, torch.tensor([True]))
    task = task_of(test=[one], matcher="nearest", pad="stretch")
    score = task.evaluate(
        task.parts.test, lambda ids: Descriptors(spatial, torch.zeros(2, 3)), None, NOTHING
    )
    assert score.metrics == {"pck@5": 0.5, "pck@10": 0.5, "pck@15": 0.5}
    assert score.beside["pck@10 sketch to photo"] == 0
    assert score.beside["pck@10 photo to sketch"] == 1


def test_training_learns_both_directions() -> None:
    """Swapping the ends of a pair changes nothing."""
    one = pair("s0", "p0", [True, True, False])
    back = PointPair(one.photo, one.sketch, "a", one.photo_points, one.sketch_points, one.visible)
    task, known = task_of([one]), MadeUp(SIZES)
    assert float(loss_of(task, [one], known)) == pytest.approx(float(loss_of(task, [back], known)))


@pytest.mark.parametrize("matcher", ["windowed", "soft-argmax", "nearest"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_descriptors_that_are_all_the_same_are_scored(matcher: Matcher, value: float) -> None:
    pairs = [pair("s0", "p0", [True, False]), pair("s1", "p1", [True] * 3)]
    known = MadeUp(SIZES).all_the_same(value)
    task = task_of(pairs, pairs, matcher=matcher)
    score = task.evaluate(task.parts.test, known, None, task.fit(known, None))
    assert all(0 <= metric <= 1 for metric in score.metrics.values())
    assert loss_of(task, pairs, known).isfinite()


def test_located_images_are_found_by_name() -> None:
    known = MadeUp(SIZES)
    located = Located.of(("p1", "s0"), known(["p1", "s0"]))
    assert torch.equal(located.spatial(["s0", "p1", "s0"])[2], known.spatial["s0"])
    assert torch.equal(located.pooled(["s0"])[0], known.pooled["s0"])
    assert F.cosine_similarity(located.pooled(["p1"])[0], known.pooled["p1"], dim=0) > 0.999
