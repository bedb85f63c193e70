"""Colours by name, with the variation that real things have. RGB as floats in 0..1."""

from __future__ import annotations

import colorsys

import numpy as np

Colour = tuple[float, float, float]

# Hue, saturation, value.
_BASE: dict[str, Colour] = {
    "red": (0.99, 0.82, 0.82),
    "orange": (0.07, 0.86, 0.94),
    "yellow": (0.135, 0.80, 0.96),
    "lime": (0.23, 0.68, 0.80),
    "green": (0.33, 0.66, 0.58),
    "teal": (0.48, 0.68, 0.62),
    "sky": (0.55, 0.52, 0.90),
    "blue": (0.61, 0.76, 0.76),
    "violet": (0.75, 0.56, 0.68),
    "pink": (0.93, 0.45, 0.94),
    "brown": (0.065, 0.62, 0.48),
    "tan": (0.09, 0.42, 0.78),
    "cream": (0.12, 0.18, 0.95),
    "white": (0.12, 0.03, 0.96),
    "silver": (0.58, 0.06, 0.76),
    "grey": (0.60, 0.09, 0.54),
    "slate": (0.60, 0.22, 0.40),
    "black": (0.62, 0.20, 0.19),
    "glass": (0.55, 0.26, 0.88),
    "gold": (0.12, 0.70, 0.84),
}

VIVID = ("red", "orange", "yellow", "lime", "green", "teal", "sky", "blue", "violet", "pink")
"""What painted or dyed things may be."""


def tint(rng: np.random.Generator, names: tuple[str, ...]) -> Colour:
    """One of the named colours, slightly off."""
    h, s, v = _BASE[names[int(rng.integers(len(names)))]]
    dh, ds, dv = rng.uniform(-1.0, 1.0, 3)
    # The saturation of greys moves less, or they would turn into colours.
    return colorsys.hsv_to_rgb(
        (h + 0.02 * dh) % 1.0, _unit(s + (0.02 + 0.12 * s) * ds), _unit(v + 0.09 * dv)
    )


def scaled(colour: Colour, factor: float) -> Colour:
    """Darker (below 1) or lighter (above 1)."""
    r, g, b = (_unit(c * factor) for c in colour)
    return r, g, b


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
