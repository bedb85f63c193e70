"""What lies behind the object: from a plain wall to a moderately cluttered scene.

Every colour here is chosen against the object's, so that the object always stands out.
Pictures are float32 [S, S, 3] in 0..1, fields float32 [S, S].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.shapes.colours import tint
from pipeline.shapes.raster import as_bytes, blurred

_WALLS = ("cream", "white", "silver", "grey", "slate", "sky", "tan", "teal", "pink", "lime", "blue",
          "brown", "yellow", "violet", "green", "orange", "black")  # fmt: skip
_SKIES = ("sky", "glass", "cream", "silver", "blue", "orange", "slate")
_GROUNDS = ("green", "lime", "tan", "brown", "grey", "cream", "white", "slate")
_TABLES = ("brown", "tan", "cream", "white", "slate", "orange", "grey")
_LUMA = np.array([0.30, 0.59, 0.11])
_APART = 0.3  # how far a background colour keeps from the object's main colours

Scene = tuple[np.ndarray, np.ndarray]
"""The calm and the full version of a background, float32 [S, S, 3] each."""
Pick = Callable[[tuple[str, ...]], np.ndarray]
"""One of the named colours [3], apart from the object's."""


def draw_background(rng: np.random.Generator, pixels: int, object_colours: np.ndarray) -> Scene:
    """A calm version of a background and the full one with texture and clutter.

    `object_colours` [C, 3] are the object's main colours. The photo fades towards the calm
    version around the object.
    """

    def colour(names: tuple[str, ...]) -> np.ndarray:
        return _apart_from(rng, names, object_colours)

    scene = _SCENES[int(rng.integers(len(_SCENES)))]
    calm, full = scene(rng, pixels, colour)
    n_clutter = int(rng.choice([0, 0, 1, 2, 3, 4]))
    if n_clutter:
        full = _cluttered(rng, full, [colour(_WALLS) for _ in range(n_clutter)])
    return calm, full


def noise_field(rng: np.random.Generator, pixels: int, cells: int, stretch: int = 1) -> np.ndarray:
    """Smooth noise around 0, within about ±1, `cells` bumps to a side: float32 [S, S].

    `stretch` makes the bumps that many times wider than high.
    """
    grid = rng.uniform(-1.0, 1.0, (cells, max(2, cells // stretch))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((pixels, pixels), Image.Resampling.BICUBIC))


def _distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How different colours look, roughly: [..., 3] and [..., 3] to [...]; black to white is 1."""
    return np.sqrt(((colours - other) ** 2 * _LUMA).sum(-1))


def _apart_from(rng: np.random.Generator, names: tuple[str, ...], others: np.ndarray) -> np.ndarray:
    """A random one of the named colours [3] among those far enough from all the others [C, 3]."""
    options = np.array([tint(rng, names) for _ in range(10)])
    options += (options @ _LUMA[:, None] - options) * rng.uniform(0.1, 0.5)  # paler than the object
    apart = _distance(options[:, None, :], others[None, :, :]).min(1)
    return options[int(np.argmax(np.minimum(apart, _APART)))]


def _plain(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """A seamless backdrop, lighter on one side."""
    base = colour(_WALLS)
    ramp = _ramp(rng, pixels) * 0.14
    calm = base * (1.0 + ramp[..., None])
    return calm, calm * (1.0 + 0.05 * noise_field(rng, pixels, 5)[..., None])


def _table(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """A wall, and a grained table top below."""
    wall, top = colour(_WALLS), colour(_TABLES)
    below = _below_horizon(rng, pixels)[..., None]
    calm = wall * (1 - below) + top * below
    grain = noise_field(rng, pixels, 24, stretch=8)[..., None] * 0.13
    paper = noise_field(rng, pixels, 6)[..., None] * 0.06
    return calm, calm * (1.0 + grain * below + paper * (1 - below))


def _outdoors(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """Sky with clouds over rough ground."""
    sky, ground = colour(_SKIES), colour(_GROUNDS)
    below = _below_horizon(rng, pixels)[..., None]
    calm = sky * (1 - below) + ground * below
    clouds = np.clip(noise_field(rng, pixels, 6, stretch=2), 0, 1)[..., None] * (1 - below) * 0.55
    rough = (noise_field(rng, pixels, 22) + noise_field(rng, pixels, 9))[..., None] * 0.11 * below
    return calm, (calm * (1 - clouds) + 0.97 * clouds) * (1.0 + rough)


def _lights(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """Discs of light out of focus."""
    base = colour(_WALLS)
    calm = np.broadcast_to(base, (pixels, pixels, 3)) * (1.0 + _ramp(rng, pixels)[..., None] * 0.1)
    discs = Image.new("L", (pixels, pixels), 0)
    draw = ImageDraw.Draw(discs)
    for x, y, r in rng.uniform((0, 0, 0.04), (1, 1, 0.13), (int(rng.integers(8, 18)), 3)) * pixels:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(60, 200)))
    glow = blurred(discs, 0.012 * pixels)[..., None] * 0.42
    tone = 1.0 if base @ _LUMA < 0.6 else 0.45
    return calm, calm * (1 - glow) + (0.5 * base + 0.5 * tone) * glow


def _cloth(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """Cloth with stripes or checks."""
    base = colour(_WALLS)
    calm = np.broadcast_to(base, (pixels, pixels, 3)).copy()
    y, x = np.mgrid[0:pixels, 0:pixels].astype(np.float32) / pixels
    angle, bands = rng.uniform(0, np.pi), rng.uniform(4, 9)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = np.cos(angle) * y - np.sin(angle) * x
    weave = np.tanh(3 * np.sin(2 * np.pi * bands * u))
    if rng.random() < 0.5:
        weave = (weave + np.tanh(3 * np.sin(2 * np.pi * bands * v))) / 2
    return calm, calm * (1.0 + 0.1 * weave + 0.06 * noise_field(rng, pixels, 12))[..., None]


def _ground(rng: np.random.Generator, pixels: int, colour: Pick) -> Scene:
    """Looking down on grass, gravel or plaster."""
    base = colour(_GROUNDS)
    calm = np.broadcast_to(base, (pixels, pixels, 3)).copy()
    rough = np.sum([noise_field(rng, pixels, cells) for cells in (7, 15, 30)], axis=0)
    return calm, calm * (1.0 + 0.1 * rough[..., None])


_SCENES = (_plain, _table, _outdoors, _lights, _cloth, _ground)


def _below_horizon(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """1 below a slightly tilted horizon, 0 above: float32 [S, S]."""
    y, x = (np.mgrid[0:pixels, 0:pixels].astype(np.float32) + 0.5) / pixels
    level = rng.uniform(0.5, 0.85) + (x - 0.5) * rng.uniform(-0.12, 0.12)
    return np.clip((y - level) * pixels / 1.5 + 0.5, 0.0, 1.0)


def _ramp(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """An even slope from -1 to 1 or less, in a random direction: float32 [S, S]."""
    y, x = np.mgrid[0:pixels, 0:pixels].astype(np.float32) * (2.0 / pixels) - 1.0
    angle = rng.uniform(0, 2 * np.pi)
    return (np.cos(angle) * x + np.sin(angle) * y) * 0.7


def _cluttered(
    rng: np.random.Generator, picture: np.ndarray, colours: list[np.ndarray]
) -> np.ndarray:
    """The picture with out-of-focus things lying about, mostly towards the edges."""
    pixels = len(picture)
    image = Image.fromarray(as_bytes(picture))
    draw = ImageDraw.Draw(image)
    for colour in colours:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.32, 0.62)
        centre = 0.5 + far * np.array([np.cos(angle), np.sin(angle)])
        corners = int(rng.integers(3, 7)) if rng.random() < 0.6 else 16
        around = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 2 * np.pi)
        radii = rng.uniform(0.08, 0.24) * rng.uniform(0.6, 1.0, 2)
        shape = centre + np.stack([np.cos(around), np.sin(around)], 1) * radii
        near = picture[tuple(np.clip(centre[::-1] * pixels, 0, pixels - 1).astype(int))]
        red, green, blue = as_bytes(0.7 * colour + 0.3 * near).tolist()
        draw.polygon((shape * pixels).ravel().tolist(), fill=(red, green, blue))
    return blurred(image, rng.uniform(0.008, 0.025) * pixels)
