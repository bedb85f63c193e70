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

_PART_BYTES = 2**20
"""Of values in float64 that are transformed at a time: few enough for a processor's cache."""
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


def power_spectrum(maps: np.ndarray) -> np.ndarray:
    """Variance of maps [B, C, h, w] by frequency, summed over images: float64 [C, h, w].

    In fftfreq's order and without the mean: the entry of frequency 0 is zero. The sum over
    frequencies is the windowed maps' mean square, for white noise B times its variance.
    """
    n_images, n_channels, height, width = maps.shape
    channel_bytes = max(1, n_images) * height * width * np.dtype(np.float64).itemsize
    step = max(1, _PART_BYTES // channel_bytes)
    parts = [maps[:, start : start + step] for start in range(0, n_channels, step)]
    return _mirrored(np.concatenate([_half_spectrum(part) for part in parts]), width)


def _half_spectrum(maps: np.ndarray) -> np.ndarray:
    """The same without the negative frequencies along x: [C, h, w // 2 + 1]."""
    height, width = maps.shape[2:]
    window = np.outer(_hann(height), _hann(width))
    values = maps.astype(np.float64)
    squares = np.einsum("bcyx,bcyx->bc", values, values) / (height * width)
    # The mean under the window, so that nothing is left of it at any frequency.
    means = np.einsum("bcyx,yx->bc", values, window) / window.sum()
    values -= means[:, :, None, None]
    values *= window / (np.sqrt(np.square(window).mean()) * height * width)
    transformed = np.fft.rfft2(values)
    powers = np.square(transformed.real)
    powers += np.square(transformed.imag)
    # What is left of a constant map is rounding, and no signal. Columns with a mirror count twice.
    columns = np.full(powers.shape[3], 2.0)
    columns[:: width // 2 if width % 2 == 0 else width] = 1
    powers[np.einsum("bcyx,x->bc", powers, columns) <= _ROUNDING * squares] = 0
    return powers.sum(0)


def _mirrored(half: np.ndarray, width: int) -> np.ndarray:
    """All frequencies of real maps: power at -k is power at k."""
    height, known = half.shape[1:]
    ys = -np.arange(height) % height
    xs = -np.arange(known, width) % width
    return np.concatenate([half, half[:, ys][:, :, xs]], axis=2)


def radial_spectrum(powers: np.ndarray) -> Spectrum:
    """Power over the distance from frequency 0, of a `power_spectrum` [C, h, w].

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
