"""What guessing scores, by formula."""

from __future__ import annotations

import numpy as np

from heads.metrics.retrieval import PrecisionVariant


def expected_ap(n_relevant: np.ndarray, n_gallery: int, k: int | None = None) -> np.ndarray:
    """Mean `ap-hits` at K of a random ranking, float64 [Q].

    Given h hits within K they lie anywhere: place r holds one with probability h / K, and the
    r - 1 places before it then hold (r - 1) (h - 1) / (K - 1) others. Summing precision over r
    and dividing by h leaves (H + (h - 1) / (K - 1) (K - H)) / K, H the K-th harmonic number. It
    is linear in h, so only the mean of h and the probability of no hit are needed.

    Args:
        n_relevant: int [Q], relevant photos among the `n_gallery`.
    """
    k = n_gallery if k is None else min(k, n_gallery)
    harmonic = (1 / np.arange(1, k + 1)).sum()
    counts, query_of = np.unique(n_relevant, return_inverse=True)
    relevant = counts.astype(np.float64)
    # No hit within K: K misses drawn one after the other.
    drawn = np.arange(k)
    left = np.clip(n_gallery - relevant[:, None] - drawn, 0, None)
    some_hit = 1 - (left / (n_gallery - drawn)).prod(1)
    hits_after_first = k * relevant / n_gallery - some_hit
    means = (harmonic * some_hit + hits_after_first * (k - harmonic) / max(k - 1, 1)) / k
    return means[query_of]


def expected_precision(
    n_relevant: np.ndarray, n_gallery: int, k: int, variant: PrecisionVariant
) -> np.ndarray:
    """Mean P@K of a random ranking, float64 [Q]. Arguments as in `expected_ap`."""
    share = np.asarray(n_relevant, np.float64) / n_gallery
    return share * min(k, n_gallery) / k if variant == "p-k" else share


def disc_share(points: np.ndarray, radius: float) -> np.ndarray:
    """How much of the unit square lies within `radius` of points [N, 2]: float64 [N].

    The part of a disc inside is cut into upright strips of equal angle seen from its centre; the
    sum is exact to about 1e-5.
    """
    n_strips = 512
    first, last = (
        np.arcsin(np.clip((edge - points[:, :1]) / radius, -1, 1)) for edge in (0.0, 1.0)
    )
    step = (last - first) / n_strips
    half = radius * np.cos(first + step * (np.arange(n_strips) + 0.5))
    upper = np.clip(points[:, 1:] + half, 0, 1)
    lower = np.clip(points[:, 1:] - half, 0, 1)
    return ((upper - lower) * half * step).sum(1)
