"""Power of feature maps over spatial frequency (counted by `cache.insight.spectrum`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from cache.insight.spectrum import Spectrum, power_spectrum, radial_spectrum
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


class SpectrumMeter:
    """Takes maps batch by batch, so that they need not all be in memory."""

    def __init__(self) -> None:
        self._powers: np.ndarray | None = None

    def update(self, maps: np.ndarray) -> None:
        """Count maps [B, C, h, w]. Raises `ValueError` for another shape, or a single cell."""
        if min(maps.shape[2:]) < 2:
            raise ValueError(f"a map of {maps.shape[2]} x {maps.shape[3]} cells has no frequencies")
        powers = power_spectrum(maps)
        if self._powers is not None and self._powers.shape != powers.shape:
            raise ValueError(f"maps {list(maps.shape[1:])} after {list(self._powers.shape)}")
        self._powers = powers if self._powers is None else self._powers + powers

    def result(self) -> Spectrum:
        """Everything counted so far. Raises `ValueError` before the first map."""
        if self._powers is None:
            raise ValueError("no map to take a spectrum of")
        return radial_spectrum(self._powers)


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
