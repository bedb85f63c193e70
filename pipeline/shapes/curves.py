"""Paths in the plane: float64 [N, 2] arrays of (x, y), x to the right, y down.

Category definitions are written with these. Angles are in degrees and, y pointing down, run
clockwise as seen: 0 is right, 90 is down. A closed path does not repeat its first point.
"""

from __future__ import annotations

import math

import numpy as np

Path = np.ndarray
"""float64 [N, 2]."""

Point = tuple[float, float]


def polygon(*corners: Point) -> Path:
    """The corners as they are."""
    return np.array(corners, dtype=np.float64)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, n: int = 16) -> Path:
    """`n` points of an ellipse around (cx, cy) from angle `start` to angle `stop`."""
    angles = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def ellipse(
    cx: float, cy: float, rx: float, ry: float | None = None, turn: float = 0.0, n: int = 24
) -> Path:
    """A closed ellipse (a circle without `ry`), its axes turned by `turn` degrees."""
    path = arc(0.0, 0.0, rx, rx if ry is None else ry, 0.0, 360.0 * (n - 1) / n, n)
    return turned(path, turn) + np.array([cx, cy])


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Path:
    """A closed rectangle; `corner` is the radius of its corners."""
    if corner <= 0.0:
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    r = min(corner, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    return np.concatenate(
        [
            arc(x0 + r, y0 + r, r, r, 180, 270, 5),
            arc(x1 - r, y0 + r, r, r, 270, 360, 5),
            arc(x1 - r, y1 - r, r, r, 0, 90, 5),
            arc(x0 + r, y1 - r, r, r, 90, 180, 5),
        ]
    )


def smooth(*knots: Point, closed: bool = True, steps: int = 5) -> Path:
    """A Catmull-Rom curve through the knots, `steps` points for each piece.

    The knots are points of the curve, so a keypoint placed on a knot lies on the outline.
    """
    p = np.array(knots, dtype=np.float64)
    if closed:
        before, here, after, beyond = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        before, here, after, beyond = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, here, after, beyond))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    ).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def strip(path: Path, start: float, stop: float | None = None) -> Path:
    """The closed outline of a band along an open path, its width going from `start` to `stop`."""
    ahead = np.gradient(path, axis=0)
    ahead /= np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    half = np.linspace(start, start if stop is None else stop, len(path))[:, None] / 2
    return np.concatenate([path + aside * half, (path - aside * half)[::-1]])


def turned(path: Path, degrees: float, about: Point = (0.0, 0.0)) -> Path:
    """The path turned clockwise (as seen) about a point."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (path - about) @ np.array([[c, s], [-s, c]]) + about


def inside(points: np.ndarray, outline: Path) -> np.ndarray:
    """Which of the points [P, 2] lie inside a closed outline [N, 2] (even-odd rule): bool [P]."""
    x, y = points[:, :1], points[:, 1:]
    ax, ay = outline[None, :, 0], outline[None, :, 1]
    after = np.roll(outline, -1, 0)
    bx, by = after[None, :, 0], after[None, :, 1]
    straddles = (ay > y) != (by > y)
    rise = np.where(by == ay, 1.0, by - ay)
    crossings = straddles & (x < ax + (bx - ax) * (y - ay) / rise)
    return crossings.sum(1) % 2 == 1
