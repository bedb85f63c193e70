"""How much of a feature map is coarse and how much is fine: power over spatial frequency.

A map [h, w] of one channel is taken as a picture of the whole square, so that k cycles per image
mean the same for every grid. Its mean is removed, a Hann window keeps its open edges from looking
like detail, and the squared magnitudes of its Fourier transform are shares of its variance per
frequency cell (one cycle by one cycle). The mean over all directions at a distance of k is its
power at k: white noise is flat, and the same field sampled by a finer grid gives the same curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from heads.plots.style import (
    CURVES,
    DASHES,
    INK,
    MARKERS,
    SMALL,
    TEXT,
    at_least_one,
    new_figure,
    plain,
)

_ROUNDING = 1e-24
"""Variance of a channel, as a share of its mean square, below which it is constant."""


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


class SpectrumMeter:
    """Takes maps batch by batch, so that they need not all be in memory."""

    def __init__(self) -> None:
        self._powers: np.ndarray | None = None
        self._squares: float | np.ndarray = 0.0
        self._n = 0

    def update(self, maps: np.ndarray) -> None:
        """Count maps [B, C, h, w]. Raises `ValueError` for another shape, or a single cell."""
        if min(maps.shape[2:]) < 2:
            raise ValueError(f"a map of {maps.shape[2]} x {maps.shape[3]} cells has no frequencies")
        powers = power_spectra(maps).sum(0)
        if self._powers is not None and self._powers.shape != powers.shape:
            raise ValueError(f"maps {list(maps.shape[1:])} after {list(self._powers.shape)}")
        self._powers = powers if self._powers is None else self._powers + powers
        self._squares += np.square(maps.astype(np.float64)).sum((0, 2, 3)) / maps[0, 0].size
        self._n += len(maps)

    def result(self) -> Spectrum:
        """Everything counted so far. Raises `ValueError` before the first map."""
        if self._powers is None:
            raise ValueError("no map to take a spectrum of")
        height, width = self._powers.shape[1:]
        # Channels differ in scale by orders of magnitude: each is divided by its own variance.
        variances = self._powers.sum((1, 2), keepdims=True)
        # What is left of a constant one is rounding, and no signal.
        alive = variances[:, 0, 0] > _ROUNDING * self._squares
        shares = self._powers[alive] / variances[alive]
        mean = shares.mean(0) if len(shares) else np.zeros((height, width))
        distances = radii(height, width)
        frequencies = np.arange(1, min(height, width) // 2 + 1)
        rings = np.rint(distances)
        power = np.array([mean[rings == k].mean() for k in frequencies])
        return Spectrum(frequencies.astype(float), power, float((mean * distances).sum()))


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
    return np.square(np.abs(transformed))


def radii(height: int, width: int) -> np.ndarray:
    """Distance from frequency 0 of the entries of a Fourier transform [h, w], in cycles per
    image."""
    ys, xs = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    return np.hypot(ys[:, None], xs[None, :])


def spectrum_figure(spectra: Mapping[str, Spectrum]) -> Figure:
    """Power in dB of the variance over spatial frequency, one line for each name.

    Lines differ in colour, dashes and markers. Raises PlotError where there is none.
    """
    at_least_one("spectra", len(spectra))
    figure = new_figure(7.4, 4.2)
    axes = figure.subplots()
    for number, (name, spectrum) in enumerate(spectra.items()):
        seen = spectrum.power > 0
        axes.plot(
            spectrum.frequencies[seen],
            10 * np.log10(spectrum.power[seen]),
            color=CURVES[number % len(CURVES)],
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            linewidth=1.6,
            label=f"{name}  (mean {spectrum.mean_frequency:.1f})",
        )
    plain(axes)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("spatial frequency (cycles per image)", fontsize=TEXT, color=INK)
    axes.set_ylabel("power (dB of the variance, per frequency cell)", fontsize=TEXT, color=INK)
    legend = figure.legend(
        loc="outside right upper",
        frameon=False,
        fontsize=SMALL,
        title="mean: cycles per image, by power",
        alignment="left",
        title_fontsize=SMALL,
        handlelength=3.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _hann(n: int) -> np.ndarray:
    """The Hann window at the centres of n cells: zero at the edges of the image, not in a cell."""
    return np.square(np.sin(np.pi * (np.arange(n) + 0.5) / n))
