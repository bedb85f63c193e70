"""The spectrum of signals whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest

from cache.insight.spectrum import Spectrum, power_spectrum, radii
from heads.plots import PlotError, SpectrumMeter, spectrum_figure


def spectrum_of(*batches: np.ndarray) -> Spectrum:
    meter = SpectrumMeter()
    for maps in batches:
        meter.update(maps)
    return meter.result()


def waves(size: int, kx: float, ky: float, phase: float = 0.3) -> np.ndarray:
    """One map [1, 1, size, size] of so many cycles per image, sampled at the cells' centres."""
    places = (np.arange(size) + 0.5) / size
    return np.cos(2 * np.pi * (kx * places[None, :] + ky * places[:, None]) + phase)[None, None]


@pytest.mark.parametrize("k", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("direction", ["across", "down"])
def test_a_cosine_of_k_cycles_peaks_at_k(k: int, direction: str) -> None:
    found = spectrum_of(waves(24, k, 0) if direction == "across" else waves(24, 0, k))
    assert found.frequencies.tolist() == list(range(1, 13))
    assert found.frequencies[found.power.argmax()] == k
    assert found.mean_frequency == pytest.approx(k, abs=0.35)
    # Hann's window reaches one step to either side; beyond there is nothing.
    far = np.abs(found.frequencies - k) > 2.5
    assert found.power[far].max() < 1e-6 * found.power.max()


def test_a_slanted_wave_is_found_at_its_distance() -> None:
    found = spectrum_of(waves(32, 3, 4))
    assert found.frequencies[found.power.argmax()] == 5


def test_white_noise_is_flat() -> None:
    noise = np.random.default_rng(0).normal(size=(64, 16, 24, 24))
    found = spectrum_of(noise)
    decibels = 10 * np.log10(found.power)
    # Without the mean and its neighbours under the window, every frequency has the same share.
    assert np.ptp(decibels[1:]) < 0.25
    assert found.power[1:].mean() == pytest.approx(1 / 24**2, rel=0.02)


def test_the_window_keeps_the_variance_of_noise() -> None:
    noise = 3 * np.random.default_rng(1).normal(size=(64, 16, 16, 16))
    assert power_spectrum(noise).sum((1, 2)).mean() / 64 == pytest.approx(9, rel=0.03)


def test_a_finer_grid_gives_the_same_curve() -> None:
    """A sum of waves without noise, sampled by two grids that both can hold it."""
    coarse, fine = (sum(waves(size, k, k % 2) / k for k in range(1, 6)) + 0.0 for size in (16, 48))
    ours, theirs = spectrum_of(np.asarray(coarse)), spectrum_of(np.asarray(fine))
    np.testing.assert_allclose(ours.power[:6], theirs.power[:6], rtol=0.03)
    assert ours.mean_frequency == pytest.approx(theirs.mean_frequency, rel=0.02)


def test_a_slope_does_not_look_like_detail() -> None:
    """The open edges of a ramp are a leap for the Fourier transform; the window takes it away."""
    ramp = np.broadcast_to(np.arange(32.0), (1, 1, 32, 32))
    found = spectrum_of(ramp)
    assert found.power[0] > 1e4 * found.power[5]


def test_the_mean_and_the_scale_of_a_channel_do_not_count() -> None:
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(4, 3, 12, 12))
    changed = maps * np.array([1e-3, 1.0, 1e3])[:, None, None] + 50
    ours, theirs = spectrum_of(maps), spectrum_of(changed)
    np.testing.assert_allclose(theirs.power, ours.power, rtol=1e-6)


def test_batches_are_one_collection_and_dead_channels_are_left_out() -> None:
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(6, 2, 8, 10))
    whole = spectrum_of(maps)
    np.testing.assert_allclose(spectrum_of(maps[:1], maps[1:]).power, whole.power)
    dead = np.concatenate((maps, np.full((6, 1, 8, 10), 7.0)), axis=1)
    np.testing.assert_allclose(spectrum_of(dead).power, whole.power)
    assert whole.frequencies.tolist() == [1, 2, 3, 4]


def test_radii_are_cycles_per_image() -> None:
    found = radii(4, 6)
    assert found.shape == (4, 6) and found[0, 0] == 0
    assert found[0, 1] == found[1, 0] == 1 and found[2, 3] == pytest.approx(np.hypot(2, 3))


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="no frequencies"):
        spectrum_of(np.zeros((1, 3, 1, 5)))
    with pytest.raises(ValueError, match="after"):
        spectrum_of(np.ones((1, 3, 4, 4)), np.ones((1, 3, 5, 5)))
    with pytest.raises(ValueError, match="no map"):
        SpectrumMeter().result()
    with pytest.raises(PlotError, match="no spectra"):
        spectrum_figure({})


def test_the_figure_shows_power_in_decibels_with_units() -> None:
    fine, coarse = spectrum_of(waves(16, 6, 0)), spectrum_of(waves(8, 2, 0))
    figure = spectrum_figure({"sd/t195/s3": fine, "clip/to$k$ens": coarse})
    axes = figure.axes[0]
    first, second = axes.lines
    np.testing.assert_allclose(first.get_ydata(), 10 * np.log10(fine.power))
    assert list(first.get_xdata()) == list(fine.frequencies)
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert "cycles per image" in axes.get_xlabel() and "dB" in axes.get_ylabel()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1].startswith("clip/to$k$ens  (mean 2.")
