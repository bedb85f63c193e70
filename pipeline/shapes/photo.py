"""Photos: a thing with colours, light and shadow before a background.

Parts are composited from back to front at the picture's own size with anti-aliased coverage;
each is rounded by its own blurred outline and lit from one direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from pipeline.shapes.background import draw_background, noise_field
from pipeline.shapes.drawing import Part, Thing
from pipeline.shapes.pose import PHOTO_POSES, draw_pose
from pipeline.shapes.raster import Canvas, as_bytes, blurred
from pipeline.shapes.view import View

_FINE = 4


@dataclass(frozen=True)
class PhotoView(View):
    """A photo before it has pixels."""

    def line_width(self, part: int) -> float:
        return self.thing.parts[part].width * self.scale

    def image(self, pixels: int) -> Image.Image:
        rng = np.random.Generator(np.random.PCG64(self.stream))
        lit_from = math.radians(rng.uniform(-150.0, -30.0))  # from above, more or less
        light = np.array([math.cos(lit_from), math.sin(lit_from)], dtype=np.float32)
        calm, full = draw_background(rng, pixels, _main_colours(self.thing))

        silhouette = Image.fromarray(self.mask(pixels).astype(np.uint8) * 255)
        halo = np.clip(blurred(silhouette, 0.05 * pixels) * 2.0, 0.0, 1.0)[..., None]
        picture = (full + (calm - full) * (0.7 * halo)).astype(np.float32)
        picture *= 1.0 - _shadow(rng, silhouette, light)[..., None]

        texture = _texture(rng, pixels)
        for p, part in enumerate(self.thing.parts):
            self._composite(picture, p, part, light, texture, pixels)
        return _exposed(rng, picture)

    def _composite(
        self,
        picture: np.ndarray,
        p: int,
        part: Part,
        light: np.ndarray,
        texture: np.ndarray,
        pixels: int,
    ) -> None:
        """Lays one part over the picture [S, S, 3], in place."""
        path = self.path(p) * pixels
        width = max(self.line_width(p) * pixels, 1.0)
        low, high = path.min(0).tolist(), path.max(0).tolist()
        soft = min(max(0.16 * min(high[0] - low[0], high[1] - low[1]), 1.0), 0.06 * pixels)
        pad = soft * 2 + width / 2 + 1
        x0, y0 = (max(math.floor(c - pad), 0) for c in low)
        x1, y1 = (min(math.ceil(c + pad), pixels) for c in high)
        if x1 - x0 < 3 or y1 - y0 < 3:
            return
        canvas = Canvas(x1 - x0, y1 - y0, paper=0, fine=_FINE, origin=(x0, y0))
        if part.is_surface:
            canvas.fill(path, 255)
        else:
            canvas.stroke(path, width, 255)
        coverage = canvas.result()
        round_ = blurred(coverage, soft)
        crop = picture[y0:y1, x0:x1]
        crop *= (1.0 - 0.28 * round_)[..., None]  # what lies behind is shaded along the edge

        shade = 0.62 + 0.38 * np.minimum(np.maximum(round_ * 2.0 - 0.75, 0.0), 1.0)
        shade *= 1.0 + 0.9 * _slope(round_, light, soft)
        shade *= texture[y0:y1, x0:x1]
        gleam = 0.0
        if part.is_surface:
            # Where a pixel lies between the part's sides, from -1 to 1.
            u = (np.arange(x0, x1, dtype=np.float32) + 0.5 - (low[0] + high[0]) / 2) * 2
            v = (np.arange(y0, y1, dtype=np.float32) + 0.5 - (low[1] + high[1]) / 2) * 2
            u, v = u / max(high[0] - low[0], 1.0), (v / max(high[1] - low[1], 1.0))[:, None]
            shade *= (1.0 + 0.16 * light[0] * u) + (0.16 * light[1]) * v
            across = np.exp((u - 0.45 * light[0]) ** 2 * (-1 / 0.09))
            down = np.exp((v - 0.45 * light[1]) ** 2 * (-1 / 0.09))
            gleam = ((0.55 * part.gloss) * down * across)[..., None]
        lit = shade[..., None] * np.array(part.colour, dtype=np.float32) + gleam - crop
        lit *= np.asarray(coverage, dtype=np.float32)[..., None] / 255.0
        crop += lit


def draw_photo_view(thing: Thing, rng: np.random.Generator, stream: tuple[int, ...]) -> PhotoView:
    """How the thing stands before the camera."""
    pose = draw_pose(rng, thing.points, PHOTO_POSES)
    return PhotoView(
        thing=thing,
        points=pose(thing.points),
        scale=pose.scale,
        drawn=np.ones(len(thing.parts), dtype=bool),
        keypoints=pose(thing.keypoints),
        stream=stream,
    )


def _main_colours(thing: Thing) -> np.ndarray:
    """The colours of the parts that make up most of the thing: [C, 3]."""
    x, y = thing.points[:, 0], thing.points[:, 1]
    cross = np.zeros(len(x))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[thing.bounds[1:] - 1] = 0.0
    surface = np.array([part.is_surface for part in thing.parts])
    width = np.array([part.width for part in thing.parts])
    step = np.zeros(len(x))
    step[:-1] = np.hypot(np.diff(x), np.diff(y))
    step[thing.bounds[1:] - 1] = 0.0
    area = np.where(
        surface,
        np.abs(np.add.reduceat(cross, thing.bounds[:-1])) / 2,
        np.add.reduceat(step, thing.bounds[:-1]) * width,
    )
    colours = np.array([part.colour for part in thing.parts])
    return colours[area > 0.12 * area.max()]


def _shadow(rng: np.random.Generator, silhouette: Image.Image, light: np.ndarray) -> np.ndarray:
    """How much light the object's soft shadow takes away: float32 [S, S] in 0..1."""
    pixels = silhouette.width
    reach = rng.uniform(0.02, 0.07) * pixels
    dx, dy = (light * reach).round().astype(int).tolist()
    moved = Image.new("L", silhouette.size, 0)
    moved.paste(silhouette, (-dx, -dy))
    return blurred(moved, rng.uniform(0.015, 0.05) * pixels) * rng.uniform(0.25, 0.55)


def _texture(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """The object's material as factors of its colour: float32 [S, S]."""
    mottled = noise_field(rng, pixels, int(rng.integers(5, 12)))
    grain = noise_field(rng, pixels, int(rng.integers(16, 40)), stretch=int(rng.choice([1, 1, 4])))
    return 1.0 + rng.uniform(0.02, 0.10) * mottled + rng.uniform(0.02, 0.13) * grain


def _slope(height: np.ndarray, light: np.ndarray, soft: float) -> np.ndarray:
    """How much a surface of this height [h, w] faces the light: float32 [h, w], about ±0.4."""
    slope = np.zeros_like(height)
    slope[:, 1:-1] += (height[:, :-2] - height[:, 2:]) * light[0]
    slope[1:-1] += (height[:-2] - height[2:]) * light[1]
    return slope * (0.45 * soft)


def _exposed(rng: np.random.Generator, picture: np.ndarray) -> Image.Image:
    """The picture as a camera records it: vignette, exposure, cast, focus, sensor noise."""
    pixels = len(picture)
    across = (np.linspace(-1.0, 1.0, pixels, dtype=np.float32) ** 2)[:, None]
    vignette = 1.0 - rng.uniform(0.0, 0.14) * (across + across.T)
    cast = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.9, 1.08)
    picture = picture * (vignette[..., None] * cast.astype(np.float32))
    grain, blur = rng.uniform(0.005, 0.03), rng.uniform(0.002, 0.006)
    out_of_focus = rng.random() < 0.3
    # Last, as only the noise takes more numbers in a larger picture.
    noise = rng.standard_normal((pixels, pixels, 3), dtype=np.float32)
    picture += noise * np.float32(grain)
    image = Image.fromarray(as_bytes(picture))
    if out_of_focus:
        image = image.filter(ImageFilter.GaussianBlur(blur * pixels))
    return image
