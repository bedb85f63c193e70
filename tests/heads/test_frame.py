"""Where a picture lies in its square: against the pictures that the networks really see."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache import Recipe, StoreError
from heads.frame import Frame
from pipeline.pictures.images import Letterbox, Pad, letterbox

PADS = get_args(Pad)
EXAMPLES = settings(max_examples=40, deadline=None)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def frame(size: tuple[int, int], resolution: int = 48, pad: str = "edge") -> Frame:
    return Frame({"a": size}, resolution, pad)


# Points


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("size", [(64, 40), (37, 101), (50, 50), (150, 33)])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.3, 0.6)])
def test_a_dot_is_where_the_letterboxed_picture_shows_it(
    size: tuple[int, int], pad: Pad, at: tuple[float, float]
) -> None:
    width, height = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    centre = np.array(at) * size
    dot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.5**2))
    picture = np.full((height, width, 3), 90.0)
    picture[..., 0] += 160 * dot  # red on grey
    side = 72
    square = letterbox(Image.fromarray(picture.round().astype(np.uint8)), side, pad)
    red = square[..., 0].astype(float) - square[..., 1]
    y, x = np.mgrid[0:side, 0:side] + 0.5
    found = torch.tensor([(red * x).sum(), (red * y).sum()]) / red.sum() / side
    expected = frame(size, side, pad).to_square("a", torch.tensor([at], dtype=torch.float64))[0]
    assert (found - expected).abs().max() < 0.1 / side


@given(SIZES, st.integers(1, 90), st.sampled_from(PADS), st.integers(0, 2**31))
@EXAMPLES
def test_points_are_the_pipelines_own_and_come_back(
    size: tuple[int, int], resolution: int, pad: Pad, seed: int
) -> None:
    points = np.random.default_rng(seed).uniform(-0.2, 1.2, (5, 2))
    ours = frame(size, resolution, pad)
    there = ours.to_square("a", torch.from_numpy(points))
    pixels = Letterbox(*size, resolution, pad).to_square(points * size)
    np.testing.assert_allclose(there * resolution, pixels, atol=1e-9)
    np.testing.assert_allclose(ours.to_picture("a", there), points, atol=1e-11)


def test_points_keep_their_type() -> None:
    for dtype in (torch.float32, torch.float64):
        points = torch.zeros(2, 2, dtype=dtype)
        assert frame((5, 9)).to_square("a", points).dtype == dtype
        assert frame((5, 9)).to_picture("a", points).dtype == dtype


def test_a_picture_twice_as_wide_as_high_fills_the_middle() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    flat = frame((40, 20), 48)
    assert flat.to_square("a", corners).tolist() == [[0.0, 0.25], [1.0, 0.75]]
    assert frame((20, 40), 48).to_square("a", corners).tolist() == [[0.25, 0.0], [0.75, 1.0]]
    assert frame((40, 20), 48, "stretch").to_square("a", corners).tolist() == corners.tolist()


# Maps on the picture


def written_out(value: np.ndarray, x: float, y: float) -> float:
    """Bilinear between cell centres, at a place in cells from the corner."""
    n = len(value)
    x, y = min(max(x - 0.5, 0), n - 1), min(max(y - 0.5, 0), n - 1)
    left, top = min(int(x), max(n - 2, 0)), min(int(y), max(n - 2, 0))
    right, bottom = min(left + 1, n - 1), min(top + 1, n - 1)
    upper = value[top, left] * (1 - x + left) + value[top, right] * (x - left)
    lower = value[bottom, left] * (1 - x + left) + value[bottom, right] * (x - left)
    return float(upper * (1 - y + top) + lower * (y - top))


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 6),
    st.integers(4, 50),
    st.sampled_from(PADS),
    st.integers(0, 2**31),
)
@EXAMPLES
def test_a_map_on_the_picture_is_sampled_at_every_pixels_centre(
    size: tuple[int, int], grid: int, resolution: int, pad: Pad, seed: int
) -> None:
    maps = np.random.default_rng(seed).normal(size=(2, grid, grid))
    ours = frame(size, resolution, pad).on_picture("a", torch.from_numpy(maps))
    assert ours.shape == (2, size[1], size[0])
    left, top, right, bottom = Letterbox(*size, resolution, pad).box
    for row in range(size[1]):
        for column in range(size[0]):
            x = left + (column + 0.5) / size[0] * (right - left)
            y = top + (row + 0.5) / size[1] * (bottom - top)
            for ours_here, value in zip(ours[:, row, column], maps, strict=True):
                expected = written_out(value, x * grid / resolution, y * grid / resolution)
                assert float(ours_here) == pytest.approx(expected, abs=1e-9)


def test_margins_do_not_reach_the_picture() -> None:
    maps = torch.full((1, 8, 8), 9.0)
    maps[:, 2:6] = 1.0  # a picture twice as wide as high
    maps[:, 3:5] = 2.0
    inner = frame((16, 8)).on_picture("a", maps)[0]
    assert inner.shape == (8, 16)
    assert (inner[2:6] <= 2.0).all() and (inner[1:-1] < 2.0 + 1e-6).all()


# Masks on the grid


def exact_cells(mask: np.ndarray, box: tuple[int, ...], resolution: int, grid: int) -> np.ndarray:
    """Foreground and presence of each cell, by the overlap of every pixel with every cell."""
    left, top, right, bottom = map(Fraction, box)
    height, width = mask.shape

    def overlap(cell: int, pixel: int, n: int, low: Fraction, high: Fraction) -> Fraction:
        side = Fraction(resolution, grid)
        start, end = (low + (high - low) * Fraction(i, n) for i in (pixel, pixel + 1))
        return max(Fraction(0), min(end, side * (cell + 1)) - max(start, side * cell)) / side

    cells = np.zeros((2, grid, grid))
    for row in range(grid):
        tall = [overlap(row, y, height, top, bottom) for y in range(height)]
        for column in range(grid):
            wide = [overlap(column, x, width, left, right) for x in range(width)]
            areas = np.array([[float(a * b) for b in wide] for a in tall])
            cells[:, row, column] = (areas * mask).sum(), areas.sum()
    return cells


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 5),
    st.integers(3, 30),
    st.sampled_from(PADS),
    st.integers(0, 2**31),
)
@EXAMPLES
def test_a_mask_on_the_grid_is_the_area_it_covers(
    size: tuple[int, int], grid: int, resolution: int, pad: Pad, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((size[1], size[0])) < 0.5
    ours = frame(size, resolution, pad).on_grid("a", torch.from_numpy(mask), grid)
    box = Letterbox(*size, resolution, pad).box
    expected = exact_cells(mask, box, resolution, grid)
    for found, wanted in zip(ours, expected, strict=True):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    left, top, right, bottom = box
    covered = (right - left) * (bottom - top) / resolution**2
    assert float(ours[1].mean()) == pytest.approx(covered, abs=1e-6)


def test_a_mask_on_the_grid_is_the_mean_of_the_padded_mask() -> None:
    mask = np.random.default_rng(0).random((6, 12)) < 0.4
    padded = np.zeros((48, 48))
    padded[12:36] = np.kron(mask, np.ones((4, 4)))  # 12 x 6 pixels become 48 x 24
    inside, there = frame((12, 6)).on_grid("a", torch.from_numpy(mask), 8)
    means = padded.reshape(8, 6, 8, 6).mean((1, 3))
    np.testing.assert_allclose(inside, means, atol=1e-7)
    assert there[:2].eq(0).all() and there[-2:].eq(0).all() and there[2:-2].eq(1).all()


@pytest.mark.parametrize("size", [(30, 1), (1, 30), (1, 1)])
def test_pictures_one_pixel_high_or_wide_are_as_good_as_any(size: tuple[int, int]) -> None:
    ours = frame(size, 15)
    mask = torch.ones(size[1], size[0], dtype=torch.bool)
    inside, there = ours.on_grid("a", mask, 4)
    torch.testing.assert_close(inside, there)
    assert there.sum() > 0
    point = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(ours.to_picture("a", ours.to_square("a", point)), point)
    assert ours.on_picture("a", torch.rand(3, 5, 5)).shape == (3, size[1], size[0])


def test_an_image_keeps_its_own_size() -> None:
    both = Frame({"wide": (40, 20), "high": (20, 40)}, 48, "edge")
    corner = torch.zeros(1, 2)
    assert both.to_square("wide", corner).tolist() == [[0.0, 0.25]]
    assert both.to_square("high", corner).tolist() == [[0.25, 0.0]]


# Recipes


def test_a_frame_is_read_from_a_recipe() -> None:
    recipe = Recipe({"resolution": 64, "preprocessing": {"pad": "white", "resize": "lanczos"}})
    assert Frame.of(recipe, {"a": (3, 4)}) == Frame({"a": (3, 4)}, 64, "white")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"resolution": 64},
        {"preprocessing": {"pad": "edge"}},
        {"resolution": 64, "preprocessing": "edge"},
    ],
)
def test_a_recipe_that_does_not_say_is_an_error(fields: dict) -> None:
    with pytest.raises(StoreError, match="precompute the store anew"):
        Frame.of(Recipe(fields), {})
