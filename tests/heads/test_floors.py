"""The floors that need no network: histograms of gradients, copied places, mean masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heads.floors import (
    BINS,
    copied_positions,
    dense_hog,
    fit_mean_mask,
    global_hog,
    grey_square,
    hog_blocks,
    hog_cells,
    hog_matches,
    nearest_centroid,
)
from heads.protocols import PointPair, find_protocol
from pipeline.datasets.shapes import ShapesDataset

WAYS = ("sketch to photo", "photo to sketch")
EXAMPLES = settings(max_examples=40, deadline=None)


@st.composite
def greys(draw):
    """Grey values [H, W] and a cell that divides both: noise, or few levels with flat stretches."""
    cell = draw(st.integers(1, 4))
    shape = cell * draw(st.integers(1, 4)), cell * draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([1, 2, 256]))
    return (rng.integers(0, levels, shape) / 255).astype(np.float32), cell


def written_out_cells(grey, cell):
    """Every pixel votes on its own, as Dalal & Triggs describe it."""
    height, width = grey.shape
    cells = np.zeros((height // cell, width // cell, BINS))

    def at(y, x):
        return float(grey[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    for y in range(height):
        for x in range(width):
            dy, dx = at(y + 1, x) - at(y - 1, x), at(y, x + 1) - at(y, x - 1)
            direction = (math.atan2(dy, dx) % math.pi) / math.pi * BINS
            for b in range(BINS):
                apart = abs(direction - (b + 0.5))
                to_bin = max(0.0, 1 - min(apart, BINS - apart))
                for row in range(len(cells)):
                    for column in range(cells.shape[1]):
                        to_row = max(0.0, 1 - abs((row + 0.5) - (y + 0.5) / cell))
                        to_column = max(0.0, 1 - abs((column + 0.5) - (x + 0.5) / cell))
                        vote = math.hypot(dx, dy) * to_bin * to_row * to_column
                        cells[row, column, b] += vote
    return cells


@given(greys())
@settings(max_examples=25, deadline=None)
def test_cells_are_as_written_out(case):
    grey, cell = case
    np.testing.assert_allclose(hog_cells(grey, cell), written_out_cells(grey, cell), atol=1e-9)


@given(greys(), st.floats(-0.5, 0.5))
@EXAMPLES
def test_neither_brightness_nor_the_sign_of_contrast_matters(case, offset):
    grey, cell = case
    grey = grey.astype(np.float64)
    np.testing.assert_allclose(hog_cells(grey + offset, cell), hog_cells(grey, cell), atol=1e-9)
    np.testing.assert_allclose(hog_cells(1 - grey, cell), hog_cells(grey, cell), atol=1e-9)


@given(greys())
@EXAMPLES
def test_a_mirrored_picture_has_mirrored_cells_and_directions(case):
    grey, cell = case
    ours = hog_cells(grey, cell)
    for mirrored, back in ((grey[:, ::-1], np.s_[:, ::-1]), (grey[::-1], np.s_[::-1])):
        np.testing.assert_allclose(hog_cells(mirrored, cell)[..., ::-1][back], ours, atol=1e-9)


@given(greys(), st.integers(1, 2))
@EXAMPLES
def test_blocks_are_units_of_bounded_entries_whatever_the_contrast(case, block):
    grey, cell = case
    cells = hog_cells(grey, cell)
    if min(cells.shape[:2]) < block:
        return
    blocks = hog_blocks(cells, block)
    assert blocks.shape == (*(n - block + 1 for n in cells.shape[:2]), block**2 * BINS)
    lengths = np.linalg.norm(blocks, axis=2)
    blank = np.isclose(lengths, 0)
    np.testing.assert_allclose(lengths[~blank], 1)
    assert (blocks >= 0).all()
    np.testing.assert_allclose(hog_blocks(3 * cells, block), blocks, atol=1e-9)


def test_blocks_hold_their_cells_row_by_row():
    cells = np.random.default_rng(0).random((3, 4, BINS))
    own = cells[1:3, 2:4].ravel()
    clipped = np.minimum(own / np.linalg.norm(own), 0.2)
    np.testing.assert_allclose(hog_blocks(cells, 2)[1, 2], clipped / np.linalg.norm(clipped))


def test_an_edge_votes_for_its_direction():
    upright = np.zeros((8, 8), np.float32)
    upright[:, 4:] = 1
    votes = hog_cells(upright, 8)[0, 0]
    # A gradient along x lies on the border of the first and the last direction.
    assert votes[0] == pytest.approx(votes[-1]) and votes[[0, -1]].sum() == pytest.approx(
        votes.sum()
    )
    level = hog_cells(upright.T, 8)[0, 0]
    assert level.argmax() == BINS // 2 and level[BINS // 2] == pytest.approx(level.sum())


def test_pictures_that_are_no_whole_cells_are_refused():
    with pytest.raises(ValueError, match="10 x 8 pixels are no whole cells of 4"):
        hog_cells(np.zeros((10, 8)), 4)


def test_any_picture_is_stretched_to_a_grey_square():
    red = Image.new("RGB", (30, 7), (255, 0, 0))
    square = grey_square(red, 16)
    assert square.shape == (16, 16) and square.dtype == np.float32
    np.testing.assert_allclose(square, 76 / 255)


def test_a_blank_picture_is_no_nan():
    blank = Image.new("RGB", (50, 50), "white")
    assert not dense_hog(blank).any()
    descriptors = global_hog(lambda name: blank, ["a", "b"])
    assert descriptors.shape == (2, 11 * 11 * 4 * BINS) and not descriptors.any()


def noise(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (96, 96), dtype=np.uint8))


def point_pair(points):
    points = torch.tensor(points, dtype=torch.float64)
    return PointPair("s", "p", "a", points, points, torch.ones(len(points), dtype=torch.bool))


def test_dense_hog_finds_places_again_that_moved():
    photo = noise(0)
    sketch = Image.fromarray(np.roll(np.asarray(photo), (8, -12), axis=(0, 1)))
    pair = point_pair([[0.3, 0.4], [0.6, 0.7]])
    (found,) = hog_matches({"s": sketch, "p": photo}.__getitem__, [pair])
    moved = torch.tensor([12 / 96, -8 / 96])
    assert (found.photo_points - pair.sketch_points - moved).abs().max() <= 0.5 / 24 + 1e-9
    assert (found.sketch_points - pair.photo_points + moved).abs().max() <= 0.5 / 24 + 1e-9


def test_copied_positions_are_those_of_the_other_picture():
    one, other = (torch.rand(3, 2, dtype=torch.float64) for _ in range(2))
    (found,) = copied_positions([PointPair("s", "p", "a", one, other, torch.ones(3).bool())])
    assert torch.equal(found.photo_points, one) and torch.equal(found.sketch_points, other)


def test_points_on_the_border_have_a_cell():
    pair = point_pair([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    (found,) = hog_matches(lambda name: noise(0), [pair])
    expected = pair.sketch_points.clamp(0.5 / 24, 23.5 / 24)
    torch.testing.assert_close(found.photo_points, expected)
    torch.testing.assert_close(found.sketch_points, expected)


@given(st.integers(0, 2**31))
@EXAMPLES
def test_nearest_centroid_is_as_written_out(seed):
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=(12, 5)), rng.normal(size=(4, 5))
    labels = rng.integers(0, 3, 12)
    ours = nearest_centroid(*map(torch.from_numpy, (train, labels, test)), 4)
    assert torch.equal(ours[:, 3], torch.full((4,), -1.0))
    for label in set(labels.tolist()):
        mean = np.mean([v / np.linalg.norm(v) for v in train[labels == label]], axis=0)
        cosine = test @ mean / np.linalg.norm(mean) / np.linalg.norm(test, axis=1)
        np.testing.assert_allclose(ours[:, label], cosine, atol=1e-6)


def test_the_mean_mask_is_where_most_masks_are():
    left, most = np.zeros((20, 40), bool), np.zeros((50, 50), bool)
    left[:, :20], most[:, :25] = True, True
    whole = np.ones((8, 8), bool)
    fitted = fit_mean_mask([left, most, most, whole])
    assert fitted.predict(10, 20)[:, :9].all()
    assert not fitted.predict(10, 20)[:, 11:].any()
    assert fitted.share.min() == 0.25 and fitted.share.max() == 1.0


def test_the_threshold_is_the_best_on_the_masks_it_was_fitted_on():
    rng = np.random.default_rng(0)
    masks = [np.zeros((64, 64), bool) for _ in range(9)]
    for mask in masks:
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 25, x : x + 25] = True
    fitted = fit_mean_mask(masks)

    def mean_iou(threshold):
        found = fitted.share >= threshold
        return np.mean([(found & m).sum() / (found | m).sum() for m in masks])

    assert mean_iou(fitted.threshold) == max(mean_iou(step / 20) for step in range(1, 20))
    np.testing.assert_array_equal(fitted.predict(64, 64), fitted.share >= fitted.threshold)


def test_empty_masks_and_no_masks():
    empty = fit_mean_mask([np.zeros((5, 5), bool)])
    assert not empty.predict(3, 4).any() and empty.predict(3, 4).shape == (3, 4)
    with pytest.raises(ValueError, match="no training mask"):
        fit_mean_mask([])


def test_all_floors_on_a_small_world():
    dataset = ShapesDataset(size=288, pixels=64)
    images = dict.fromkeys(dataset.ids, (64, 64))

    def load(name):
        return dataset.decode(name, dataset.read(name))

    matching = find_protocol("correspondence", "shapes")
    pairs = matching.apply(dataset.annotations, images).test
    chance = matching.chance(pairs)
    copied = matching.score(pairs, copied_positions(pairs.pairs))
    assert 0.02 < chance["pck@10"] < copied.metrics["pck@10"] < 0.2
    # The distance from one picture's point to the other's is that of the way back.
    assert len({copied.beside[f"pck@10 {way}"] for way in WAYS}) == 1
    few = type(pairs)(pairs.pairs[:20])
    matched = matching.score(few, hog_matches(load, few.pairs)).metrics
    assert chance["pck@10"] < matched["pck@10"] < 0.5

    retrieval = find_protocol("retrieval", "shapes-24-8")
    search = retrieval.apply(dataset.annotations, images).test
    found = retrieval.score(
        search, global_hog(load, search.queries), global_hog(load, search.gallery)
    )
    assert 0 < found.metrics["map@all"] < 0.6
    assert found.n == len(search) == 48

    recognition = find_protocol("recognition", "shapes")
    parts = recognition.apply(dataset.annotations, images)
    train, test = (global_hog(load, part.ids) for part in (parts.train, parts.test))
    scores = nearest_centroid(train, parts.train.labels, test, len(parts.test.classes))
    assert recognition.score(parts.test, scores).metrics["acc@1"] < 0.5

    segmentation = find_protocol("segmentation", "shapes-24-8")
    areas = segmentation.apply(dataset.annotations, images)
    fitted = fit_mean_mask(load_mask() for load_mask in areas.train.masks.values())
    guess = fitted.predict(64, 64)
    truth = {photo: torch.from_numpy(mask()) for photo, mask in areas.test.masks.items()}
    result = segmentation.score(
        (guess, truth[photo], category) for _, photo, category in areas.test.combinations()
    )
    assert segmentation.chance(areas.test)["miou"] < result.metrics["miou"] < 0.7
