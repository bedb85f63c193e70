"""How a thing lies in the frame: mirrored or not, turned, squeezed, large or small, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PoseRange:
    """What poses are drawn from, evenly.

    `turn` degrees either way; `extent` the longer side of the object's bounding box as a share of
    the frame's side; `squeeze` how far width and height are stretched against each other;
    `margin` how near the box comes to the frame's edge, as a share of its side (negative: how far
    it may reach beyond).
    """

    turn: float
    extent: tuple[float, float]
    squeeze: float
    margin: float


PHOTO_POSES = PoseRange(turn=45.0, extent=(0.55, 0.95), squeeze=0.06, margin=-0.03)
SKETCH_POSES = PoseRange(turn=45.0, extent=(0.5, 0.95), squeeze=0.10, margin=0.02)


@dataclass(frozen=True)
class Pose:
    """An affine map from object units to the unit frame: `points @ matrix + shift`.

    `matrix` float64 [2, 2], `shift` float64 [2]. The frame is [0, 1] x [0, 1].
    """

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points [M, 2] in object units to points [M, 2] in the unit frame."""
        return points @ self.matrix + self.shift

    @property
    def scale(self) -> float:
        """Sides of the frame per object unit, for the thickness of lines."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix))))


def draw_pose(rng: np.random.Generator, points: np.ndarray, poses: PoseRange) -> Pose:
    """A pose for these points [M, 2], fitted to their extent after turning."""
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    angle = math.radians(rng.uniform(-poses.turn, poses.turn))
    stretch = math.exp(rng.uniform(-poses.squeeze, poses.squeeze))
    extent = rng.uniform(*poses.extent)
    where = rng.uniform(0.0, 1.0, 2)

    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[mirror * stretch, 0.0], [0.0, 1.0 / stretch]]) @ np.array([[c, s], [-s, c]])
    placed = points @ matrix
    low, high = placed.min(0), placed.max(0)
    scale = extent / float((high - low).max())
    room = 1.0 - 2 * poses.margin - scale * (high - low)
    return Pose(matrix * scale, poses.margin + where * np.maximum(room, 0.0) - scale * low)
