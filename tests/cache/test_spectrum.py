import numpy as np
import pytest

from cache.insight import spectrum
from cache.insight.spectrum import power_spectrum, radial_spectrum


def waves(cycles: int, size: int) -> np.ndarray:
    """A cosine along x, [1, 1, size, size]."""
    x = (np.arange(size) + 0.5) / size
    return np.tile(np.cos(2 * np.pi * cycles * x), (1, 1, size, 1))


@pytest.mark.parametrize("cycles", [2, 4, 7])
def test_a_cosine_peaks_at_its_frequency(cycles):
    found = radial_spectrum(power_spectrum(waves(cycles, 24)))
    assert found.frequencies[found.power.argmax()] == cycles
    assert found.mean_frequency == pytest.approx(cycles, abs=0.4)


def test_white_noise_is_flat():
    noise = np.random.default_rng(0).standard_normal((200, 8, 16, 16))
    power = radial_spectrum(power_spectrum(noise)).power
    assert power[1:] == pytest.approx(power[1:].mean(), rel=0.05)


def test_power_adds_up_to_the_variance_of_noise():
    noise = 3 * np.random.default_rng(1).standard_normal((100, 2, 12, 20))
    total = power_spectrum(noise).sum((1, 2)).mean() / 100
    assert total == pytest.approx(9, rel=0.05)


def test_channels_count_the_same_whatever_their_scale():
    maps = np.concatenate([waves(2, 16), 1e4 * waves(5, 16), np.ones((1, 1, 16, 16))], axis=1)
    power = radial_spectrum(power_spectrum(maps)).power
    ours = [radial_spectrum(power_spectrum(waves(k, 16))).power for k in (2, 5)]
    assert power == pytest.approx(np.mean(ours, axis=0), rel=1e-6)


def test_a_constant_channel_that_rounds_is_no_signal():
    noise = np.random.default_rng(2).standard_normal((4, 3, 16, 16))
    constant = np.full((4, 1, 16, 16), np.float16(0.1), np.float64)
    maps = np.concatenate([noise, constant], axis=1)
    found = radial_spectrum(power_spectrum(maps))
    assert found.power == pytest.approx(radial_spectrum(power_spectrum(noise)).power)


def test_one_cell_has_no_frequencies():
    with pytest.raises(ValueError, match="no frequencies"):
        radial_spectrum(np.ones((3, 1, 4)))


def plain_spectrum(maps: np.ndarray) -> np.ndarray:
    """The definition, word for word: every frequency of every map."""
    height, width = maps.shape[2:]
    ys, xs = ((np.arange(n) + 0.5) / n for n in (height, width))
    window = np.outer(np.sin(np.pi * ys) ** 2, np.sin(np.pi * xs) ** 2)
    values = maps.astype(np.float64)
    values = values - (values * window).sum((2, 3), keepdims=True) / window.sum()
    transformed = np.fft.fft2(values * window / np.sqrt((window**2).mean()))
    return (np.abs(transformed / (height * width)) ** 2).sum(0)


@pytest.mark.parametrize(
    "shape", [(3, 5, 8, 8), (2, 4, 7, 6), (4, 3, 6, 7), (1, 2, 2, 3), (2, 1, 3, 2), (0, 2, 4, 4)]
)
@pytest.mark.parametrize("part_bytes", [1, 2**20])
def test_it_is_the_transform_of_every_map(shape, part_bytes, monkeypatch):
    monkeypatch.setattr(spectrum, "_PART_BYTES", part_bytes)
    maps = np.random.default_rng(3).standard_normal(shape).astype(np.float16)
    found = power_spectrum(maps)
    np.testing.assert_allclose(found, plain_spectrum(maps), rtol=1e-9, atol=1e-20)
