"""Principal components and their colours, against scikit-learn and maps of known structure."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from heads.pca import colour_maps, principal_components


def _low_rank(n_vectors: int, scales: list[float], n_channels: int, seed: int) -> np.ndarray:
    """Vectors [N, C] in a subspace, with the given spread along each orthonormal direction."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((n_channels, len(scales))))[0].T
    return 3.0 + (rng.standard_normal((n_vectors, len(scales))) * scales) @ directions


def test_components_are_those_of_scikit_learn() -> None:
    vectors = _low_rank(400, [5.0, 2.0, 1.0, 0.3], n_channels=24, seed=1)
    found = principal_components(vectors, 3)
    oracle = PCA(3, svd_solver="full").fit(vectors)

    cosines = (found.directions * oracle.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-9)
    np.testing.assert_allclose(found.shares, oracle.explained_variance_ratio_, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    n_vectors=st.integers(1, 30),
    n_channels=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_directions_are_orthonormal_and_of_fixed_sign(
    n_vectors: int, n_channels: int, seed: int
) -> None:
    vectors = np.random.default_rng(seed).standard_normal((n_vectors, n_channels))
    found = principal_components(vectors, 3)

    gram = found.directions @ found.directions.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert np.all(np.isclose(np.diag(gram), 1) | np.isclose(np.diag(gram), 0))
    largest = np.take_along_axis(
        found.directions, np.abs(found.directions).argmax(1, keepdims=True), 1
    )
    assert np.all(largest >= 0)
    assert np.all(np.diff(found.shares) <= 1e-12)
    assert found.shares.sum() <= 1 + 1e-9


def test_the_same_vector_has_the_same_colour_in_both_maps() -> None:
    rng = np.random.default_rng(2)
    sketch = rng.standard_normal((16, 6, 6))
    turned = sketch[:, ::-1, ::-1].copy()
    shown = colour_maps([sketch, turned])

    np.testing.assert_array_equal(shown.maps[0], shown.maps[1][::-1, ::-1])
    assert len(np.unique(shown.maps[0].reshape(-1, 3), axis=0)) > 20


def test_style_does_not_change_the_colours() -> None:
    rng = np.random.default_rng(3)
    sketch = rng.standard_normal((16, 5, 5))
    other_style = 40 * sketch + rng.standard_normal((16, 1, 1)) * 100
    shown = colour_maps([sketch, other_style])

    difference = np.abs(shown.maps[0].astype(int) - shown.maps[1])
    assert difference.max() <= 1


def test_regions_of_a_piecewise_constant_map_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    regions = np.repeat(np.arange(4), 9).reshape(6, 6)
    feature_map = rng.standard_normal((4, 32))[regions].transpose(2, 0, 1)
    shown = colour_maps([feature_map, feature_map]).maps[0]

    colours = [np.unique(shown[regions == region], axis=0) for region in range(4)]
    assert [len(found) for found in colours] == [1, 1, 1, 1]
    assert len(np.unique(np.concatenate(colours), axis=0)) == 4


def test_maps_of_different_sizes_share_their_components() -> None:
    rng = np.random.default_rng(5)
    shown = colour_maps([rng.standard_normal((8, 4, 6)), rng.standard_normal((8, 3, 3))])
    assert [colours.shape for colours in shown.maps] == [(4, 6, 3), (3, 3, 3)]
    assert all(colours.dtype == np.uint8 for colours in shown.maps)


def test_a_map_without_any_structure_is_grey() -> None:
    shown = colour_maps([np.full((8, 3, 3), 7.0), np.full((8, 3, 3), -2.0)])
    assert {int(value) for colours in shown.maps for value in colours.flat} == {128}
    assert not shown.shares.any()
