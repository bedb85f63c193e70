"""Sketches: what a person's hand makes of a thing. Dark strokes on white paper.

Between thing and paper stand, in this order: leaving out (details go first, the more the more
abstract), misplacing of parts, a smooth distortion of the whole, the pose, and the hand (tremor,
ends that do not meet, gaps, pressure, tracing twice). Keypoints follow all but the hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from pipeline.shapes.drawing import Thing
from pipeline.shapes.pose import SKETCH_POSES, draw_pose
from pipeline.shapes.raster import Canvas
from pipeline.shapes.view import View

_FINE = 3
_PAPER = 255
# The hand's wavering: three waves across, three up and down, of falling length and size.
_TREMOR_WAVES = np.array([[4.0, 2.0, 10.0, 8.0, 5.5, 3.0], [3.0, 5.5, 8.0, 10.0, 2.0, 4.0]])
_TREMOR_SIZES = np.array([1.0, 0.8, 0.45, 0.45, 0.8, 1.0])


@dataclass(frozen=True)
class _Hand:
    """How the hand moves over the paper, in shares of the frame's side.

    `traces` are the passes over the drawing, each with the path [N, 2] of every part. For each
    part, `gaps` [P, 2] say whether and where a stroke is interrupted and for how long, and
    `pressure` [P, 2] what the pen's width is multiplied by at a stroke's start and end.
    """

    ink: int
    carelessness: float
    traces: tuple[list[np.ndarray], ...]
    gaps: np.ndarray
    pressure: np.ndarray


@dataclass(frozen=True)
class SketchView(View):
    """A sketch before it has pixels. `width` is the pen's, as a share of the frame's side."""

    width: float

    def line_width(self, part: int) -> float:
        return self.width

    def path(self, part: int) -> np.ndarray:
        return self._hand.traces[0][part]

    def image(self, pixels: int) -> Image.Image:
        hand = self._hand
        canvas = Canvas(pixels, pixels, paper=_PAPER, fine=_FINE)
        widths = np.maximum(hand.pressure * self.width * pixels, 1.0).tolist()
        for p in np.flatnonzero(self.drawn).tolist():
            if self.thing.parts[p].is_surface:
                canvas.fill(self.path(p) * pixels, _PAPER)
            (start, end), (where, size) = widths[p], hand.gaps[p].tolist()
            for trace in hand.traces:
                for piece in _with_gap(trace[p], where, size, hand.carelessness):
                    canvas.stroke(piece * pixels, start, hand.ink, end)
        return canvas.result().convert("RGB")

    @cached_property
    def _hand(self) -> _Hand:
        rng = np.random.Generator(np.random.PCG64(self.stream))
        n_parts = len(self.thing.parts)
        carelessness = rng.uniform(0.3, 1.0)
        passes = 2 if rng.random() < 0.18 else 1
        starts = rng.random(n_parts)
        drift = rng.normal(0.0, 0.012 * carelessness * self.scale, (n_parts, 2))
        return _Hand(
            ink=int(rng.integers(0, 70)),
            carelessness=carelessness,
            traces=tuple(
                self._trace(_tremor(rng, self.thing, carelessness) * self.scale, starts, drift)
                for _ in range(passes)
            ),
            gaps=rng.random((n_parts, 2)),
            pressure=rng.uniform(0.8, 1.2, (n_parts, 2)),
        )

    def _trace(self, tremor: np.ndarray, starts: np.ndarray, drift: np.ndarray) -> list[np.ndarray]:
        """The parts' paths as drawn: begun anywhere, their ends apart by twice `drift` [P, 2]."""
        paths = np.split(self.points + tremor, self.thing.bounds[1:-1])
        for p, part in enumerate(self.thing.parts):
            if part.is_surface:
                turn = int(starts[p] * (len(paths[p]) - 1))
                paths[p] = np.concatenate([paths[p][turn:-1], paths[p][: turn + 1]])
            paths[p] = paths[p] + drift[p] * np.linspace(-1.0, 1.0, len(paths[p]))[:, None]
        return paths


def draw_sketch_view(thing: Thing, rng: np.random.Generator, stream: tuple[int, ...]) -> SketchView:
    """How one person draws the thing, pose included."""
    n_parts = len(thing.parts)
    abstraction, clumsiness = rng.random(2)
    detail = np.array([part.detail for part in thing.parts])
    drawn = rng.random(n_parts) >= detail * abstraction

    lengths = np.diff(thing.bounds)
    # Parts that can be left out are details and stand free; the others hold the thing together.
    looseness = np.where(detail > 0.0, 0.022, 0.008) * (0.5 + clumsiness)
    misplaced = rng.normal(0.0, 1.0, (n_parts, 2)) * looseness[:, None]
    both = np.concatenate([thing.points, thing.keypoints])
    both = both + _distortion(rng, both, 0.015 + 0.04 * clumsiness)
    both += np.concatenate([np.repeat(misplaced, lengths, axis=0), misplaced[thing.owners]])
    points, keypoints = both[: len(thing.points)], both[len(thing.points) :]

    pose = draw_pose(rng, points, SKETCH_POSES)
    return SketchView(
        thing=thing,
        points=pose(points),
        scale=pose.scale,
        drawn=drawn,
        keypoints=pose(keypoints),
        stream=stream,
        # Small drawings are made with finer lines, or they would clog.
        width=float(np.clip(rng.uniform(0.032, 0.06) * pose.scale, 0.011, 0.026)),
    )


def _distortion(rng: np.random.Generator, points: np.ndarray, size: float) -> np.ndarray:
    """A smooth displacement of the plane at points [M, 2], object units."""
    waves = rng.uniform(-2.4, 2.4, (2, 4))
    phases = rng.uniform(0.0, 2 * np.pi, 4)
    return np.sin(points @ waves + phases) @ rng.normal(0.0, size, (4, 2))


def _tremor(rng: np.random.Generator, thing: Thing, carelessness: float) -> np.ndarray:
    """The hand's wavering along the strokes, different for each part: [M, 2], object units."""
    phases = np.repeat(rng.uniform(0, 2 * np.pi, (len(thing.parts), 6)), np.diff(thing.bounds), 0)
    waves = np.sin(thing.points @ _TREMOR_WAVES + phases) * _TREMOR_SIZES
    return np.stack([waves[:, :3].sum(1), waves[:, 3:].sum(1)], axis=1) * (0.016 * carelessness)


def _with_gap(
    path: np.ndarray, where: float, size: float, carelessness: float
) -> tuple[np.ndarray, ...]:
    """The path in one piece or, now and then, in two with a gap between."""
    length = int(len(path) * 0.16 * size)
    if where > 0.5 * carelessness or length < 1 or len(path) < 14:
        return (path,)
    first = 3 + int((len(path) - 7 - length) * where / (0.5 * carelessness))
    return path[: first + 1], path[first + length :]
