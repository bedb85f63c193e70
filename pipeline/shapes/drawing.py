"""An instance of a category: parts from back to front, and the keypoints that sit on them.

A category function receives a `Drawing`, draws its random proportions from it, adds surfaces
and lines, and marks eight points. `Drawing.finish` gives the `Thing` that both the photo and the
sketch are made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.shapes.colours import Colour, tint
from pipeline.shapes.curves import Path, Point, inside

N_KEYPOINTS = 8
_SPACING = 0.09  # of the points along a path, in object units
_COVER_MARGIN = 0.045  # a point this near to the rim of what lies over it still counts as seen


@dataclass(frozen=True)
class Part:
    """One surface (filled, closed) or line (thin, open or closed) of a thing.

    `width` is a line's thickness in object units, 0 for a surface. `detail` is how readily a
    sketch leaves the part out: 0 never, 1 always at full abstraction. `gloss` is the strength of
    a highlight, 0..1.
    """

    colour: Colour
    width: float
    detail: float
    gloss: float

    @property
    def is_surface(self) -> bool:
        return self.width == 0.0


@dataclass(frozen=True)
class Thing:
    """An instance in object units: its bounding box is centred on 0, its longer side is 2.

    `points` float64 [M, 2] holds the paths of all parts one after the other, closed ones with
    their first point repeated; `bounds` int [P + 1] are the limits of the parts in it.
    `keypoints` float64 [8, 2]; `owners` int [8] is the part each keypoint sits on.
    """

    category: str
    parts: tuple[Part, ...]
    points: np.ndarray
    bounds: np.ndarray
    keypoint_names: tuple[str, ...]
    keypoints: np.ndarray
    owners: np.ndarray

    @cached_property
    def covers(self) -> np.ndarray:
        """Whether part p hides keypoint k: bool [P, 8]. Only surfaces in front hide."""
        ring = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)]) * _COVER_MARGIN
        probes = (self.keypoints[:, None, :] + ring).reshape(-1, 2)
        hidden = np.zeros((len(self.parts), N_KEYPOINTS), dtype=bool)
        for p in range(int(self.owners.min()) + 1, len(self.parts)):
            if self.parts[p].is_surface:
                outline = self.points[self.bounds[p] : self.bounds[p + 1] - 1]
                hidden[p] = inside(probes, outline).reshape(N_KEYPOINTS, 4).all(1)
                hidden[p] &= self.owners < p
        return hidden


class Drawing:
    """Where a category function draws one instance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._parts: list[Part] = []
        self._paths: list[Path] = []
        self._names: list[str] = []
        self._keypoints: list[Point] = []
        self._owners: list[int] = []

    def between(self, low: float, high: float) -> float:
        """A proportion."""
        return float(self._rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A number of things, both ends included."""
        return int(self._rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """Whether an optional part is there."""
        return bool(self._rng.random() < probability)

    def colour(self, *names: str) -> Colour:
        """One of the named colours, slightly off."""
        return tint(self._rng, names)

    def surface(
        self, path: Path, colour: Colour, *, detail: float = 0.0, gloss: float = 0.15
    ) -> None:
        """Adds a filled outline in front of what is there."""
        self._paths.append(np.concatenate([path, path[:1]]))
        self._parts.append(Part(colour, 0.0, detail, gloss))

    def line(
        self,
        path: Path,
        colour: Colour,
        width: float = 0.035,
        *,
        closed: bool = False,
        detail: float = 0.0,
    ) -> None:
        """Adds a thin line in front of what is there."""
        self._paths.append(np.concatenate([path, path[:1]]) if closed else path)
        self._parts.append(Part(colour, width, detail, 0.0))

    def mark(self, name: str, x: float, y: float) -> None:
        """Marks a keypoint on the part added last: moved, hidden or left out together with it."""
        self._names.append(name)
        self._keypoints.append((float(x), float(y)))
        self._owners.append(len(self._parts) - 1)

    def finish(self, category: str) -> Thing:
        """The thing, in object units."""
        low = np.min([path.min(0) for path in self._paths], axis=0)
        high = np.max([path.max(0) for path in self._paths], axis=0)
        unit = (high - low).max() / 2
        lengths = np.array([len(path) for path in self._paths])
        paths = (np.concatenate(self._paths) - (low + high) / 2) / unit
        points, bounds = _densified(paths, lengths)
        return Thing(
            category=category,
            parts=tuple(
                Part(part.colour, part.width / unit, part.detail, part.gloss)
                for part in self._parts
            ),
            points=points,
            bounds=bounds,
            keypoint_names=tuple(self._names),
            keypoints=(np.array(self._keypoints) - (low + high) / 2) / unit,
            owners=np.array(self._owners),
        )


def _densified(points: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long segments of the paths divided, so that warps bend them: points [M, 2], bounds [P + 1].

    `points` [N, 2] holds the paths one after the other, `lengths` [P] their numbers of points.
    """
    last = np.cumsum(lengths) - 1
    step = np.zeros_like(points)
    step[:-1] = np.diff(points, axis=0)
    step[last] = 0.0
    pieces = np.maximum(np.ceil(np.hypot(step[:, 0], step[:, 1]) / _SPACING), 1).astype(np.int64)
    first = np.cumsum(pieces) - pieces
    within = np.arange(pieces.sum()) - np.repeat(first, pieces)
    step = np.repeat(step / pieces[:, None], pieces, axis=0)
    dense = np.repeat(points, pieces, axis=0) + step * within[:, None]
    return dense, np.concatenate([[0], np.cumsum(pieces)[last]])
