"""Plants and fungi. Upright, drawn from the front; left and right are those of the drawing."""

from __future__ import annotations

import math

import numpy as np

from pipeline.shapes.colours import scaled
from pipeline.shapes.curves import Path, arc, box, ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def mushroom(d: Drawing) -> None:
    """A cap with spots on a stem, a young one beside it on the right."""
    w, h = d.between(0.65, 1.0), d.between(0.5, 0.95)
    s, t, lean = d.between(0.16, 0.32), d.between(0.85, 1.25), d.between(-0.12, 0.12)
    flesh = d.colour("cream", "white", "tan")
    cap = d.colour("red", "red", "orange", "brown", "violet")
    spots = d.colour("white", "cream")

    x, top = d.between(0.62, 0.82), d.between(0.44, t - 0.28)
    d.surface(strip(smooth((x - 0.04, t), (x, top), closed=False), 0.2, 0.14), flesh)
    d.surface(
        smooth(
            (x - 0.27, top + 0.05), (x - 0.18, top - 0.2), (x, top - 0.29), (x + 0.18, top - 0.2),
            (x + 0.27, top + 0.05), (x, top + 0.1),
        ),
        cap, gloss=0.4,
    )
    d.mark("young cap top", x, top - 0.29)

    d.surface(
        smooth(
            (lean - s * 0.8, -0.1), (lean + s * 0.8, -0.1), (s * 0.9, t * 0.6), (s * 1.25, t),
            (0, t + 0.08), (-s * 1.25, t), (-s * 0.9, t * 0.6),
        ),
        flesh,
    )
    d.mark("stem left foot", -s * 1.25, t)
    d.mark("stem right foot", s * 1.25, t)
    if d.chance(0.5):
        y = d.between(0.2, 0.35)
        d.surface(
            polygon((-s, y - 0.09), (s, y - 0.09), (s * 1.5, y + 0.12), (-s * 1.5, y + 0.12)),
            scaled(flesh, 0.88), detail=0.6,
        )
    d.surface(
        smooth(
            (lean - w, 0.0), (lean - w * 0.85, -h * 0.55), (lean - w * 0.4, -h * 0.93), (lean, -h),
            (lean + w * 0.4, -h * 0.93), (lean + w * 0.85, -h * 0.55), (lean + w, 0.0),
            (lean + w * 0.5, 0.09), (lean, 0.12), (lean - w * 0.5, 0.09),
        ),
        cap, gloss=0.4,
    )
    d.mark("cap top", lean, -h)
    d.mark("cap left rim", lean - w, 0.0)
    d.mark("cap right rim", lean + w, 0.0)
    d.mark("gills", lean, 0.12)
    r = d.between(0.1, 0.17)
    cx, cy = lean + w * d.between(-0.2, 0.1), -h * d.between(0.48, 0.6)
    d.surface(ellipse(cx, cy, r * 1.15, r, n=14), spots, detail=0.15)
    d.mark("great spot", cx, cy)
    for side in (-1, 1) if d.chance(0.8) else (1,):
        at = lean + side * w * d.between(0.48, 0.62)
        d.surface(
            ellipse(at, -h * d.between(0.22, 0.38), r * 0.6, r * 0.55, n=12), spots, detail=0.5,
        )


def apple(d: Drawing) -> None:
    """A fruit with a stalk and one leaf on the right."""
    w, h = d.between(0.7, 1.0), d.between(0.7, 0.95)
    waist, dip = d.between(0.5, 0.72), d.between(0.1, 0.26)
    skin = d.colour("red", "red", "lime", "yellow", "green")
    lean, tall = d.between(0.02, 0.2), d.between(0.3, 0.55)
    d.line(
        smooth(
            (0, -h + dip + 0.05), (lean * 0.3, -h - tall * 0.3), (lean, -h - tall), closed=False,
        ),
        d.colour("brown"), 0.08,
    )
    d.mark("stalk tip", lean, -h - tall)
    reach, up, fat = d.between(0.45, 0.75), d.between(0.1, 0.4), d.between(0.1, 0.19)
    x, y = lean * 0.3, -h - tall * 0.25
    d.surface(
        smooth(
            (x, y), (x + reach * 0.5, y - up * 0.6 - fat), (x + reach, y - up),
            (x + reach * 0.55, y - up * 0.4 + fat),
        ),
        d.colour("green", "lime"),
    )
    d.mark("leaf tip", x + reach, y - up)
    d.line(
        smooth(
            (x, y), (x + reach * 0.5, y - up * 0.55), (x + reach * 0.8, y - up * 0.85),
            closed=False,
        ),
        scaled(skin, 0.4), 0.025, detail=0.9,
    )
    d.surface(
        smooth(
            (0, -h + dip), (w * 0.45, -h * 1.02), (w * 0.93, -h * 0.6), (w, -0.05),
            (w * waist * 1.1, h * 0.72), (w * 0.3, h * 0.98), (0, h * 0.9), (-w * 0.3, h * 0.98),
            (-w * waist * 1.1, h * 0.72), (-w, -0.05), (-w * 0.93, -h * 0.6),
            (-w * 0.45, -h * 1.02),
        ),
        skin, gloss=0.6,
    )
    d.mark("left shoulder", -w * 0.45, -h * 1.02)
    d.mark("right shoulder", w * 0.45, -h * 1.02)
    d.mark("left side", -w, -0.05)
    d.mark("right side", w, -0.05)
    d.mark("bottom dimple", 0, h * 0.9)
    d.line(arc(0, -h + dip - 0.12, 0.24, 0.16, 25, 155, 8), scaled(skin, 0.5), 0.04)
    d.mark("stalk pit", 0, -h + dip + 0.04)
    if d.chance(0.7):
        d.line(arc(0, 0, w * 0.72, h * 0.7, 165, 225, 7), scaled(skin, 1.5), 0.05, detail=0.8)


def flower(d: Drawing) -> None:
    """A blossom on a bent stalk with two leaves, the left one lower."""
    n = d.count(5, 8)
    long, fat, r = d.between(0.42, 0.62), d.between(0.6, 1.05), d.between(0.15, 0.26)
    height, bend = d.between(1.1, 1.6), d.between(-0.2, 0.2)
    petals = d.colour("red", "pink", "violet", "yellow", "white", "orange")
    green = d.colour("green")
    stalk = smooth((0, 0), (bend, height * 0.5), (0, height), closed=False, steps=8)
    d.line(stalk, green, 0.08)
    d.mark("stalk foot", 0, height)
    for side, low in ((-1, d.between(0.72, 0.85)), (1, d.between(0.5, 0.62))):
        x, y = bend * 4 * low * (1 - low), height * low
        reach, up, wide = d.between(0.4, 0.7), d.between(0.15, 0.45), d.between(0.09, 0.16)
        d.surface(
            smooth(
                (x, y), (x + side * reach * 0.45, y - up * 0.75 - wide), (x + side * reach, y - up),
                (x + side * reach * 0.6, y - up * 0.25 + wide),
            ),
            green, detail=0.1,
        )
        d.mark(f"{'left' if side < 0 else 'right'} leaf tip", x + side * reach, y - up)
        if side > 0:
            d.mark("right leaf joint", x, y)
    angles = [-90 + 360 * k / n for k in range(n)]
    tips = {"left petal": 180.0, "right petal": 0.0, "top petal": -90.0}
    named = {min(angles, key=lambda a: abs(math.sin(math.radians(a - to) / 2))): name
             for name, to in tips.items()}
    half = math.pi / n * fat
    tip_points = []
    for angle in angles:
        a = math.radians(angle)

        def at(radius: float, off: float, a: float = a) -> tuple[float, float]:
            return radius * math.cos(a + off), radius * math.sin(a + off)

        reach = r + long
        d.surface(
            smooth(
                at(r * 0.6, 0), at(r + long * 0.45, half), at(reach * 0.93, half * 0.55),
                at(reach, 0), at(reach * 0.93, -half * 0.55), at(r + long * 0.45, -half),
            ),
            petals,
        )
        if angle in named:
            tip_points.append((named[angle], at(reach * 0.97, 0)))
    for name, tip in sorted(tip_points):
        d.mark(name, *tip)
    d.surface(ellipse(0, 0, r, n=18), d.colour("yellow", "orange", "brown"))
    d.mark("heart", 0, 0)
    for k in range(3):
        a = math.radians(120 * k + 30)
        d.surface(
            ellipse(r * 0.5 * math.cos(a), r * 0.5 * math.sin(a), r * 0.13, n=8), d.colour("brown"),
            detail=0.95,
        )


def tree(d: Drawing) -> None:
    """A crown on a trunk, with a side branch and its clump of leaves on the right."""
    w, h = d.between(0.6, 0.95), d.between(0.55, 0.85)
    t, s = d.between(0.65, 1.1), d.between(0.1, 0.2)
    flare = d.between(1.3, 2.0)
    bark, leaves = d.colour("brown"), d.colour("green", "green", "lime", "orange")
    y0 = h * 0.6
    by, bx = y0 + t * d.between(0.4, 0.55), d.between(0.58, 0.8)
    ty = by - d.between(0.12, 0.24)
    d.surface(
        strip(smooth((0, by + 0.1), (bx * 0.6, by), (bx, ty), closed=False), 0.14, 0.07), bark,
    )
    d.surface(
        polygon(
            (-s, y0 - 0.3), (s, y0 - 0.3), (s, y0 + t * 0.8), (s * flare, y0 + t),
            (-s * flare, y0 + t), (-s, y0 + t * 0.8),
        ),
        bark,
    )
    d.mark("trunk left foot", -s * flare, y0 + t)
    d.mark("trunk right foot", s * flare, y0 + t)
    if d.chance(0.7):
        d.surface(
            ellipse(0, y0 + t * 0.55, s * 0.38, s * 0.55, n=12), scaled(bark, 0.45), detail=0.7,
        )
    r = d.between(0.18, 0.26)
    d.surface(_cloud(r, r * 0.85, 5, 0.2) + np.array([bx, ty - r * 0.3]), scaled(leaves, 0.94))
    d.mark("side clump", bx, ty - r * 0.3)
    d.surface(_cloud(w, h, d.count(6, 10), d.between(0.08, 0.2)), leaves)
    d.mark("crown top", 0, -h)
    d.mark("crown left", -w * 0.96, 0)
    d.mark("crown right", w * 0.96, 0)
    d.mark("crown foot left", -s, h * 0.9)
    d.mark("crown foot right", s, h * 0.9)
    fruit = d.colour("red", "yellow") if d.chance(0.35) else None
    for x, y in ((-0.5, -0.25), (0.05, -0.5), (0.45, 0.05), (-0.15, 0.3)):
        cx, cy = w * (x + d.between(-0.08, 0.08)), h * (y + d.between(-0.08, 0.08))
        if fruit:
            d.surface(ellipse(cx, cy, 0.085, n=12), fruit, detail=0.5, gloss=0.5)
        else:
            tuft = smooth(
                (cx - 0.15, cy), (cx - 0.08, cy + 0.07), (cx, cy), (cx + 0.08, cy + 0.07),
                (cx + 0.15, cy), closed=False, steps=3,
            )
            d.line(tuft, scaled(leaves, 0.6), 0.045, detail=0.7)


def cactus(d: Drawing) -> None:
    """A column with two arms in a pot; the left arm low, the right arm high; a flower on top."""
    h, s = d.between(1.1, 1.6), d.between(0.19, 0.3)
    green = d.colour("green", "green", "teal", "lime")
    thick = s * d.between(1.05, 1.4)
    for side, joint, reach, rise in (
        (-1, d.between(0.3, 0.42), d.between(0.45, 0.65), d.between(0.3, 0.45)),
        (1, d.between(0.5, 0.62), d.between(0.4, 0.58), d.between(0.35, 0.6)),
    ):
        y, x = -h * joint, side * reach
        d.surface(
            _sausage([(0, y), (x * 0.75, y), (x, y - 0.14), (x, y - rise)], thick), green,
            detail=0.0,
        )
        name = "left" if side < 0 else "right"
        d.mark(f"{name} arm tip", x, y - rise - thick * 0.45)
        d.mark(f"{name} elbow", x * 0.93, y + thick * 0.1)
    d.surface(
        smooth(
            (-s, 0.1), (-s, -h * 0.5), (-s, -h * 0.85), (0, -h), (s, -h * 0.85), (s, -h * 0.5),
            (s, 0.1),
        ),
        green,
    )
    d.mark("column top", 0, -h)
    for x in (-0.4, 0.0, 0.4):
        d.line(
            polygon((x * s, -0.02), (x * s, -h * 0.82)), scaled(green, 0.62), 0.03,
            detail=0.45 if x else 0.8,
        )
    if d.chance(0.65):
        bloom = d.colour("pink", "red", "yellow")
        for lean in (-0.16, 0.16, 0.0):
            d.surface(
                smooth(
                    (0, -h + 0.04), (lean - 0.08, -h - 0.16), (lean, -h - 0.26),
                    (lean + 0.08, -h - 0.16),
                ),
                bloom, detail=0.4,
            )
    pot = d.colour("orange", "brown", "blue", "white", "teal")
    w, t = d.between(0.38, 0.6), d.between(0.4, 0.7)
    foot = w * d.between(0.6, 0.85)
    d.surface(polygon((-w * 0.92, 0.1), (w * 0.92, 0.1), (foot, t), (-foot, t)), pot)
    d.mark("pot foot", 0, t)
    d.surface(box(-w * 1.08, -0.06, w * 1.08, 0.15, 0.04), scaled(pot, 1.1))
    d.mark("pot left rim", -w * 1.08, 0.04)
    d.mark("pot right rim", w * 1.08, 0.04)


def _sausage(knots: list[tuple[float, float]], width: float) -> Path:
    """A band through the knots with a round far end."""
    band = strip(smooth(*knots, closed=False), width)
    half = len(band) // 2
    (x0, y0), (x1, y1) = band[half - 1], band[half]
    heading = math.degrees(math.atan2(y1 - y0, x1 - x0))
    cap = arc((x0 + x1) / 2, (y0 + y1) / 2, width / 2, width / 2, heading + 180, heading, 8)
    return polygon(*band[: half - 1], *cap, *band[half + 1 :])


def _cloud(w: float, h: float, lobes: int, depth: float) -> Path:
    """A closed outline of round lobes, one of them at the top, in an ellipse of these radii."""
    angle = np.linspace(0.0, 2 * np.pi, 6 * lobes, endpoint=False)
    reach = 1.0 - depth * (1.0 - np.abs(np.cos(lobes * angle / 2)))
    return np.stack([w * reach * np.sin(angle), -h * reach * np.cos(angle)], axis=1)
