"""How much of a feature map is coarse and how much is fine: power over spatial frequency.

A map [h, w] of one channel is taken as a picture of the whole square, so that k cycles per image
mean the same for every grid. Its mean is removed, a Hann window keeps its open edges from looking
like detail, and the squared magnitudes of its Fourier transform are shares of its variance per
frequency cell (one cycle by one cycle). The mean over all directions at a distance of k is its
power at k: white noise is flat, and the same field sampled by a finer grid gives the same curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDING = 1e-24
"""Variance of a map, as a share of its mean square, up to which it is constant."""


@dataclass(frozen=True)
class Spectrum:
    """Power of maps by spatial frequency."""

    frequencies: np.ndarray
    """float64 [F]: 1, 2, ... cycles per image, up to half the cells of the shorter side."""
    power: np.ndarray
    """float64 [F]: share of the variance per frequency cell, mean over directions, images and
    channels; every channel counts the same."""
    mean_frequency: float
    """Cycles per image, weighted by power: higher where there is more detail."""


def power_spectra(maps: np.ndarray) -> np.ndarray:
    """Variance of maps [B, C, h, w] by frequency, float64 of the same shape, fftfreq's order.

    Without the mean: the entry of frequency 0 is zero. The sum over frequencies is the windowed
    map's mean square, for white noise its variance.
    """
    height, width = maps.shape[2:]
    window = np.outer(_hann(height), _hann(width))
    values = maps.astype(np.float64)
    # The mean under the window, so that nothing is left of it at any frequency.
    values = values - (values * window).sum((2, 3), keepdims=True) / window.sum()
    window /= np.sqrt(np.square(window).mean())
    transformed = np.fft.fft2(values * window) / (height * width)
    powers = np.square(np.abs(transformed))
    # What is left of a constant map is rounding, and no signal.
    squares = np.square(maps.astype(np.float64)).mean((2, 3))
    powers[powers.sum((2, 3)) <= _ROUNDING * squares] = 0
    return powers


def radial_spectrum(powers: np.ndarray) -> Spectrum:
    """Power over the distance from frequency 0, of `power_spectra` summed over images [C, h, w].

    Raises `ValueError` for maps of one cell, which have no frequencies.
    """
    height, width = powers.shape[1:]
    if min(height, width) < 2:
        raise ValueError(f"a map of {height} x {width} cells has no frequencies")
    # Channels differ in scale by orders of magnitude: each is divided by its own variance.
    variances = powers.sum((1, 2), keepdims=True)
    alive = variances[:, 0, 0] > 0
    shares = powers[alive] / variances[alive]
    mean = shares.mean(0) if len(shares) else np.zeros((height, width))
    distances = radii(height, width)
    frequencies = np.arange(1, min(height, width) // 2 + 1)
    rings = np.rint(distances)
    power = np.array([mean[rings == k].mean() for k in frequencies])
    return Spectrum(frequencies.astype(float), power, float((mean * distances).sum()))


def radii(height: int, width: int) -> np.ndarray:
    """Distance from frequency 0 of the entries of a Fourier transform [h, w], in cycles per
    image."""
    ys, xs = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    return np.hypot(ys[:, None], xs[None, :])


def _hann(n: int) -> np.ndarray:
    """The Hann window at the centres of n cells: zero at the edges of the image, not in a cell."""
    return np.square(np.sin(np.pi * (np.arange(n) + 0.5) / n))
