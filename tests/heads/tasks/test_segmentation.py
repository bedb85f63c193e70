"""Segmentation: loss and threshold written out, masks against every combination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from heads.aggregation import Descriptors
from heads.metrics import SegmentationMeter
from heads.protocols import Parts, SegmentationPart, find_protocol
from heads.tasks import Fitted, TaskError
from heads.tasks.segmentation import (
    N_THRESHOLDS,
    MaskScores,
    Segmentation,
    SegmentationPair,
    best_threshold,
    similarity,
)
from tests.heads.tasks.small import MadeUp, frame_of, generator, settings
from tests.heads.test_frame import exact_cells, written_out

SIZES = {"a": (20, 10), "b": (7, 19), "c": (12, 12), "d": (30, 3), "e": (16, 24)}
"""Width and height of photos; each is one of a part."""
EXAMPLES = examples(max_examples=60, deadline=None)


def mask_of(photo: str) -> np.ndarray:
    """Foreground of about a third of the picture, the same each time."""
    width, height = SIZES[photo]
    y, x = np.mgrid[0:height, 0:width]
    return (x - width / 3) ** 2 / width**2 + (y - height / 2) ** 2 / height**2 < 0.1


def refuse() -> np.ndarray:
    raise AssertionError("a mask was looked at")


def part(
    photos: Mapping[str, str],
    sketches: Mapping[str, str],
    masks: Mapping[str, Callable[[], np.ndarray]] | None = None,
) -> SegmentationPart:
    """Photos and sketches by name, with their categories."""
    if masks is None:
        masks = {photo: (lambda photo=photo: mask_of(photo)) for photo in photos}
    return SegmentationPart(
        tuple(sketches),
        tuple(sketches.values()),
        (None,) * len(sketches),
        tuple(photos),
        tuple(photos.values()),
        masks,
    )


EMPTY = part({}, {})
TRAIN = part({"a": "x", "b": "x", "c": "y"}, {"s0": "x", "s1": "x", "s2": "y", "s3": "z"})
TEST = part({"d": "x", "e": "y", "a": "y", "b": "w"}, {"t0": "x", "t1": "y", "t2": "y", "t3": "v"})
NAMES = [*SIZES, "s0", "s1", "s2", "s3", "t0", "t1", "t2", "t3"]


def task_of(
    train: SegmentationPart = EMPTY,
    val: SegmentationPart = EMPTY,
    test: SegmentationPart = EMPTY,
    **keys,
) -> Segmentation:
    protocol = find_protocol("segmentation", "sketchy-104-21")
    pad = keys.pop("pad", "edge")
    parts = Parts(train, val, test)
    return Segmentation(protocol, parts, frame_of(SIZES, pad), settings("segmentation", **keys))


# Batches


def test_every_photo_with_a_sketch_of_its_category_comes_once() -> None:
    train = part(
        {"a": "x", "b": "x", "c": "y", "d": "z", "e": "x"}, {"s0": "x", "s1": "x", "s2": "y"}
    )
    task = task_of(train, batch_size=3)
    epoch = task.batches(generator(1))
    assert [len(batch) for batch in epoch] == [3, 1]
    pairs = [one for batch in epoch for one in batch]
    assert Counter(one.photo for one in pairs) == Counter("abce")
    category = {**dict(zip(train.gallery, train.gallery_categories, strict=True))}
    known = dict(zip(train.queries, train.query_categories, strict=True))
    assert all(category[one.photo] == known[one.sketch] for one in pairs)
    assert task.batches(generator(1)) == epoch
    chance = generator()
    met = {one.sketch for _ in range(20) for batch in task.batches(chance) for one in batch}
    assert met == {"s0", "s1", "s2"}


def test_an_image_is_asked_for_once() -> None:
    batch = [SegmentationPair("s0", "a"), SegmentationPair("s0", "b")]
    assert task_of(TRAIN).images(batch) == ("s0", "a", "b")


@pytest.mark.parametrize("train", [EMPTY, part({"a": "x"}, {"s0": "y"}), part({}, {"s0": "y"})])
def test_without_training_pairs_there_is_a_way_out(train: SegmentationPart) -> None:
    with pytest.raises(TaskError, match="no training photo with a mask and a sketch"):
        task_of(train).batches(generator())
    with pytest.raises(TaskError, match="no training photo with a mask to fix the threshold on"):
        task_of(train, test=TEST).fit(MadeUp(NAMES), None)


# The loss


@pytest.mark.parametrize("pad", ["edge", "stretch"])
@pytest.mark.parametrize("grid", [1, 4, 5])
def test_the_loss_is_as_written_out_without_the_margins(pad: str, grid: int) -> None:
    batch = [SegmentationPair(*pair) for pair in [("s0", "a"), ("s1", "b"), ("s0", "c")]]
    task, known = task_of(TRAIN, pad=pad), MadeUp(NAMES, grid=grid)
    layers = MaskScores()
    with torch.no_grad():
        layers.scale.fill_(3.0)
        layers.offset.fill_(-0.4)
    located, leaves = known.located(task.images(batch))
    loss = task.loss(batch, located, layers)
    total = weights = 0.0
    for sketch, photo in batch:
        frame = task.frame
        box = frame._letterbox(photo).box
        inside, there = exact_cells(mask_of(photo), box, frame.resolution, grid)
        for row in range(grid):
            for column in range(grid):
                cell = known.spatial[photo][:, row, column].double()
                logit = 3.0 * float(known.pooled[sketch].double() @ cell) - 0.4
                weight = there[row, column]
                if weight > 0:
                    share, likely = inside[row, column] / weight, 1 / (1 + np.exp(-logit))
                    entropy = -share * np.log(likely) - (1 - share) * np.log(1 - likely)
                    total, weights = total + weight * entropy, weights + weight
    assert float(loss.detach()) == pytest.approx(total / weights, abs=1e-5)
    loss.backward()
    assert layers.scale.grad is not None and layers.offset.grad is not None
    spatial, pooled = leaves.spatial.grad, leaves.pooled.grad
    assert spatial is not None and pooled is not None
    rows = located.row_of
    assert pooled[rows["s0"]].any() and not pooled[rows["a"]].any()
    assert spatial[rows["b"]].any() and not spatial[rows["s1"]].any()
    if pad == "edge" and grid == 4:  # "a" is twice as wide as high.
        assert not spatial[rows["a"]][:, [0, 3]].any() and spatial[rows["a"]][:, [1, 2]].any()


def test_what_stands_in_the_margins_does_not_matter() -> None:
    batch = [SegmentationPair("s0", "a")]
    task, known = task_of(TRAIN), MadeUp(NAMES)
    losses = []
    for value in (0.0, 1.0, -5.0):
        known.spatial["a"][:, [0, 3]] = value
        located, _ = known.located(task.images(batch))
        losses.append(float(task.loss(batch, located, MaskScores()).detach()))
    assert losses[0] == losses[1] == losses[2]


def test_a_mask_is_loaded_once_and_not_in_every_epoch() -> None:
    loaded: list[str] = []

    def load() -> np.ndarray:
        loaded.append("a")
        return mask_of("a")

    task, known = task_of(part({"a": "x"}, {"s0": "x"}, {"a": load})), MadeUp(NAMES)
    for batch in task.batches(generator()) * 3:
        located, _ = known.located(task.images(batch))
        task.loss(batch, located, MaskScores())
    assert loaded == ["a"]


# The threshold


def candidates_of(found: list[Tensor]) -> np.ndarray:
    """Of maps small enough that all their values are looked at."""
    values = np.concatenate([one.numpy().ravel() for one in found])
    return np.unique(np.quantile(values, np.linspace(0.01, 0.99, N_THRESHOLDS))).astype(np.float32)


def mean_iou(found: list[Tensor], truths: list[Tensor], threshold: float) -> float:
    ious = []
    for values, truth in zip(found, truths, strict=True):
        mask, true = values.numpy() >= np.float32(threshold), truth.numpy()
        union = (mask | true).sum()
        ious.append((mask & true).sum() / union if union else 1.0)
    return float(np.mean(ious))


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.4, 1.0])),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1, 3, 1000]),
    st.integers(0, 2**31),
)
@EXAMPLES
def test_no_candidate_has_a_higher_mean_iou(
    drawn: list[tuple[int, int, float]], levels: int, seed: int
) -> None:
    """Masks are empty, mixed or full; similarities all equal, of few values or all different."""
    chance = np.random.default_rng(seed)
    shapes = [(height, width) for height, width, _ in drawn]
    found = [
        torch.from_numpy(chance.integers(0, levels, s) / np.float32(7)).float() for s in shapes
    ]
    truths = [torch.from_numpy(chance.random(s) < d[2]) for s, d in zip(shapes, drawn, strict=True)]
    threshold = best_threshold(found, truths)
    scores = {float(c): mean_iou(found, truths, c) for c in candidates_of(found)}
    assert threshold in scores
    assert scores[threshold] == pytest.approx(max(scores.values()), abs=1e-12)
    best = [c for c, score in scores.items() if score > max(scores.values()) - 1e-12]
    assert threshold == min(best)


def test_a_clear_border_is_found() -> None:
    truth = torch.zeros(10, 10, dtype=torch.bool)
    truth[:4] = True
    found = torch.where(truth, 0.7, 0.1) + 0.01 * torch.rand(10, 10, generator=generator())
    threshold = best_threshold([found], [truth])
    assert mean_iou([found], [truth], threshold) > 0.95
    assert 0.11 < threshold <= 0.72


@pytest.mark.parametrize(("height", "width"), [(1024, 64), (64, 1024), (1, 5000), (5000, 1)])
def test_candidates_come_from_all_over_a_large_picture(height: int, width: int) -> None:
    """Foreground is in the middle; one row and one column of the border are unlike the rest."""
    truth = torch.zeros(height, width, dtype=torch.bool)
    rows = slice(height // 4, -(-3 * height // 4)) if height > 1 else slice(None)
    columns = slice(width // 4, -(-3 * width // 4)) if width > 1 else slice(None)
    truth[rows, columns] = True
    found = torch.where(truth, 0.7, 0.1) + 0.01 * torch.rand(height, width, generator=generator())
    if width > 1:
        found[:, 0] = -0.9
    if height > 1:
        found[0] = -0.9
    assert mean_iou([found], [truth], best_threshold([found], [truth])) > 0.95


def test_the_threshold_is_fixed_on_training_pairs_and_never_on_the_test_part() -> None:
    test = part({"d": "x"}, {"t0": "x"}, {"d": refuse})
    val = part({"e": "x"}, {"t1": "x"}, {"e": refuse})
    task, known = task_of(TRAIN, val, test), MadeUp(NAMES)
    first = task.fit(known, None)
    assert set(known.asked) <= set(TRAIN.ids)
    assert task.fit(known, task.layers(6)).numbers == first.numbers
    assert task_of(TRAIN, val, EMPTY).fit(known, None).numbers == first.numbers


def test_the_threshold_is_the_best_on_the_pairs_it_was_fixed_on() -> None:
    train = part({"a": "x", "b": "x", "c": "y"}, {"s0": "x", "s2": "y"})  # no choice of sketches
    task, known = task_of(train), MadeUp(NAMES, seed=4)
    threshold = task.fit(known, None).numbers["threshold"]
    found, truths = [], []
    for photo, sketch in (("a", "s0"), ("b", "s0"), ("c", "s2")):
        cosines = torch.einsum("p,phw->hw", known.pooled[sketch], known.spatial[photo])
        found.append(on_picture(task, photo, cosines.numpy()))
        truths.append(torch.from_numpy(mask_of(photo)))
    best = max(mean_iou(found, truths, c) for c in candidates_of(found))
    assert mean_iou(found, truths, threshold) == pytest.approx(best, abs=0.01)


def test_no_more_pairs_are_looked_at_than_asked_for() -> None:
    task, known = task_of(TRAIN, n_threshold_pairs=1), MadeUp(NAMES)
    task.fit(known, None)
    assert len(known.asked) == 2


@pytest.mark.parametrize("train", [EMPTY, part({"a": "x"}, {"s0": "y"}), part({"a": "x"}, {})])
def test_validation_pairs_serve_where_training_has_none(train: SegmentationPart) -> None:
    val = part({"e": "x"}, {"t1": "x"})
    known = MadeUp(NAMES)
    assert task_of(train, val, TEST).fit(known, None).numbers
    assert set(known.asked) == {"e", "t1"}


# Evaluation


def on_picture(task: Segmentation, photo: str, cosines: np.ndarray) -> Tensor:
    """Sampled pixel by pixel."""
    left, top, right, bottom = task.frame._letterbox(photo).box
    width, height = SIZES[photo]
    cells = len(cosines) / task.frame.resolution
    values = [
        [
            written_out(
                cosines,
                (left + (x + 0.5) / width * (right - left)) * cells,
                (top + (y + 0.5) / height * (bottom - top)) * cells,
            )
            for x in range(width)
        ]
        for y in range(height)
    ]
    return torch.tensor(values)


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_the_score_is_that_of_every_sketch_with_every_photo_of_its_category(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heads.tasks.segmentation._PIXELS_AT_ONCE", at_once)
    task, known = task_of(test=TEST), MadeUp(NAMES, seed=2)
    threshold = 0.0567
    score = task.evaluate(TEST, known, None, Fitted({"threshold": threshold}))
    meter, n = SegmentationMeter(), 0
    for sketch, photo, category in TEST.combinations():
        cosines = torch.einsum("p,phw->hw", known.pooled[sketch], known.spatial[photo])
        found = on_picture(task, photo, cosines.numpy()) >= threshold
        meter.update(found, torch.from_numpy(mask_of(photo)), category)
        n += 1
    assert score.n == n == 5
    expected = meter.result().metrics
    assert 0 < expected["miou"] < 1
    assert score.metrics == {name: pytest.approx(value) for name, value in expected.items()}


def test_photos_without_sketches_of_their_category_are_not_even_read() -> None:
    masks = {"d": lambda: mask_of("d"), "b": refuse}
    test = part({"d": "x", "b": "w"}, {"t0": "x", "t3": "v"}, masks)
    known = MadeUp(NAMES)
    score = task_of(test=test).evaluate(test, known, None, Fitted({"threshold": 0.0}))
    assert score.n == 1 and "b" not in known.asked


def test_a_higher_threshold_finds_less() -> None:
    task, known = task_of(test=TEST), MadeUp(NAMES)
    everything, nothing = (
        task.evaluate(TEST, known, None, Fitted({"threshold": t})).metrics["pacc"] for t in (-2, 2)
    )
    assert everything + nothing == pytest.approx(1)


def test_what_a_sketch_resembles_is_found() -> None:
    """Cells of the foreground look like the sketch: the mask comes back, margins or not."""
    grid = 24
    known = MadeUp(NAMES, width=2, grid=grid)
    for name in known.pooled:
        known.pooled[name] = torch.tensor([1.0, 0.0])
    task = task_of(TRAIN, test=TEST)
    for photo in SIZES:
        inside, there = task.frame.on_grid(photo, torch.from_numpy(mask_of(photo)), grid)
        share = torch.where(there > 0, inside / there.clamp(min=1e-6), 0.0)
        known.spatial[photo] = F.normalize(torch.stack([share + 1e-3, 1 - share]), dim=0)
    score = task.evaluate(TEST, known, None, task.fit(known, None))
    assert score.metrics["miou"] > 0.75 and score.metrics["pacc"] > 0.9


@pytest.mark.parametrize("where", ["loss", "fit", "evaluate", "floors", "mean mask"])
def test_a_mask_of_another_size_than_its_photo_is_one_clear_line(where: str) -> None:
    wrong = part({"a": "x"}, {"s0": "x"}, {"a": lambda: np.ones((5, 5), bool)})
    right = part({"b": "x"}, {"s1": "x"})
    known = MadeUp(NAMES)
    with pytest.raises(
        TaskError, match="the mask of a has 5 x 5 pixels, the photo 20 x 10"
    ) as caught:
        if where == "loss":
            batch = [SegmentationPair("s0", "a")]
            located, _ = known.located(("s0", "a"))
            task_of(wrong).loss(batch, located, MaskScores())
        elif where == "fit":
            task_of(wrong).fit(known, None)
        elif where == "evaluate":
            task_of(test=wrong).evaluate(wrong, known, None, Fitted({"threshold": 0.0}))
        elif where == "floors":
            task_of(right, test=wrong).floors(lambda name: pytest.fail("no picture is needed"))
        else:
            task_of(wrong, test=right).floors(lambda name: pytest.fail("no picture is needed"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_descriptors_and_masks_that_are_all_the_same_are_scored(value: float, fill: bool) -> None:
    masks = {p: (lambda p=p: np.full(SIZES[p][::-1], fill)) for p in SIZES}
    whole = part({"a": "x", "d": "x"}, {"s0": "x", "s1": "x"}, masks)
    task, known = task_of(whole, test=whole), MadeUp(NAMES).all_the_same(value)
    fitted = task.fit(known, None)
    score = task.evaluate(whole, known, None, fitted)
    assert all(0 <= metric <= 1 for metric in score.metrics.values())
    if fill:  # equal cells are all found, but for rounding where cells are mixed
        assert score.metrics["miou"] > 0.97
    batch = [SegmentationPair("s0", "a")]
    located, _ = known.located(("s0", "a"))
    assert task.loss(batch, located, MaskScores()).isfinite()


# Floors


def test_the_mean_mask_is_fitted_on_training_masks() -> None:
    task = task_of(TRAIN, test=TEST)
    (name,) = floors = task.floors(lambda name: pytest.fail("no picture is needed"))
    assert name == "mean mask"
    assert floors[name].n == 5
    assert 0.5 < floors[name].metrics["miou"] <= 1  # all masks lie alike
    assert task_of(EMPTY, test=TEST).floors(lambda name: pytest.fail("no picture")) == {}


def test_similarity_is_the_cosine_with_every_cell() -> None:
    known = MadeUp(["s", "t", "a", "b"])
    found: Descriptors = known(["a", "b"])
    ours = similarity(known(["s", "t"]).pooled, found.spatial)
    for row, (sketch, photo) in enumerate([("s", "a"), ("t", "b")]):
        for y in range(4):
            for x in range(4):
                expected = known.pooled[sketch] @ known.spatial[photo][:, y, x]
                assert float(ours[row, y, x]) == pytest.approx(float(expected), abs=1e-6)
