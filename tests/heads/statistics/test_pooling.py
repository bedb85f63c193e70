"""Statistics of maps, their moments and their whitening, against numpy written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.statistics.moments import KINDS, Moments, kind_rows, whitening
from heads.statistics.pooling import (
    POOLINGS,
    ScaleMeter,
    channel_statistics,
    pooled,
    pooled_width,
)


def random_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, generator=chance) + 5


def test_statistics_are_as_written_out() -> None:
    maps = random_maps(2, 3, 4, 5)
    scale = torch.tensor([0.5, 2.0, 3.0])
    found = channel_statistics(maps, scale).double().numpy()
    for image in range(2):
        for channel in range(3):
            cells = maps[image, channel].double().numpy().ravel() / float(scale[channel])
            expected = [
                cells.mean(),
                cells.std(),
                np.log(np.mean(np.exp(2 * cells))) / 2,
                -np.log(np.mean(np.exp(-2 * cells))) / 2,
            ]
            assert found[image, :, channel] == pytest.approx(expected, abs=1e-4)


def test_soft_extremes_lie_between_the_mean_and_the_extremes() -> None:
    maps = random_maps(4, 6, 5, 5)
    mean, _, highest, lowest = channel_statistics(maps, torch.ones(6)).unbind(1)
    cells = maps.flatten(2)
    assert (mean <= highest).all() and (highest <= cells.amax(2)).all()
    assert (cells.amin(2) <= lowest).all() and (lowest <= mean).all()


def test_large_values_do_not_overflow() -> None:
    maps = random_maps(1, 2, 3, 3) * 1000
    assert channel_statistics(maps, torch.ones(2)).isfinite().all()
    assert channel_statistics(maps.half() / 100, torch.ones(2)).dtype == torch.float32


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_width_is_that_of_what_is_pooled(pooling: str) -> None:
    statistics = channel_statistics(random_maps(2, 7, 3, 3), torch.ones(7))
    assert pooled(statistics, pooling).shape == (2, pooled_width(7, pooling))


def test_scales_do_not_depend_on_the_batches() -> None:
    maps = random_maps(9, 3, 4, 4) + 1000
    one, many = ScaleMeter(), ScaleMeter()
    one.update(maps)
    for start in (0, 2, 7):
        many.update(maps[start : {0: 2, 2: 7, 7: 9}[start]])
    expected = maps.double().transpose(0, 1).flatten(1).numpy().std(1)
    assert one.result().numpy() == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(one.result(), many.result(), rtol=1e-6)


def test_a_channel_that_never_varies_has_scale_one() -> None:
    meter = ScaleMeter()
    meter.update(torch.full((2, 1, 3, 3), 4.0))
    assert meter.result().tolist() == [1.0]
    with pytest.raises(ValueError, match="no maps"):
        ScaleMeter().result()


@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_moments_are_numpys_in_any_batches(n: int, width: int, at_once: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    vectors = chance.normal(100, 3, (n, width))
    kinds = chance.integers(0, len(KINDS), n)
    moments = Moments(width)
    for start in range(0, n, at_once):
        moments.update(
            torch.from_numpy(vectors[start : start + at_once]),
            torch.from_numpy(kinds[start : start + at_once]),
        )
    common = vectors.mean(0)
    assert moments.centres("common").numpy() == pytest.approx(np.tile(common, (3, 1)))
    assert not moments.centres("none").any()
    own = {
        k: vectors[kinds == k].mean(0) if k < 2 and (kinds == k).any() else common for k in range(3)
    }
    assert moments.centres("kind").numpy() == pytest.approx(np.stack([own[k] for k in range(3)]))
    for centring, centred in {
        "none": vectors,
        "common": vectors - common,
        "kind": vectors - np.stack([own[k] for k in kinds]),
    }.items():
        expected = centred.T @ centred / n
        assert moments.covariance(centring).numpy() == pytest.approx(expected, abs=1e-7, rel=1e-9)


def test_moments_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no vectors"):
        Moments(3).centres("common")


def test_whitened_vectors_have_the_covariance_that_shrinkage_leaves() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(500, 4)) @ chance.normal(size=(4, 4))
    covariance = vectors.T @ vectors / 500
    matrix = whitening(torch.from_numpy(covariance), 0.1).numpy()
    assert matrix == pytest.approx(matrix.T)
    power = np.linalg.eigvalsh(covariance)
    left = np.linalg.eigvalsh(matrix @ covariance @ matrix)
    assert left == pytest.approx(power / (power + 0.1 * power.mean()))


def test_fewer_vectors_than_dimensions_can_be_whitened() -> None:
    moments = Moments(8)
    moments.update(
        torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), kind_rows([None] * 3)
    )
    assert whitening(moments.covariance("common"), 0.1).isfinite().all()
    constant = Moments(2)
    constant.update(torch.ones(4, 2), kind_rows(["sketch"] * 4))
    assert torch.equal(whitening(constant.covariance("common"), 0.1), torch.eye(2).double())
