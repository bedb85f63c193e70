"""Animals with fins or wings. From the side they look right; the butterfly is seen from above."""

from __future__ import annotations

import math

from pipeline.shapes.categories.animals import eye
from pipeline.shapes.colours import Colour, scaled
from pipeline.shapes.curves import arc, ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def fish(d: Drawing) -> None:
    """A fish with back and belly fins, perhaps striped."""
    w, h, tail = d.between(0.65, 0.85), d.between(0.32, 0.6), d.between(0.3, 0.5)
    spread, notch = d.between(0.25, 0.48), d.between(0.3, 0.65)
    skin = d.colour("orange", "red", "yellow", "blue", "sky", "silver", "teal")
    fin = d.colour("orange", "violet", "blue")
    if d.chance(0.6):
        fin = scaled(skin, d.between(0.65, 0.85))
    back = -w - tail
    d.surface(
        smooth((-w * 0.82, 0), (back, -spread), (back + tail * notch, 0), (back, spread), steps=4),
        fin,
    )
    d.mark("tail top", back, -spread)
    d.mark("tail foot", back, spread)
    fx, fy = d.between(-0.35, 0.0), -h - d.between(0.18, 0.34)
    d.surface(
        smooth(
            (w * 0.35, -h * 0.75), (fx + 0.12, fy + 0.06), (fx, fy), (-w * 0.5, -h * 0.6), steps=4,
        ),
        fin,
    )
    d.mark("back fin tip", fx, fy)
    bx, by = d.between(-0.3, -0.1), h + d.between(0.12, 0.26)
    d.surface(smooth((0.2, h * 0.8), (bx, by), (-0.2, h * 0.75), steps=4), fin)
    d.mark("belly fin tip", bx, by)
    d.surface(
        smooth(
            (w, -0.02), (w * 0.6, -h * 0.72), (0, -h), (-w * 0.6, -h * 0.5), (-w * 0.95, -0.07),
            (-w * 0.95, 0.07), (-w * 0.6, h * 0.5), (0, h), (w * 0.6, h * 0.72),
        ),
        skin, gloss=0.4,
    )
    d.mark("mouth", w, 0.0)
    d.mark("tail root", -w * 0.95, 0)
    for k in range(d.count(0, 3)):
        x = -0.02 - 0.2 * k
        half = h * math.sqrt(max(1 - (x / w) ** 2, 0)) * 0.82
        d.surface(
            strip(smooth((x, -half), (x + 0.07, 0), (x, half), closed=False), 0.09), fin,
            detail=0.6,
        )
    gx = w * d.between(0.3, 0.42)
    d.line(arc(gx - 0.12, 0, 0.14, h * 0.5, -65, 65, 8), scaled(skin, 0.5), 0.04, detail=0.15)
    d.mark("gill", gx + 0.02, 0)
    eye(d, "eye", w * d.between(0.6, 0.7), -h * d.between(0.2, 0.34), d.between(0.07, 0.11))
    d.line(
        smooth((w * 0.97, 0.06), (w * 0.86, 0.1), (w * 0.74, 0.08), closed=False),
        scaled(skin, 0.45), 0.03, detail=0.5,
    )


def bird(d: Drawing) -> None:
    """A songbird standing on two legs."""
    w, h, r = d.between(0.5, 0.68), d.between(0.34, 0.46), d.between(0.22, 0.31)
    coat = d.colour("red", "blue", "sky", "yellow", "brown", "green", "slate")
    wing = scaled(coat, 0.68) if d.chance(0.6) else d.colour("slate", "brown", "blue")
    horn = d.colour("orange", "yellow", "slate")
    hx, hy = w * d.between(0.68, 0.9), -h - d.between(0.05, 0.2)
    leg, gap = d.between(0.3, 0.58), d.between(0.16, 0.3)
    for x, name in ((-gap, "back foot"), (gap * 0.5, "front foot")):
        foot = (x + 0.03, h * 0.85 + leg)
        d.line(polygon((x, h * 0.7), foot), horn, 0.055)
        d.mark(name, *foot)
        d.line(
            polygon((foot[0] - 0.08, foot[1]), (foot[0] + 0.16, foot[1] + 0.01)), horn, 0.05,
            detail=0.15,
        )
    tail, drop = d.between(0.4, 0.75), d.between(-0.2, 0.22)
    d.surface(
        polygon(
            (-w * 0.7, -h * 0.3), (-w - tail, drop - 0.1), (-w - tail * 0.95, drop + 0.1),
            (-w * 0.6, h * 0.35),
        ),
        wing,
    )
    d.mark("tail tip", -w - tail * 0.97, drop)
    beak = d.between(0.18, 0.4)
    d.surface(
        polygon((hx + r * 0.75, hy - 0.1), (hx + r + beak, hy + 0.02), (hx + r * 0.75, hy + 0.1)),
        horn,
    )
    d.mark("beak tip", hx + r + beak, hy + 0.02)
    d.surface(
        smooth(
            (hx - r * 0.2, hy - r), (hx + r * 0.7, hy - r * 0.72), (hx + r, hy),
            (hx + r * 0.72, hy + r * 0.85), (w * 0.86, 0.12), (w * 0.35, h * 0.88),
            (-w * 0.3, h * 0.9), (-w * 0.85, h * 0.3), (-w * 0.8, -h * 0.2), (-w * 0.2, -h * 0.72),
            (hx - r * 0.95, hy + r * 0.2),
        ),
        coat,
    )
    d.mark("crown", hx - r * 0.2, hy - r)
    d.mark("breast", w * 0.86, 0.12)
    if d.chance(0.6):
        d.surface(
            smooth((w * 0.78, 0.1), (w * 0.35, h * 0.8), (-w * 0.2, h * 0.8), (w * 0.3, h * 0.3)),
            d.colour("cream", "orange", "white"), detail=0.7,
        )
    long, tip = d.between(0.7, 1.0), d.between(0.0, 0.22)
    d.surface(
        smooth(
            (w * 0.42, -h * 0.28), (0, -h * 0.42), (-w * long * 0.7, -h * 0.1), (-w * long, tip),
            (-w * 0.35, h * 0.42), (w * 0.25, h * 0.34),
        ),
        wing,
    )
    d.mark("wing tip", -w * long, tip)
    d.line(
        smooth((w * 0.15, 0.04), (-w * 0.25, h * 0.1), (-w * long * 0.75, tip * 0.7), closed=False),
        scaled(wing, 0.55), 0.03, detail=0.7,
    )
    eye(d, "eye", hx + r * 0.25, hy - r * 0.12, r * d.between(0.22, 0.32))


def penguin(d: Drawing) -> None:
    """A penguin standing, its head turned to the right."""
    coat: Colour = d.colour("black", "slate", "blue")
    w, h, r = d.between(0.42, 0.6), d.between(0.75, 0.95), d.between(0.26, 0.34)
    bill = d.colour("orange", "yellow")
    hy = -h - r * 0.45
    for side, name in ((-1, "left foot"), (1, "right foot")):
        x = side * w * 0.45
        d.surface(
            smooth(
                (x - 0.1, h * 0.88), (x + 0.1, h * 0.88), (x + 0.2 + side * 0.05, h + 0.1),
                (x - 0.16 + side * 0.05, h + 0.1),
            ),
            bill,
        )
        d.mark(name, x + side * 0.05, h + 0.07)
    beak = d.between(0.22, 0.42)
    d.surface(polygon((r * 0.7, hy - 0.07), (r + beak, hy + 0.04), (r * 0.7, hy + 0.12)), bill)
    d.mark("bill tip", r + beak, hy + 0.04)
    out = d.between(0.14, 0.42)
    for side, name in ((-1, "left flipper"), (1, "right flipper")):
        tip = (side * (w + out), h * d.between(0.05, 0.35))
        d.surface(
            smooth(
                (side * w * 0.6, -h * 0.62), (side * (w + out * 0.55), -h * 0.3), tip,
                (side * w * 0.85, -h * 0.02),
            ),
            scaled(coat, 1.2),
        )
        d.mark(name, *tip)
    d.surface(
        smooth(
            (0, hy - r), (r * 0.8, hy - r * 0.6), (r * 0.95, hy + r * 0.25), (w * 0.8, -h * 0.5),
            (w, h * 0.15), (w * 0.75, h * 0.8), (0, h), (-w * 0.75, h * 0.8), (-w, h * 0.15),
            (-w * 0.8, -h * 0.5), (-r * 0.95, hy + r * 0.25), (-r * 0.8, hy - r * 0.6),
        ),
        coat,
    )
    d.mark("crown", 0, hy - r)
    shift, top = d.between(0.02, 0.1), -h * d.between(0.5, 0.68)
    d.surface(
        smooth(
            (shift, top), (w * 0.62 + shift, -h * 0.2), (w * 0.62, h * 0.5), (0.02, h * 0.9),
            (-w * 0.6, h * 0.5), (-w * 0.58 + shift, -h * 0.2),
        ),
        d.colour("white", "cream"),
    )
    d.mark("bib", shift, top)
    if d.chance(0.35):
        d.surface(
            strip(
                smooth((-w * 0.68, -h * 0.72), (0, -h * 0.6), (w * 0.68, -h * 0.72), closed=False),
                0.17,
            ),
            d.colour("red", "green", "yellow"), detail=0.3,
        )
    if d.chance(0.5):
        d.surface(
            ellipse(r * 0.3, hy + r * 0.1, r * 0.5, r * 0.42, n=12), d.colour("white", "cream"),
            detail=0.4,
        )
    eye(d, "eye", r * 0.3, hy - r * 0.1, d.between(0.065, 0.095))


def butterfly(d: Drawing) -> None:
    """A butterfly seen a little from its right: the right wings foreshortened."""
    upper, lower = d.between(0.7, 1.0), d.between(0.5, 0.75)
    rise, drop = d.between(0.55, 0.85), d.between(0.5, 0.8)
    turn = d.between(0.52, 0.72)
    a = d.colour("orange", "yellow", "sky", "blue", "violet", "pink", "lime")
    b = d.colour("orange", "yellow", "red", "violet", "teal", "white")
    dark = d.colour("black", "brown")
    for side, k, name in ((-1, 1.0, "left"), (1, turn, "right")):
        x = side * k
        tip = (x * lower, drop)
        d.surface(
            smooth(
                (0, 0.0), (x * lower * 0.85, 0.08), (x * lower * 1.08, drop * 0.5), tip,
                (x * lower * 0.45, drop * 0.85), steps=4,
            ),
            b,
        )
        d.mark(f"{name} lower wing", *tip)
        if side < 0:
            d.surface(ellipse(x * lower * 0.68, drop * 0.48, 0.12 * k, 0.13, n=12), a, detail=0.5)
    for side, k, name in ((-1, 1.0, "left"), (1, turn, "right")):
        x = side * k
        tip = (x * upper, -rise)
        d.surface(
            smooth(
                (0, -0.15), (x * upper * 0.45, -rise * 0.88), tip, (x * upper * 1.04, -rise * 0.42),
                (x * upper * 0.75, 0.08), (0, 0.12), steps=4,
            ),
            a,
        )
        d.mark(f"{name} upper wing", *tip)
        d.surface(ellipse(x * upper * 0.68, -rise * 0.48, 0.15 * k, 0.16, n=14), b, detail=0.35)
        if d.chance(0.5):
            d.surface(
                ellipse(x * upper * 0.35, -rise * 0.26, 0.08 * k, 0.08, n=10), dark, detail=0.7,
            )
    for side, k, name in ((-1, 1.0, "left"), (1, turn, "right")):
        tip = (side * k * d.between(0.22, 0.34), -d.between(0.72, 0.92))
        d.line(smooth((0, -0.38), (tip[0] * 0.45, tip[1] * 0.78), tip, closed=False), dark, 0.035)
        d.mark(f"{name} feeler", *tip)
    fat, end = d.between(0.06, 0.1), d.between(0.5, 0.68)
    d.surface(
        smooth((0, -0.4), (fat, -0.2), (fat * 1.1, 0.1), (0, end), (-fat * 1.1, 0.1), (-fat, -0.2)),
        dark,
    )
    d.mark("body end", 0, end)
    d.surface(ellipse(0, -0.42, fat * 1.25, n=14), dark)
    d.mark("head", 0, -0.42)
