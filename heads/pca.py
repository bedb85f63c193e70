"""Feature maps as colours: their first three principal components, shared by several maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RGB = 3
CLIPPED_PERCENT = 1.0
"""Share of cells beyond either end of the colour scale, so that one outlier cannot flatten it."""


@dataclass(frozen=True)
class Components:
    """The directions in which feature vectors vary most.

    `directions` float64 [K, C] are orthonormal rows in order of variance, each with a positive
    largest entry; `shares` float64 [K] are their shares of the whole variance.
    """

    directions: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class ColourMaps:
    """Maps as colours: uint8 [h, w, 3] each; `shares` [3] as in `Components`."""

    maps: tuple[np.ndarray, ...]
    shares: np.ndarray


def principal_components(vectors: np.ndarray, n_components: int) -> Components:
    """Principal components of the rows of `vectors` [N, C], whose mean is taken away.

    Where there are fewer than `n_components` directions (N or C is small), the rest are zero.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, spread, rows = np.linalg.svd(centred, full_matrices=False)
    n_channels = vectors.shape[1]
    directions = np.zeros((n_components, n_channels))
    shares = np.zeros(n_components)
    kept = min(n_components, len(rows))
    directions[:kept] = rows[:kept]
    variances = spread**2
    shares[:kept] = variances[:kept] / max(variances.sum(), np.finfo(float).tiny)
    # A direction's sign is arbitrary; fixing it keeps colours the same from run to run.
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(n_components), largest])
    return Components(directions * np.where(signs == 0, 1, signs)[:, None], shares)


def colour_maps(feature_maps: Sequence[np.ndarray]) -> ColourMaps:
    """Feature maps [C, h, w] with the same channels, in colours that mean the same in each.

    Each map loses its own mean vector and overall scale first: between a sketch and a photo these
    hold little but the difference of style, which would take all the colours. Directions and
    colour scale then come from the cells of all maps.
    """
    cells = [_standardised_cells(feature_map) for feature_map in feature_maps]
    components = principal_components(np.concatenate(cells), RGB)
    projected = [vectors @ components.directions.T for vectors in cells]
    low, high = np.percentile(
        np.concatenate(projected), [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT], axis=0
    )
    # A component without any spread is a mid grey.
    flat = high - low <= 1e-9
    low, high = np.where(flat, -1.0, low), np.where(flat, 1.0, high)
    maps = tuple(
        _bytes((values - low) / (high - low)).reshape(*feature_map.shape[1:], RGB)
        for values, feature_map in zip(projected, feature_maps, strict=True)
    )
    return ColourMaps(maps, components.shares)


def _standardised_cells(feature_map: np.ndarray) -> np.ndarray:
    """The cells of a map [C, h, w] as rows [h * w, C]: mean zero, mean squared length one."""
    vectors = feature_map.reshape(len(feature_map), -1).T.astype(np.float64)
    vectors -= vectors.mean(0)
    length = np.sqrt((vectors**2).sum(1).mean())
    return vectors / length if length > 0 else vectors


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8; those beyond are clipped."""
    return (255 * values.clip(0, 1)).round().astype(np.uint8)
