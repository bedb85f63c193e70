"""Points from descriptors: the few rows equal the full correlation, and peaks are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heads.matching import (
    TEMPERATURE,
    add_target_noise,
    cell_centres,
    correlate,
    end_point_error,
    nearest_neighbour,
    sample_descriptors,
    soft_argmax,
    windowed_soft_argmax,
)


def random_maps(batch: int, width: int, grid: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, width, grid, grid, generator=generator), dim=1)


def full_soft_argmax(sketch: Tensor, photo: Tensor, size: float) -> Tensor:
    """Every cell's match [G, G, 2] in pixels, through the whole G^2 x G^2 correlation."""
    grid = sketch.shape[-1]
    correlation = sketch.flatten(1).T @ photo.flatten(1)
    weights = (correlation / TEMPERATURE).softmax(1).reshape(grid, grid, grid, grid)
    centres = (torch.arange(grid) + 0.5) * size / grid
    x = (weights.sum(2) * centres).sum(-1)
    y = (weights.sum(3) * centres).sum(-1)
    return torch.stack((x, y), -1)


def test_rows_of_keypoints_equal_the_full_map_of_the_paper() -> None:
    grid, size = 60, 1.0
    sketch, photo = random_maps(1, 32, grid, 0), random_maps(1, 32, grid, 1)
    cells = torch.randint(grid, (1, 8, 2), generator=torch.Generator().manual_seed(2))
    points = (cells + 0.5) * size / grid
    ours = soft_argmax(correlate(sample_descriptors(sketch, points, size), photo), size)
    full = full_soft_argmax(sketch[0], photo[0], size)
    torch.testing.assert_close(ours[0], full[cells[0, :, 1], cells[0, :, 0]], atol=1e-5, rtol=0)


def test_between_cells_a_row_is_interpolated_from_the_full_correlation() -> None:
    grid, size = 9, 256.0
    sketch, photo = random_maps(2, 16, grid, 0), random_maps(2, 16, grid, 1)
    points = size * torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(3))
    ours = correlate(sample_descriptors(sketch, points, size), photo)
    full = torch.einsum("bpij,bphw->bhwij", sketch, photo)  # a sketch map per photo cell
    at = 2 * points / size - 1
    for b in range(2):
        where = at[b][None, :, None].expand(grid * grid, -1, -1, -1)
        rows = F.grid_sample(
            full[b].reshape(-1, 1, grid, grid), where, padding_mode="border", align_corners=False
        )
        torch.testing.assert_close(
            ours[b], rows[:, 0, :, 0].T.reshape(5, grid, grid), atol=1e-5, rtol=0
        )


@settings(deadline=None, max_examples=50)
@given(
    grid=st.integers(1, 20),
    size=st.floats(8, 1024),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_sampling_is_bilinear_between_cell_centres(
    grid: int, size: float, at: tuple[float, float]
) -> None:
    """A map that is linear in x and y is read exactly, and clamped in the outer half cells."""
    x_and_y = cell_centres(torch.empty(grid, grid, dtype=torch.float64), size)
    maps = x_and_y.T.reshape(1, 2, grid, grid)
    points = size * torch.tensor([[at]], dtype=torch.float64)
    half = size / grid / 2
    expected = points.clamp(half, size - half)
    found = sample_descriptors(maps, points, size)
    torch.testing.assert_close(found, expected, atol=1e-9 * size, rtol=0)


@settings(deadline=None, max_examples=50)
@given(grid=st.integers(1, 30), size=st.floats(8, 1024), data=st.data())
def test_every_readout_finds_a_single_peak(grid: int, size: float, data: st.DataObject) -> None:
    column, row = (data.draw(st.integers(0, grid - 1)) for _ in "xy")
    correlation = torch.zeros(1, 1, grid, grid)
    correlation[0, 0, row, column] = 1
    peak = torch.tensor([(column + 0.5) * size / grid, (row + 0.5) * size / grid])
    for readout in (soft_argmax, windowed_soft_argmax, nearest_neighbour):
        torch.testing.assert_close(readout(correlation, size)[0, 0], peak, atol=1e-5 * size, rtol=0)


def test_a_peak_between_cells_is_found_below_cell_size() -> None:
    grid, size = 60, 256.0
    centres = cell_centres(torch.empty(grid, grid), size).reshape(grid, grid, 2)
    peak = torch.tensor([101.3, 57.9])
    squared = (centres - peak).square().sum(-1)
    correlation = 1 - squared[None, None] * TEMPERATURE / (2 * 6.0**2)  # Gaussian of 6 pixels
    for readout in (soft_argmax, windowed_soft_argmax):
        torch.testing.assert_close(readout(correlation, size)[0, 0], peak, atol=0.05, rtol=0)
    assert (nearest_neighbour(correlation, size)[0, 0] - peak).abs().max() <= size / grid / 2


def test_the_window_keeps_a_second_peak_out() -> None:
    grid, size = 60, 60.0
    correlation = torch.zeros(1, 1, grid, grid)
    correlation[0, 0, 10, 12] = 1.0
    correlation[0, 0, 50, 40] = 0.99
    best = torch.tensor([12.5, 10.5])
    assert (soft_argmax(correlation, size)[0, 0] - best).norm() > 10
    torch.testing.assert_close(
        windowed_soft_argmax(correlation, size)[0, 0], best, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("row", "column"), [(30, 20), (0, 0), (59, 3)])
def test_the_window_is_fifteen_cells_wide_and_cut_at_the_border(row: int, column: int) -> None:
    """Under a flat correlation the expectation is the mean of the window's cell centres."""
    correlation = torch.zeros(1, 1, 60, 60)
    correlation[0, 0, row, column] = 1e-7
    found = windowed_soft_argmax(correlation, 60.0)[0, 0]
    expected = [
        np.mean([i + 0.5 for i in range(60) if abs(i - centre) <= 7]) for centre in (column, row)
    ]
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-3, rtol=0)


def test_maps_need_not_be_square_and_halves_are_read_in_float32() -> None:
    correlation = torch.zeros(1, 1, 4, 8, dtype=torch.bfloat16)
    correlation[0, 0, 1, 6] = 1
    for readout in (soft_argmax, windowed_soft_argmax, nearest_neighbour):
        found = readout(correlation, 64.0)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[0, 0], torch.tensor([52.0, 24.0]), atol=1e-4, rtol=0)


def test_gradients_reach_both_maps_and_training_finds_the_match() -> None:
    grid, size = 12, 96.0
    sketch = random_maps(2, 8, grid, 0).requires_grad_()
    photo = random_maps(2, 8, grid, 1).requires_grad_()
    source = torch.tensor([[[20.0, 30.0], [70.0, 80.0]]] * 2)
    target = torch.tensor([[[60.0, 12.0], [33.0, 50.0]]] * 2)
    valid = torch.tensor([[True, True], [True, False]])
    optimiser = torch.optim.Adam([sketch, photo], lr=0.05)
    losses = []
    for _ in range(60):
        maps = F.normalize(sketch, dim=1), F.normalize(photo, dim=1)
        predicted = soft_argmax(correlate(sample_descriptors(maps[0], source, size), maps[1]), size)
        loss = end_point_error(predicted, target, valid, cell=size / grid)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sketch.grad is not None and sketch.grad.abs().max() > 0
    assert photo.grad is not None and photo.grad.abs().max() > 0
    assert losses[0] > 2 and losses[-1] < 0.2


def test_the_loss_counts_valid_points_in_cells() -> None:
    predicted = torch.tensor([[[3.0, 4.0], [1.0, 1.0]], [[10.0, 0.0], [7.0, 7.0]]])
    target = torch.zeros(2, 2, 2)
    target[:, 1] = torch.nan  # not annotated
    valid = torch.tensor([[True, False], [True, False]])
    assert end_point_error(predicted, target, valid, cell=2.0).item() == pytest.approx(3.75)


def test_points_that_are_not_annotated_leave_no_nan_behind() -> None:
    sketch = random_maps(1, 8, 6, 0).requires_grad_()
    photo = random_maps(1, 8, 6, 1).requires_grad_()
    source = torch.tensor([[[5.0, 5.0], [torch.nan, torch.nan]]])
    target = torch.tensor([[[9.0, 2.0], [torch.nan, torch.nan]]])
    predicted = soft_argmax(correlate(sample_descriptors(sketch, source, 12.0), photo), 12.0)
    for valid, some in (([[True, False]], True), ([[False, False]], False)):
        sketch.grad = photo.grad = None
        loss = end_point_error(predicted, target, torch.tensor(valid), cell=2.0)
        loss.backward(retain_graph=True)
        assert (loss.item() > 0) == some
        for maps in (sketch, photo):
            assert maps.grad is not None and torch.isfinite(maps.grad).all()
            assert (maps.grad.abs().max() > 0) == some


def test_an_exact_prediction_has_a_finite_gradient() -> None:
    predicted = torch.ones(1, 1, 2, requires_grad=True)
    end_point_error(predicted, torch.ones(1, 1, 2), torch.tensor([[True]]), 1.0).backward()
    assert torch.equal(predicted.grad, torch.zeros(1, 1, 2))


def test_target_noise_has_the_released_spread_and_repeats() -> None:
    target = torch.full((4, 5000, 2), 100.0)
    noisy = add_target_noise(target, 256.0, generator=torch.Generator().manual_seed(0))
    assert (noisy - target).std().item() == pytest.approx(0.1 * 256 / 2, rel=0.02)
    assert (noisy - target).mean().abs() < 0.2
    again = add_target_noise(target, 256.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noisy, again)
