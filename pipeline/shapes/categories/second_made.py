"""The second unseen set: buildings and things at hand. Left and right are those of the drawing."""

from __future__ import annotations

import math

from pipeline.shapes.colours import VIVID, scaled
from pipeline.shapes.curves import Path, Point, arc, box, ellipse, polygon, smooth, strip, turned
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def windmill(d: Drawing) -> None:
    """A tapered tower with four sails set askew, its window on the right."""
    top, foot, h = d.between(0.2, 0.3), d.between(0.34, 0.52), d.between(1.0, 1.4)
    wall = d.colour("white", "cream", "tan", "brown", "silver", "red")
    roof, wood = d.colour("red", "slate", "brown", "blue", "teal"), d.colour("brown", "slate")
    d.surface(polygon((-top, 0), (top, 0), (foot, h), (-foot, h)), wall)
    d.mark("left foot", -foot, h)
    d.mark("right foot", foot, h)
    door, dh = d.between(0.1, 0.15), d.between(0.28, 0.4)
    d.surface(polygon((-door, h), *arc(0, h - dh + door, door, door, 180, 360, 8), (door, h)), wood)
    d.mark("door top", 0, h - dh)
    x, y = d.between(0.08, 0.14), h * d.between(0.36, 0.5)
    d.surface(box(x - 0.07, y - 0.09, x + 0.07, y + 0.09), d.colour("glass"), detail=0.3, gloss=0.4)
    cap = d.between(0.22, 0.4)
    d.surface(
        smooth((-top * 1.2, 0.04), (-top * 0.85, -cap * 0.6), (0, -cap), (top * 0.85, -cap * 0.6),
               (top * 1.2, 0.04), (0, 0.08)),
        roof,
    )
    reach, askew, wide = d.between(0.75, 1.0), d.between(14, 40), d.between(0.2, 0.3)
    cloth = d.colour("cream", "white", "tan", *VIVID)
    hub = (0.0, -cap * 0.25)
    for k, name in enumerate(("top sail tip", "right sail tip", "lower sail tip", "left sail tip")):
        a = math.radians(-90 + askew + 90 * k)
        ahead, aside = (math.cos(a), math.sin(a)), (-math.sin(a), math.cos(a))

        def at(far: float, off: float, u: Point = ahead, v: Point = aside) -> Point:
            return hub[0] + far * u[0] + off * v[0], hub[1] + far * u[1] + off * v[1]

        d.surface(
            polygon(at(reach * 0.25, 0), at(reach, 0), at(reach, wide), at(reach * 0.25, wide)),
            cloth, gloss=0.0,
        )
        d.line(polygon(at(0, 0), at(reach * 1.04, 0)), wood, 0.055)
        d.mark(name, *at(reach * 1.04, 0))
        for t in (0.45, 0.72):
            d.line(polygon(at(reach * t, 0), at(reach * t, wide)), wood, 0.025, detail=0.6)
    d.surface(ellipse(*hub, 0.08, n=14), wood, gloss=0.4)
    d.mark("hub", *hub)


def castle(d: Drawing) -> None:
    """A wall with a gate between a tall roofed tower on the left and a low one on the right."""
    w, h = d.between(0.5, 0.75), d.between(0.5, 0.75)
    thick, thin = d.between(0.22, 0.32), d.between(0.2, 0.3)
    high, low = d.between(0.4, 0.8), d.between(0.1, 0.3)
    stone = d.colour("silver", "tan", "grey", "cream", "pink", "sky")
    tiles, dark = d.colour("red", "blue", "violet", "teal", "brown"), d.colour("brown", "slate")
    d.surface(_battlement(-w, w, 0.0, h, 4), scaled(stone, 0.9))
    gate, gh = d.between(0.15, 0.24), h * d.between(0.5, 0.68)
    gx = w * d.between(-0.1, 0.15)
    d.surface(
        polygon((gx - gate, h), *arc(gx, h - gh + gate, gate, gate, 180, 360, 9), (gx + gate, h)),
        dark,
    )
    d.mark("gate top", gx, h - gh)
    for x in (-0.5, 0.0, 0.5):
        d.line(
            polygon((gx + gate * x, h - gh + gate * 0.5), (gx + gate * x, h)), scaled(dark, 1.8),
            0.025, detail=0.8,
        )
    roof = d.between(0.4, 0.65)
    pole = -high - roof - d.between(0.16, 0.26)
    d.line(polygon((-w, -high - roof + 0.06), (-w, pole)), dark, 0.045)
    d.mark("flag pole top", -w, pole)
    d.surface(
        polygon((-w + 0.02, pole), (-w + 0.32, pole + 0.1), (-w + 0.02, pole + 0.19)),
        d.colour(*VIVID), detail=0.2,
    )
    d.surface(box(-w - thick, -high, -w + thick, h + 0.04), stone)
    d.mark("left foot", -w - thick, h + 0.04)
    over = thick * d.between(1.15, 1.4)
    d.surface(polygon((-w - over, -high), (-w, -high - roof), (-w + over, -high)), tiles)
    d.mark("roof left eave", -w - over, -high)
    d.mark("roof right eave", -w + over, -high)
    y = -high + d.between(0.25, 0.4)
    d.surface(
        polygon((-w - 0.07, y + 0.12), *arc(-w, y - 0.03, 0.07, 0.07, 180, 360, 7),
                (-w + 0.07, y + 0.12)),
        dark, detail=0.1,
    )
    d.mark("window", -w, y)
    d.surface(_battlement(w - thin, w + thin, -low, h + 0.04, 3), stone)
    d.mark("right foot", w + thin, h + 0.04)
    d.mark("right tower corner", w + thin, -low)
    if d.chance(0.6):
        d.line(
            polygon((w, -low + 0.28), (w, -low + 0.48)), dark, 0.06, detail=0.5,
        )
    for k in range(d.count(2, 4)):
        bx, by = w * (-0.3 + 0.27 * k), h * (0.16 + 0.14 * (k % 2))
        d.line(polygon((bx - 0.08, by), (bx + 0.06, by)), scaled(stone, 0.6), 0.03, detail=0.85)


def scissors(d: Drawing) -> None:
    """Open scissors pointing up, the right handle with the larger ring."""
    blade, shank = d.between(0.85, 1.25), d.between(0.3, 0.5)
    half, wide = d.between(10, 26), d.between(0.15, 0.22)
    small, large = d.between(0.2, 0.27), d.between(1.2, 1.6)
    steel, grip = d.colour("silver", "glass", "grey"), d.colour(*VIVID, "black")
    # The blade that ends on the left belongs to the ring on the right, and lies in front.
    for side, r, blade_name, ring in (
        (1, small, "right blade tip", "left"), (-1, small * large, "left blade tip", "right"),
    ):
        a = math.radians(half)
        ahead, aside = (side * math.sin(a), -math.cos(a)), (math.cos(a) * side, math.sin(a))

        def at(far: float, off: float, u: Point = ahead, v: Point = aside) -> Point:
            return far * u[0] + off * v[0], far * u[1] + off * v[1]

        out = math.radians(half + 12)
        s, c = side * math.sin(out), math.cos(out)
        joint = at(-shank, 0)
        cx, cy = joint[0] - s * r * 1.25, joint[1] + c * r * 1.25
        rim = turned(arc(cx, cy, r, r * 1.3, -92, 264, 28), side * (half + 12), about=(cx, cy))
        d.surface(strip(rim, 0.12), grip, gloss=0.3)
        d.mark(f"{ring} ring foot", cx - s * r * 1.3, cy + c * r * 1.3)
        d.mark(f"{ring} ring outside", cx - side * c * r, cy - side * s * r)
        d.surface(strip(polygon(at(0.1, 0), at(-shank - 0.05, 0)), wide * 0.8, 0.13), grip)
        d.mark(f"{ring} ring joint", *joint)
        d.surface(
            polygon(
                at(-0.14, wide * 0.45), at(blade * 0.75, wide * 0.4), at(blade, -wide * 0.5),
                at(-0.14, -wide * 0.5),
            ),
            steel if side < 0 else scaled(steel, 0.85), gloss=0.5,
        )
        d.mark(blade_name, *at(blade, -wide * 0.5))
    d.surface(ellipse(0, 0, 0.055, n=12), d.colour("slate", "gold"), detail=0.3)


def anchor(d: Drawing) -> None:
    """An anchor, a rope running from its ring to the right."""
    h, w, bar = d.between(0.65, 1.05), d.between(0.55, 0.9), d.between(0.32, 0.62)
    thick, ring = d.between(0.13, 0.19), d.between(0.13, 0.19)
    metal = d.colour("slate", "black", "grey", "blue", "red", "gold")
    rope = d.colour("tan", "cream", "orange", "yellow")
    top = -h
    end = (d.between(0.6, 0.95), top + d.between(-0.2, 0.15))
    d.line(
        smooth((0.02, top - ring * 1.6), (end[0] * 0.35, top - ring * 2.3),
               (end[0] * 0.6, end[1] + 0.02), (end[0] * 0.85, end[1] + 0.1), end, closed=False,
               steps=7),
        rope, 0.09,
    )
    d.mark("rope end", *end)
    d.line(ellipse(0, top - ring * 0.8, ring, n=18), metal, 0.085, closed=True)
    d.mark("ring top", 0, top - ring * 1.8)
    rise = d.between(0.3, 0.5)
    curve = smooth(
        (-w, h - rise), (-w * 0.72, h * 0.82), (0, h), (w * 0.72, h * 0.82), (w, h - rise),
        closed=False, steps=6,
    )
    d.surface(strip(curve, thick * 1.15), metal, gloss=0.4)
    d.mark("crown", 0, h)
    fluke = d.between(0.16, 0.24)
    for side, name in ((-1, "left fluke"), (1, "right fluke")):
        x, y = side * w, h - rise
        tip = (x + side * 0.03, y - fluke * 1.25)
        d.surface(
            polygon(
                tip, (x + side * fluke * 0.75, y + fluke * 0.6), (x - side * fluke, y + 0.02),
            ),
            metal, gloss=0.4,
        )
        d.mark(name, *tip)
        if side < 0:
            d.mark("left barb", x + fluke, y + 0.02)
    half, wide = thick * 0.42, thick * 0.6
    d.surface(polygon((-half, top), (half, top), (wide, h), (-wide, h)), metal, gloss=0.4)
    y = top + d.between(0.2, 0.38)
    d.surface(box(-bar, y - 0.07, bar, y + 0.07, 0.06), scaled(metal, 1.15), gloss=0.4)
    d.mark("stock left", -bar, y)
    d.mark("stock right", bar, y)


def clock(d: Drawing) -> None:
    """An alarm clock: two bells on top, a winder on the right."""
    r, wide = d.between(0.62, 0.8), d.between(0.95, 1.12)
    paint, metal = d.colour(*VIVID, "slate"), d.colour("gold", "silver")
    face, dark = d.colour("white", "cream"), (0.12, 0.11, 0.13)
    rx, leg = r * wide, d.between(0.14, 0.3)
    for side, name in ((-1, "left foot"), (1, "right foot")):
        foot = (side * rx * d.between(0.75, 0.95), r * 0.9 + leg)
        d.line(polygon((side * rx * 0.45, r * 0.7), foot), metal, 0.11)
        d.mark(name, *foot)
    knob = d.between(0.1, 0.2)
    y = r * d.between(-0.1, 0.35)
    d.line(polygon((rx * 0.8, y), (rx + knob, y)), metal, 0.06)
    d.surface(box(rx + knob - 0.04, y - 0.1, rx + knob + 0.06, y + 0.1, 0.03), metal)
    d.mark("winder", rx + knob + 0.02, y)
    ball, spread = d.between(0.26, 0.36), rx * d.between(0.5, 0.66)
    top = -r * 0.88
    d.line(polygon((0, top), (0, top - ball * 0.95)), dark, 0.05)
    d.surface(box(-0.11, top - ball * 1.15, 0.11, top - ball * 0.8, 0.04), metal)
    d.mark("hammer", 0, top - ball)
    for side, name in ((-1, "left bell"), (1, "right bell")):
        dome = polygon(*arc(0, 0, ball, ball * 0.9, 180, 360, 12))
        c, s = math.cos(math.radians(28)), side * math.sin(math.radians(28))
        cx, cy = side * spread, top + 0.06
        d.surface(
            polygon(*[(cx + c * px - s * py, cy + s * px + c * py) for px, py in dome.tolist()]),
            metal, gloss=0.5,
        )
        d.mark(name, cx + s * ball * 0.9, cy - c * ball * 0.9)
    d.surface(ellipse(0, 0, rx, r, n=28), paint, gloss=0.4)
    d.surface(ellipse(0, 0, rx * 0.78, r * 0.78, n=26), face, gloss=0.0)
    for k in range(4):
        a = math.pi / 2 * k
        d.line(
            polygon(
                (rx * 0.6 * math.cos(a), r * 0.6 * math.sin(a)),
                (rx * 0.71 * math.cos(a), r * 0.71 * math.sin(a)),
            ),
            dark, 0.045, detail=0.5,
        )
    late, early = math.radians(d.between(-125, -70)), math.radians(d.between(-35, 40))
    d.line(
        polygon((0, 0), (rx * 0.36 * math.cos(early), r * 0.36 * math.sin(early))), dark, 0.075,
    )
    tip = (rx * 0.6 * math.cos(late), r * 0.6 * math.sin(late))
    d.line(polygon((0, 0), tip), dark, 0.055)
    d.mark("minute hand tip", *tip)
    d.surface(ellipse(0, 0, 0.055, n=12), d.colour("red", "gold"), detail=0.3)
    d.mark("heart", 0, 0)


def _battlement(x0: float, x1: float, top: float, foot: float, n: int) -> Path:
    """A wall from x0 to x1 with `n` merlons, 0.13 high, on top of it."""
    step = (x1 - x0) / (2 * n - 1)
    corners: list[Point] = []
    for k in range(n):
        x = x0 + 2 * k * step
        corners += [(x, top), (x, top - 0.13), (x + step, top - 0.13), (x + step, top)]
    return polygon(*corners, (x1, foot), (x0, foot))
