"""Animals. From the side they look right; from the front left and right are the drawing's."""

from __future__ import annotations

import math

import numpy as np

from pipeline.shapes.colours import scaled
from pipeline.shapes.curves import ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def eye(d: Drawing, name: str, x: float, y: float, r: float) -> None:
    """White, with a pupil: readable on any fur."""
    d.surface(ellipse(x, y, r, n=12), (0.97, 0.97, 0.95), detail=0.1)
    d.surface(ellipse(x + r * 0.2, y, r * 0.55, n=10), (0.07, 0.07, 0.08), detail=0.05)
    d.mark(name, x, y)


def cat(d: Drawing) -> None:
    """A cat sitting to the front, its tail curling up on the right."""
    fur = d.colour("orange", "grey", "slate", "tan", "cream", "black", "brown")
    pale = d.colour("cream", "white")
    r, rh = d.between(0.42, 0.55), d.between(0.36, 0.44)
    w, h = d.between(0.4, 0.56), d.between(0.75, 1.05)
    reach, up = d.between(0.3, 0.5), d.between(0.25, 0.75)
    tx, ty = w + reach * 0.75, h - 0.2 - up
    d.surface(
        strip(
            smooth(
                (w * 0.4, h - 0.12), (w + reach * 0.7, h - 0.12), (w + reach, h - 0.3 - up * 0.4),
                (tx, ty), closed=False,
            ),
            0.19, 0.12,
        ),
        fur,
    )
    d.mark("tail tip", tx, ty)
    d.surface(
        smooth(
            (-r * 0.5, 0.1), (r * 0.5, 0.1), (w * 0.9, h * 0.55), (w, h * 0.92), (w * 0.5, h),
            (-w * 0.5, h), (-w, h * 0.92), (-w * 0.9, h * 0.55),
        ),
        fur,
    )
    d.surface(
        smooth((-r * 0.35, 0.2), (r * 0.35, 0.2), (r * 0.3, h * 0.65), (-r * 0.3, h * 0.65)), pale,
        detail=0.75,
    )
    for side, name in ((-1, "left paw"), (1, "right paw")):
        x = side * w * 0.36
        d.surface(
            smooth(
                (x - 0.13, h * 0.55), (x + 0.13, h * 0.55), (x + 0.16, h * 0.95), (x, h + 0.04),
                (x - 0.16, h * 0.95),
            ),
            scaled(fur, 1.08), detail=0.05,
        )
        d.mark(name, x, h)
    ear, out = d.between(0.3, 0.48), d.between(0.72, 0.98)
    for side, name in ((-1, "left ear"), (1, "right ear")):
        tip = (side * r * out, -rh - ear * 0.75)
        d.surface(polygon((side * r * 0.98, -rh * 0.1), tip, (side * r * 0.16, -rh * 0.85)), fur)
        d.mark(name, *tip)
        d.surface(
            polygon(
                (side * r * 0.84, -rh * 0.45), (tip[0] * 0.97, tip[1] + ear * 0.3),
                (side * r * 0.42, -rh * 0.8),
            ),
            d.colour("pink"), detail=0.7,
        )
    d.surface(ellipse(0, 0, r, rh, n=26), fur)
    if d.chance(0.5):
        for x in (-0.14, 0.0, 0.14):
            d.surface(
                polygon((x - 0.035, -rh * 0.93), (x + 0.035, -rh * 0.93), (x, -rh * 0.5)),
                scaled(fur, 0.55), detail=0.6,
            )
    gap, size = r * d.between(0.4, 0.5), d.between(0.09, 0.13)
    for side, name in ((-1, "left eye"), (1, "right eye")):
        d.surface(
            ellipse(side * gap, -rh * 0.08, size, size * 0.95, n=14), d.colour("lime", "yellow"),
            detail=0.05,
        )
        d.surface(
            ellipse(side * gap, -rh * 0.08, size * 0.4, size * 0.8, n=10), (0.05, 0.05, 0.06),
            detail=0.1,
        )
        d.mark(name, side * gap, -rh * 0.08)
    y = rh * 0.3
    d.surface(ellipse(0, y + 0.13, 0.2, 0.14, n=16), pale, detail=0.9)
    for side in (-1, 1):
        for rise in (-0.04, 0.08):
            d.line(
                polygon((side * 0.14, y + 0.1 + rise * 0.3), (side * r * 1.28, y + 0.02 + rise)),
                scaled(fur, 0.4) if sum(fur) > 1.2 else pale, 0.022, detail=0.45,
            )
    d.surface(
        polygon((-0.08, y - 0.02), (0.08, y - 0.02), (0, y + 0.08)), d.colour("pink", "brown"),
    )
    d.mark("nose", 0, y + 0.02)
    d.line(
        smooth(
            (-0.11, y + 0.17), (-0.04, y + 0.2), (0, y + 0.1), (0.04, y + 0.2), (0.11, y + 0.17),
            closed=False,
        ),
        (0.2, 0.12, 0.12), 0.025, detail=0.4,
    )


def rabbit(d: Drawing) -> None:
    """A rabbit sitting, ears up or laid back."""
    fur = d.colour("brown", "tan", "grey", "white", "cream")
    w, h = d.between(0.5, 0.66), d.between(0.42, 0.56)
    r, hx = d.between(0.26, 0.34), d.between(0.5, 0.66)
    hy, ear, lean = -d.between(0.4, 0.58), d.between(0.55, 0.9), d.between(-0.05, 0.6)
    d.surface(ellipse(-w * 0.98, h * 0.35, 0.17, 0.16, n=16), d.colour("white", "cream"))
    d.mark("scut", -w * 0.98 - 0.1, h * 0.35)
    for shift, name, part in ((0.13, "far ear tip", 0.86), (-0.1, "near ear tip", 1.0)):
        x, y = hx + shift - 0.02, hy - r * 0.7
        tip = (x - ear * lean + shift * 0.7, y - ear * math.sqrt(max(1 - lean**2, 0.1)))
        path = smooth(
            (x, y + 0.1), ((x + tip[0]) / 2 + 0.03, (y + tip[1]) / 2), tip, closed=False, steps=6,
        )
        fat = np.sin(np.linspace(0.35, np.pi, len(path)))[:, None]
        d.surface(_leaf(path, fat * 0.11), scaled(fur, part))
        d.mark(name, *tip)
        if shift < 0:
            d.surface(_leaf(path[2:-2], fat[2:-2] * 0.05), d.colour("pink"), detail=0.7)
    d.surface(
        smooth((hx * 0.35, 0.0), (hx * 0.95, 0.1), (hx + 0.12, h + 0.24), (hx - 0.12, h + 0.3)),
        scaled(fur, 0.9),
    )
    d.mark("front paw", hx + 0.06, h + 0.25)
    d.surface(
        smooth(
            (hx * 0.75, hy + r * 0.9), (hx * 0.9, 0.1), (hx * 0.6, h), (0, h + 0.2), (-w * 0.75, h),
            (-w, h * 0.3), (-w * 0.75, -h * 0.42), (-w * 0.2, -h * 0.78), (hx * 0.35, hy * 0.9),
        ),
        fur,
    )
    d.mark("back", -w * 0.2, -h * 0.78)
    d.surface(
        smooth(
            (-w * 0.7, h * 0.5), (-w * 0.3, -h * 0.02), (w * 0.2, h * 0.3), (w * 0.12, h * 0.85),
            (w * 0.62, h + 0.18), (w * 0.4, h + 0.3), (-w * 0.5, h + 0.29), (-w * 0.72, h + 0.1),
        ),
        scaled(fur, 1.08),
    )
    d.mark("hind foot", w * 0.6, h + 0.22)
    d.surface(
        smooth(
            (hx - r, hy), (hx - r * 0.5, hy - r * 0.85), (hx + r * 0.4, hy - r * 0.8),
            (hx + r * 1.25, hy + r * 0.2), (hx + r * 0.95, hy + r * 0.72), (hx, hy + r * 0.9),
            (hx - r * 0.8, hy + r * 0.7),
        ),
        fur,
    )
    d.surface(
        ellipse(hx + r * 1.18, hy + r * 0.25, 0.07, 0.06, n=10), d.colour("pink", "brown"),
        detail=0.1,
    )
    d.mark("nose", hx + r * 1.2, hy + r * 0.25)
    for rise in (0.0, 0.12):
        d.line(
            polygon((hx + r * 0.85, hy + r * 0.45), (hx + r * 0.4, hy + r * 0.4 + rise)),
            scaled(fur, 0.5), 0.02, detail=0.8,
        )
    eye(d, "eye", hx + r * 0.3, hy - r * 0.15, d.between(0.07, 0.1))


def elephant(d: Drawing) -> None:
    """An elephant with a great ear, tusk and trunk."""
    w, h = d.between(0.6, 0.75), d.between(0.42, 0.54)
    skin = d.colour("grey", "grey", "slate", "silver", "tan", "sky")
    leg, thick = d.between(0.42, 0.62), d.between(0.22, 0.3)
    foot = h * 0.6 + leg
    end = (-w - d.between(0.18, 0.3), d.between(0.15, 0.4))
    d.line(
        smooth((-w * 0.92, -h * 0.35), (end[0] + 0.02, 0.0), end, closed=False), scaled(skin, 0.75),
        0.06,
    )
    d.mark("tail tip", *end)
    for x in (-w * 0.38, w * 0.4):
        d.surface(
            polygon(
                (x - thick / 2, 0), (x + thick / 2, 0), (x + thick / 2, foot - 0.05),
                (x - thick / 2, foot - 0.05),
            ),
            scaled(skin, 0.72), detail=0.15,
        )
    for x, name in ((-w * 0.72, "hind foot"), (w * 0.74, "front foot")):
        d.surface(
            smooth(
                (x - thick / 2, -0.1), (x + thick / 2, -0.1), (x + thick * 0.48, foot * 0.6),
                (x + thick * 0.56, foot), (x - thick * 0.56, foot), (x - thick * 0.48, foot * 0.6),
                steps=3,
            ),
            scaled(skin, 0.93),
        )
        d.mark(name, x, foot)
    d.surface(
        smooth(
            (-w, 0), (-w * 0.85, -h * 0.65), (-w * 0.2, -h), (w * 0.55, -h * 0.85),
            (w * 0.95, -h * 0.2), (w * 0.75, h * 0.55), (0, h * 0.72), (-w * 0.75, h * 0.6),
        ),
        skin,
    )
    d.mark("back", -w * 0.2, -h)
    r, hx, hy = d.between(0.33, 0.4), w + 0.1, -h * d.between(0.55, 0.85)
    long, curl = d.between(0.7, 1.0), d.between(0.1, 0.42)
    tip = (hx + r * 0.9 + curl, hy + long)
    d.surface(
        strip(
            smooth(
                (hx + r * 0.35, hy + 0.05), (hx + r * 0.85, hy + long * 0.42),
                (hx + r * 0.8, hy + long * 0.85), tip, closed=False, steps=6,
            ),
            r * 1.0, 0.13,
        ),
        skin,
    )
    d.mark("trunk tip", *tip)
    tx, ty = hx + r * 0.62, hy + r * 0.72
    tusk = (tx + d.between(0.25, 0.42), ty + d.between(0.08, 0.24))
    d.surface(
        smooth(
            (tx - 0.05, ty - 0.06), (tx + 0.16, ty + 0.09), tusk, (tx + 0.1, ty + 0.2),
            (tx - 0.1, ty + 0.1), steps=3,
        ),
        d.colour("cream", "white"),
    )
    d.mark("tusk tip", *tusk)
    d.surface(ellipse(hx + 0.03, hy, r, r * 0.98, n=22), skin)
    ew, eh = d.between(0.28, 0.38), d.between(0.38, 0.52)
    ex, ey = hx - r * 0.7, hy + 0.02
    d.surface(
        smooth(
            (ex + ew * 0.75, ey - eh * 0.55), (ex, ey - eh * 0.85), (ex - ew, ey - eh * 0.35),
            (ex - ew * 0.8, ey + eh * 0.5), (ex - ew * 0.05, ey + eh),
            (ex + ew * 0.5, ey + eh * 0.4),
        ),
        scaled(skin, 0.85),
    )
    d.mark("ear lobe", ex - ew * 0.05, ey + eh)
    eye(d, "eye", hx + r * 0.45, hy - r * 0.2, d.between(0.055, 0.08))


def snail(d: Drawing) -> None:
    """A snail with a spiral shell and two feelers."""
    r, rx = d.between(0.5, 0.68), d.between(0.9, 1.12)
    skin = d.colour("tan", "cream", "brown", "grey", "lime")
    shell = d.colour("orange", "brown", "red", "violet", "yellow", "teal")
    base, neck = r * 0.8, d.between(0.75, 1.0)
    up = d.between(0.1, 0.5)
    tail = -d.between(0.85, 1.15)
    for dx, name in ((-0.1, "rear feeler"), (0.12, "front feeler")):
        tip = (neck + dx + d.between(0.02, 0.16), base - up - d.between(0.5, 0.66))
        d.line(polygon((neck + dx * 0.5, base - up - 0.1), tip), skin, 0.05)
        d.surface(ellipse(*tip, 0.06, n=10), scaled(skin, 0.7), detail=0.3)
        d.mark(name, *tip)
    d.surface(
        smooth(
            (tail, base + 0.18), (-0.4, base - 0.1), (neck * 0.55, base - 0.12),
            (neck - 0.2, base - up), (neck, base - up - 0.16), (neck + 0.22, base - up),
            (neck + 0.1, base), (neck * 0.7, base + 0.2), (0, base + 0.22),
        ),
        skin,
    )
    d.mark("tail tip", tail, base + 0.18)
    d.mark("muzzle", neck + 0.22, base - up)
    cx = d.between(-0.22, -0.05)
    d.surface(ellipse(cx, 0.0, r * rx, r, n=28), shell, gloss=0.4)
    d.mark("shell top", cx, -r)
    d.mark("shell back", cx - r * rx, 0)
    turns = d.between(1.6, 2.3)
    t = np.linspace(0.04, 1.0, 44)
    angle = 2 * np.pi * turns * (1 - t) + np.pi * 0.5
    spiral = np.stack([cx + r * rx * 0.98 * t * np.cos(angle), r * 0.98 * t * np.sin(angle)], 1)
    d.line(spiral, scaled(shell, 0.5), 0.06)
    d.mark("shell heart", cx, 0)
    d.surface(ellipse(neck + 0.05, base - up - 0.02, 0.045, n=8), (0.08, 0.07, 0.07), detail=0.4)
    d.mark("eye", neck + 0.05, base - up - 0.02)


def turtle(d: Drawing) -> None:
    """A turtle walking: a patterned dome, head forward, two feet in view."""
    w, h, head = d.between(0.62, 0.78), d.between(0.45, 0.72), d.between(0.17, 0.24)
    skin = d.colour("lime", "green", "tan", "yellow")
    shell = d.colour("green", "brown", "teal", "orange")
    hx, hy = w + d.between(0.18, 0.34), -d.between(0.02, 0.32)
    tail = -w - d.between(0.15, 0.3)
    d.surface(polygon((-w * 0.8, 0.0), (tail, 0.16), (-w * 0.75, 0.18)), skin)
    d.mark("tail tip", tail, 0.16)
    drop, fat = d.between(0.3, 0.44), d.between(0.13, 0.2)
    for x, swing, name in ((-w * 0.58, -0.1, "hind foot"), (w * 0.58, 0.1, "front foot")):
        d.surface(
            smooth(
                (x - fat, 0.02), (x + fat, 0.02), (x + fat + swing, drop), (x + swing, drop + 0.06),
                (x - fat + swing, drop),
            ),
            scaled(skin, 0.92),
        )
        d.mark(name, x + swing, drop + 0.04)
    d.surface(
        strip(smooth((w * 0.6, 0.06), (w * 0.95, 0.02), (hx, hy), closed=False), 0.24, 0.22), skin,
    )
    d.surface(
        smooth(
            (hx - head * 0.8, hy - head * 0.3), (hx + head * 0.1, hy - head * 0.85),
            (hx + head * 1.15, hy - head * 0.1), (hx + head * 0.9, hy + head * 0.55),
            (hx, hy + head * 0.75), (hx - head * 0.8, hy + head * 0.5),
        ),
        skin,
    )
    d.mark("muzzle", hx + head * 1.15, hy)
    d.surface(
        smooth(
            (-w, 0.1), (-w * 0.88, -h * 0.45), (-w * 0.45, -h * 0.9), (0, -h), (w * 0.45, -h * 0.9),
            (w * 0.88, -h * 0.45), (w, 0.1), (0, 0.15),
        ),
        shell, gloss=0.3,
    )
    d.mark("shell top", 0, -h)
    d.mark("shell back rim", -w, 0.1)
    d.mark("shell front rim", w, 0.1)
    d.line(
        smooth((-w * 0.97, -0.04), (0, 0.0), (w * 0.97, -0.04), closed=False), scaled(shell, 0.55),
        0.05, detail=0.25,
    )
    for k in range(-1, 2):
        x, y, s = k * w * 0.48, -h * (0.5 - 0.1 * abs(k)), d.between(0.12, 0.16)
        d.surface(ellipse(x, y, s, s * 1.1, n=6), scaled(shell, 1.3), detail=0.4)
    eye(d, "eye", hx + head * 0.4, hy - head * 0.2, d.between(0.05, 0.075))


def _leaf(path: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The outline around a path [N, 2] at the half widths [N, 1]."""
    ahead = np.gradient(path, axis=0)
    ahead /= np.hypot(ahead[:, 0], ahead[:, 1])[:, None]
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) * half
    return np.concatenate([path + aside, (path - aside)[::-1]])
