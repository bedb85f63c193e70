"""Descriptors without the aggregation network: against arithmetic written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heads.aggregation import Descriptors
from heads.probes import Concatenation, LinearProbe

EXAMPLES = settings(max_examples=25, deadline=None)


def bilinear(grid: int, side: int) -> np.ndarray:
    """Weights [grid, side] of resizing one side, between cell centres."""
    weights = np.zeros((grid, side))
    for row in range(grid):
        at = min(max((row + 0.5) * side / grid - 0.5, 0), side - 1)
        low = int(at)
        high = min(low + 1, side - 1)
        weights[row, low] += 1 - (at - low)
        weights[row, high] += at - low
    return weights


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def resized(maps: np.ndarray, grid: int) -> np.ndarray:
    up, across = bilinear(grid, maps.shape[2]), bilinear(grid, maps.shape[3])
    return np.einsum("gh,bchw,jw->bcgj", up, maps, across)


def some_maps(shapes: dict[str, tuple[int, ...]], seed: int, n: int = 2) -> dict[str, Tensor]:
    """Arrays whose values differ in size by the thousand."""
    chance = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(chance.normal(size=(n, *shape)) * 10.0 ** chance.integers(-1, 3))
        for name, shape in shapes.items()
    }


SHAPES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3
).map(lambda all_: {f"map{i}": shape for i, shape in enumerate(all_)})


@given(SHAPES, st.integers(1, 6), st.integers(0, 2**31))
@EXAMPLES
def test_maps_lie_side_by_side_as_unit_vectors(
    shapes: dict[str, tuple[int, int, int]], grid: int, seed: int
) -> None:
    maps = some_maps(shapes, seed)
    found = Concatenation(tuple(shapes), {}, grid)(maps)
    on_grid = [resized(maps[name].numpy(), grid) for name in shapes]
    for b in range(2):
        means = [unit(maps[name][b].numpy().mean((1, 2))) for name in shapes]
        np.testing.assert_allclose(found.pooled[b], unit(np.concatenate(means)), atol=1e-6)
        for row in range(grid):
            for column in range(grid):
                parts = [unit(whole[b, :, row, column]) for whole in on_grid]
                expected = unit(np.concatenate(parts))
                np.testing.assert_allclose(found.spatial[b, :, row, column], expected, atol=1e-6)


def test_every_array_counts_the_same_whatever_its_size() -> None:
    maps = some_maps({"a": (2, 3, 3), "b": (40, 3, 3)}, 0)
    both = Concatenation(("a", "b"), {}, 3)(maps)
    alone = [Concatenation((name,), {}, 3)({name: maps[name]}) for name in "ab"]

    def cosine(found: Descriptors) -> Tensor:
        return torch.einsum("phw,phw->hw", *found.spatial)

    mean = torch.stack([cosine(found) for found in alone]).mean(0)
    torch.testing.assert_close(cosine(both), mean)
    scaled = Concatenation(("a", "b"), {}, 3)({"a": maps["a"] * 1000, "b": maps["b"]})
    torch.testing.assert_close(scaled.spatial, both.spatial)


def test_a_global_descriptor_of_its_own_takes_the_place_of_the_mean() -> None:
    maps = some_maps({"clip/tokens": (4, 3, 3), "sd": (3, 2, 2), "clip/pooled": (5,)}, 1)
    head = Concatenation(("clip/tokens", "sd"), {"clip/tokens": "clip/pooled"}, 4)
    found = head(maps)
    assert found.spatial.shape == (2, 7, 4, 4) and found.pooled.shape == (2, 8)
    for b in range(2):
        parts = [maps["clip/pooled"][b].numpy(), maps["sd"][b].numpy().mean((1, 2))]
        expected = unit(np.concatenate([unit(part) for part in parts]))
        np.testing.assert_allclose(found.pooled[b], expected, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0])
def test_maps_of_one_value_give_no_nan(value: float) -> None:
    maps = {"a": torch.full((2, 3, 2, 2), value), "b": torch.randn(2, 4, 5, 5)}
    probe = LinearProbe({"a": 3, "b": 4}, 6, 3)
    for head in (Concatenation(("a", "b"), {}, 3), Concatenation(("a",), {}, 3), probe):
        for part in head(maps)[:2]:
            assert part.isfinite().all()
            assert (torch.linalg.vector_norm(part, dim=1) <= 1 + 1e-5).all()


def test_there_is_nothing_to_train_in_a_concatenation() -> None:
    assert not list(Concatenation(("a",), {}, 3).parameters())


@given(SHAPES, st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
@EXAMPLES
def test_a_probe_is_one_matrix_on_the_unit_vectors(
    shapes: dict[str, tuple[int, int, int]], width: int, grid: int, seed: int
) -> None:
    maps = {name: value.float() for name, value in some_maps(shapes, seed).items()}
    torch.manual_seed(seed)
    probe = LinearProbe({name: shape[0] for name, shape in shapes.items()}, width, grid).eval()
    found = probe(maps)
    matrix = probe.projection.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    on_grid = [resized(maps[name].numpy().astype(np.float64), grid) for name in shapes]
    for b in range(2):
        sums = np.zeros(width)
        for row in range(grid):
            for column in range(grid):
                parts = [unit(whole[b, :, row, column]) for whole in on_grid]
                projected = matrix @ np.concatenate(parts)
                sums += projected
                ours = found.spatial[b, :, row, column].detach()
                # Where little is left the direction is rounding.
                if np.linalg.norm(projected) > 1e-2:
                    np.testing.assert_allclose(ours, unit(projected), atol=1e-3)
        if np.linalg.norm(sums) > 1e-2:
            np.testing.assert_allclose(found.pooled[b].detach(), unit(sums), atol=1e-3)


def test_a_probe_learns_and_drops_only_while_it_trains() -> None:
    maps = {"a": torch.randn(2, 8, 4, 4), "b": torch.randn(2, 8, 2, 2)}
    probe = LinearProbe({"a": 8, "b": 8}, 5, 4, dropout=0.5)
    assert not torch.equal(probe(maps).spatial, probe(maps).spatial)
    probe.eval()
    found = probe(maps)
    assert torch.equal(found.spatial, probe(maps).spatial)
    (found.spatial.square()[:, 0].sum() + found.pooled[:, 0].sum()).backward()
    assert [name for name, _ in probe.named_parameters()] == ["projection.weight"]
    gradient = probe.projection.weight.grad
    assert gradient is not None and (gradient != 0).any(1).all()


def test_a_probe_in_half_precision_gives_float32() -> None:
    probe = LinearProbe({"a": 4}, 5, 3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = probe({"a": torch.randn(1, 4, 3, 3)})
    assert {part.dtype for part in found[:2]} == {torch.float32}
    torch.testing.assert_close(torch.linalg.vector_norm(found.spatial, dim=1), torch.ones(1, 3, 3))
