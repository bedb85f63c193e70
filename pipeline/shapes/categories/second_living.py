"""The second unseen set: animals, a fruit, a snowman. Left and right are those of the drawing."""

from __future__ import annotations

import math

import numpy as np

from pipeline.shapes.categories.animals import eye
from pipeline.shapes.colours import scaled
from pipeline.shapes.curves import Path, arc, ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def giraffe(d: Drawing) -> None:
    """A spotted giraffe standing, facing right."""
    w, h = d.between(0.4, 0.54), d.between(0.2, 0.28)
    leg, thick = d.between(0.62, 0.95), d.between(0.11, 0.16)
    long, lean = d.between(0.75, 1.15), d.between(0.12, 0.5)
    coat = d.colour("yellow", "orange", "tan", "gold", "cream")
    spots, dark = d.colour("brown"), d.colour("black", "brown")
    foot = h * 0.6 + leg
    tail = (-w - d.between(0.1, 0.24), d.between(0.15, 0.42))
    d.line(
        smooth((-w * 0.9, -h * 0.2), (-w - 0.08, 0.06), tail, closed=False), scaled(coat, 0.75),
        0.05,
    )
    d.mark("tail tip", *tail)
    for x in (-w * 0.45, w * 0.5):
        d.surface(
            polygon(
                (x - thick / 2, 0), (x + thick / 2, 0), (x + thick * 0.4, foot - 0.06),
                (x - thick * 0.4, foot - 0.06),
            ),
            scaled(coat, 0.7), detail=0.15,
        )
    for x, name in ((-w * 0.82, "hind foot"), (w * 0.84, "front foot")):
        d.surface(
            smooth(
                (x - thick * 0.6, -0.08), (x + thick * 0.6, -0.08), (x + thick * 0.4, foot * 0.6),
                (x + thick * 0.52, foot), (x - thick * 0.52, foot), (x - thick * 0.4, foot * 0.6),
                steps=3,
            ),
            scaled(coat, 0.93),
        )
        d.mark(name, x, foot)
    hx, hy = w * 0.85 + lean, -h - long
    neck = smooth(
        (w * 0.55, h * 0.1), (w * 0.8, -h * 0.9), (w * 0.85 + lean * 0.6, -h - long * 0.5),
        (hx, hy), closed=False, steps=6,
    )
    d.surface(strip(neck, h * 1.5, 0.16), coat)
    d.surface(
        smooth(
            (-w, -h * 0.1), (-w * 0.8, -h * 0.75), (0, -h * 0.95), (w * 0.7, -h * 1.25),
            (w, -h * 0.3), (w * 0.85, h * 0.55), (0, h * 0.7), (-w * 0.8, h * 0.6),
        ),
        coat,
    )
    d.mark("rump", -w * 0.8, -h * 0.75)
    d.mark("chest", w, -h * 0.3)
    for x, y in ((-0.55, 0.1), (-0.15, -0.3), (0.2, 0.25), (0.6, -0.1)):
        d.surface(
            ellipse(w * x, h * y, 0.1, 0.085, turn=d.between(0, 60), n=6), spots,
            detail=0.3, gloss=0.0,
        )
    for k, r in ((10, 0.085), (13, 0.065), (16, 0.05)):
        x, y = neck[k].tolist()
        d.surface(
            ellipse(x, y, r, turn=d.between(0, 60), n=6), spots, detail=0.35, gloss=0.0,
        )
    horn = d.between(0.14, 0.22)
    for dx, name in ((0.1, ""), (0.0, "horn tip")):
        tip = (hx + dx - 0.05, hy - 0.09 - horn)
        d.line(polygon((hx + dx, hy - 0.04), tip), scaled(coat, 0.8), 0.05,
               detail=0.0 if name else 0.3)
        if name:
            d.mark(name, *tip)
        d.surface(ellipse(*tip, 0.045, n=9), dark, detail=0.4)
    ear = d.between(0.16, 0.24)
    d.surface(
        smooth(
            (hx - 0.04, hy - 0.04), (hx - ear * 0.55, hy - 0.13), (hx - ear, hy - 0.06),
            (hx - ear * 0.55, hy + 0.02),
        ),
        scaled(coat, 0.85), detail=0.2,
    )
    snout, drop = d.between(0.34, 0.46), d.between(0.1, 0.22)
    d.surface(
        smooth(
            (hx - 0.12, hy), (hx, hy - 0.13), (hx + 0.14, hy - 0.1),
            (hx + snout * 0.9, hy + drop - 0.08), (hx + snout, hy + drop + 0.02),
            (hx + snout * 0.8, hy + drop + 0.09), (hx + 0.1, hy + 0.14), (hx - 0.08, hy + 0.12),
        ),
        coat,
    )
    d.mark("muzzle", hx + snout, hy + drop + 0.02)
    d.surface(
        ellipse(hx + snout * 0.9, hy + drop - 0.01, 0.03, n=8), scaled(spots, 0.6), detail=0.7,
    )
    eye(d, "eye", hx + 0.07, hy - 0.01, d.between(0.05, 0.065))


def crab(d: Drawing) -> None:
    """A crab from the front, its left claw the larger one."""
    w, h = d.between(0.45, 0.75), d.between(0.3, 0.5)
    shell = d.colour("red", "orange", "red", "violet", "teal", "brown")
    limb = scaled(shell, 0.82)
    reach, knee = d.between(0.25, 0.55), d.between(0.14, 0.3)
    for side, name in ((-1, "left hind foot"), (1, "right hind foot")):
        for k in range(3):
            out = reach * (1 - 0.2 * k)
            y = h * (0.05 + 0.32 * k)
            foot = (side * (w * (1.04 - 0.18 * k) + out), h * 0.5 + 0.17 * k + 0.12)
            d.line(
                polygon(
                    (side * w * 0.6, y), (side * (w * (1.0 - 0.14 * k) + out * 0.75), y - knee),
                    foot,
                ),
                limb, 0.085, detail=0.0 if k == 2 else 0.25,
            )
        d.mark(name, *foot)
    size, spread = d.between(0.28, 0.42), d.between(0.0, 0.3)
    for side, r, name in ((-1, size, "left"), (1, size * d.between(0.55, 0.75), "right")):
        cx, cy = side * (w + spread), -h - d.between(0.12, 0.5)
        d.surface(
            strip(
                smooth(
                    (side * w * 0.62, -h * 0.3), (side * (w + spread * 0.8 + 0.12), -h * 0.45),
                    (cx, cy + r * 0.55), closed=False,
                ),
                0.15, 0.13,
            ),
            limb,
        )
        d.surface(_claw(cx, cy, r, side), shell, gloss=0.4)
        d.mark(f"{name} claw tip", *_claw_tip(cx, cy, r, side))
    stalk = d.between(0.12, 0.4)
    for side, name in ((-1, "left eye"), (1, "right eye")):
        x, y = side * w * 0.3, -h * 0.85 - stalk
        d.line(polygon((side * w * 0.24, -h * 0.6), (x, y)), limb, 0.07)
        eye(d, name, x, y, d.between(0.08, 0.1))
    d.surface(
        smooth(
            (-w, -h * 0.15), (-w * 0.72, -h * 0.72), (0, -h * 0.95), (w * 0.72, -h * 0.72),
            (w, -h * 0.15), (w * 0.66, h * 0.72), (0, h * 0.95), (-w * 0.66, h * 0.72),
        ),
        shell, gloss=0.5,
    )
    d.mark("shell left", -w, -h * 0.15)
    d.mark("shell right", w, -h * 0.15)
    if d.chance(0.6):
        for x, y in ((-0.4, -0.35), (0.05, -0.55), (0.45, -0.3)):
            d.surface(ellipse(w * x, h * y, 0.06, n=10), scaled(shell, 1.3), detail=0.6)
    d.line(
        smooth((-w * 0.38, h * 0.28), (0, h * 0.5), (w * 0.38, h * 0.28), closed=False),
        scaled(shell, 0.45), 0.045, detail=0.4,
    )


def octopus(d: Drawing) -> None:
    """An octopus with a domed head; of its six arms the rightmost is raised."""
    w, h = d.between(0.42, 0.66), d.between(0.5, 0.95)
    skin = d.colour("violet", "pink", "orange", "teal", "red", "sky")
    long, spread = d.between(0.5, 1.0), d.between(0.45, 0.9)
    up = d.between(0.2, 0.8)
    for k, name in enumerate(("", "left arm tip", "inner left arm tip", "inner right arm tip", "",
                              "right arm tip")):
        x = w * (-0.75 + 0.3 * k)
        curl = d.between(0.1, 0.2)
        if k == 5:
            tip = (w + spread, 0.1 - up)
            knots = [(w * 0.6, 0.12), (w + spread * 0.55, 0.36), (w + spread, 0.15), tip]
        else:
            side = -1 if k < 3 else 1
            far = (k - 2.5) / 2.5 * (w + spread * 0.6)
            deep = 0.15 + long * (1 - 0.09 * (k - 2.5) ** 2)
            tip = (far + side * curl, deep - 0.04)
            knots = [(x, 0.05), ((x + far) / 2 - side * 0.06, 0.1 + deep * 0.5),
                     (far - side * 0.02, deep), tip]
        d.surface(
            strip(smooth(*knots, closed=False, steps=6), 0.25, 0.07),
            scaled(skin, 0.86 if k % 2 else 0.96), detail=0.0 if name else 0.15,
        )
        if name:
            d.mark(name, *tip)
    d.surface(
        smooth(
            (-w * 0.72, 0.22), (-w * 0.8, -0.05), (-w, -h * 0.55), (-w * 0.62, -h * 0.97),
            (0, -h * 1.08), (w * 0.62, -h * 0.97), (w, -h * 0.55), (w * 0.8, -0.05),
            (w * 0.72, 0.22), (0, 0.3),
        ),
        skin, gloss=0.4,
    )
    d.mark("head top", 0, -h * 1.08)
    d.mark("head left", -w, -h * 0.55)
    for x, y in ((-0.5, -0.8), (0.2, -0.9), (0.62, -0.66)):
        d.surface(ellipse(w * x, h * y, 0.07, 0.06, n=10), scaled(skin, 1.25), detail=0.6)
    gap, r = w * d.between(0.32, 0.48), d.between(0.1, 0.15)
    for side, name in ((-1, "left eye"), (1, "right eye")):
        eye(d, name, side * gap, -h * 0.28, r)
    d.line(arc(0, 0.0, w * 0.28, 0.1, 20, 160, 8), scaled(skin, 0.4), 0.04, detail=0.4)


def pineapple(d: Drawing) -> None:
    """A pineapple with a tuft of leaves, one leaf hanging down on the right."""
    w, h = d.between(0.4, 0.6), d.between(0.55, 0.8)
    skin = d.colour("yellow", "orange", "gold", "tan")
    green = d.colour("green", "lime", "teal")
    tall, spread = d.between(0.5, 0.85), d.between(0.3, 0.55)
    hang, out = d.between(0.15, 0.55), d.between(0.25, 0.4)
    top = -h * 0.95
    tip = (w + out, top + hang)
    d.surface(
        _blade((0.05, top + 0.04), (w * 0.7 + out * 0.5, top - 0.3), tip, 0.17),
        scaled(green, 0.8),
    )
    d.mark("hanging leaf tip", *tip)
    leaves = (
        (-1.0, 0.5, "left leaf tip", 0.85), (0.95, 0.62, "right leaf tip", 0.85),
        (-0.55, 0.84, "", 0.95), (0.5, 0.88, "", 0.95), (0.0, 1.0, "top leaf tip", 1.08),
    )
    for lean, rise, name, shade in leaves:
        tip = (spread * lean, top - tall * rise)
        bend = (spread * lean * 0.35, top - tall * rise * 0.55)
        d.surface(
            _blade((0.12 * lean, top + 0.06), bend, tip, 0.2), scaled(green, shade),
            detail=0.0 if name else 0.2,
        )
        if name:
            d.mark(name, *tip)
    belly = d.between(-0.1, 0.2)
    d.surface(
        smooth(
            (0, -h), (w * 0.62, -h * 0.88), (w * 0.97, -h * 0.4), (w, h * belly),
            (w * 0.72, h * 0.82), (0, h), (-w * 0.72, h * 0.82), (-w, h * belly),
            (-w * 0.97, -h * 0.4), (-w * 0.62, -h * 0.88),
        ),
        skin, gloss=0.3,
    )
    d.mark("crown joint", 0, -h)
    d.mark("left side", -w, h * belly)
    d.mark("right side", w, h * belly)
    d.mark("foot", 0, h)
    ridge = scaled(skin, 0.6)
    n = d.count(2, 3)
    for k in range(-n + 1, n):
        c = 1.2 * k / n
        for slope in (-1, 1):
            t = np.linspace(-1.6, 1.6, 33)
            x, y = c + 0.75 * slope * t, t
            here = (x**2 + y**2) < 0.92
            if here.sum() > 3:
                path = np.stack([w * x[here], h * y[here]], axis=1)
                d.line(path, ridge, 0.035, detail=0.3 if k == 0 else 0.5)


def snowman(d: Drawing) -> None:
    """A snowman in a hat, its nose to the right, its scarf hanging on the left."""
    r, big = d.between(0.27, 0.36), d.between(0.48, 0.64)
    snow = d.colour("white", "white", "silver", "cream", "glass")
    cloth, felt = d.colour("red", "green", "blue", "violet", "orange"), d.colour("black", "slate")
    body = -r * 0.75
    cy = body + big * 0.92
    wood = d.colour("brown")
    for side, name in ((-1, "left hand"), (1, "right hand")):
        x, y = side * big * 0.8, cy - big * 0.35
        hand = (side * (big + d.between(0.28, 0.5)), y - d.between(-0.1, 0.5))
        d.line(polygon((x, y), hand), wood, 0.06)
        d.mark(name, *hand)
        fx, fy = x + (hand[0] - x) * 0.7, y + (hand[1] - y) * 0.7
        d.line(polygon((fx, fy), (fx + side * 0.03, fy - 0.17)), wood, 0.045, detail=0.4)
    d.surface(ellipse(0, cy, big, big * 0.95, n=26), snow, gloss=0.2)
    d.mark("foot", 0, cy + big * 0.95)
    for k, t in enumerate((-0.3, 0.1, 0.5)):
        d.surface(
            ellipse(0.03, cy + big * t, 0.06, n=10), felt, detail=0.1 if k == 2 else 0.3,
        )
    d.mark("lowest button", 0.03, cy + big * 0.5)
    hy = body - r * 0.75
    d.surface(ellipse(0, hy, r, r * 0.95, n=22), snow, gloss=0.2)
    drop, end = d.between(0.35, 0.6), -r * d.between(0.55, 0.95)
    y = body - 0.02
    d.surface(
        polygon((-r * 0.7, y), (-r * 0.3, y), (end + 0.13, y + drop), (end - 0.1, y + drop)), cloth,
    )
    d.mark("scarf end", end, y + drop)
    d.surface(
        strip(smooth((-r * 0.85, y - 0.07), (0, y + 0.05), (r * 0.85, y - 0.07), closed=False),
              0.15),
        cloth,
    )
    for side in (-1, 1):
        d.surface(
            ellipse(side * r * 0.38 + 0.03, hy - r * 0.14, 0.05, n=10), (0.07, 0.07, 0.08),
            detail=0.15,
        )
        if side < 0:
            d.mark("left eye", side * r * 0.38 + 0.03, hy - r * 0.14)
    nose, ny = d.between(0.3, 0.52), hy + r * 0.16
    tip = (0.05 + nose, ny + d.between(-0.04, 0.1))
    d.surface(polygon((0.03, ny - 0.075), tip, (0.03, ny + 0.075)), d.colour("orange"))
    d.mark("nose tip", *tip)
    brim, tall, top = r * d.between(1.0, 1.3), d.between(0.24, 0.46), hy - r * 0.68
    crown = r * d.between(0.6, 0.8)
    d.surface(polygon((-crown, top), (-crown, top - tall), (crown, top - tall), (crown, top)), felt)
    d.mark("hat top", 0, top - tall)
    d.surface(
        polygon((-crown, top - 0.13), (crown, top - 0.13), (crown, top), (-crown, top)), cloth,
        detail=0.3,
    )
    d.surface(
        smooth((-brim, top), (0, top - 0.04), (brim, top), (0, top + 0.08)), felt,
    )


def _blade(root: tuple[float, float], bend: tuple[float, float], tip: tuple[float, float],
           width: float) -> Path:
    """A pointed leaf along a bent line, widest near its root."""
    path = smooth(root, bend, tip, closed=False, steps=6)
    ahead = np.gradient(path, axis=0)
    ahead /= np.hypot(ahead[:, 0], ahead[:, 1])[:, None]
    t = np.linspace(0.0, 1.0, len(path))[:, None]
    half = width / 2 * (0.7 + 0.9 * t) * (1.0 - t**2)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) * half
    return np.concatenate([path + aside, (path - aside)[::-1]])


_JAWS = (-50.0, 232.0)
"""From where to where the outside of a claw runs, degrees; the gap opens upwards and inwards."""


def _claw(cx: float, cy: float, r: float, side: int) -> Path:
    """A pincer: a disc with a wedge cut out."""
    outside = arc(0, 0, r, r * 0.85, *_JAWS, 22)
    path = np.concatenate([outside, [[-0.12 * r, 0.12 * r]]])
    return path * [side, 1.0] + [cx, cy]


def _claw_tip(cx: float, cy: float, r: float, side: int) -> tuple[float, float]:
    """The outer point of the pincer."""
    a = math.radians(_JAWS[0])
    return cx + side * r * math.cos(a), cy + r * 0.85 * math.sin(a)
