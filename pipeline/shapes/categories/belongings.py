"""Things one wears or carries. Left and right are those of the drawing."""

from __future__ import annotations

from pipeline.shapes.colours import VIVID, scaled
from pipeline.shapes.curves import arc, box, ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def umbrella(d: Drawing) -> None:
    """An open umbrella, its handle hooked to the right."""
    w, h = d.between(0.8, 1.05), d.between(0.5, 0.85)
    shaft, hook = d.between(0.75, 1.15), d.between(0.12, 0.2)
    a = d.colour(*VIVID)
    b = scaled(a, 0.7) if d.chance(0.4) else d.colour("white", "yellow", *VIVID)
    stick = d.colour("brown", "slate")
    cane = smooth(
        (0, -0.2), (0, shaft * 0.6), (0, shaft), (hook, shaft + hook * 0.95), (hook * 2, shaft),
        (hook * 2, shaft - 0.08), closed=False, steps=6,
    )
    d.line(cane, stick, 0.09)
    d.mark("hook foot", hook, shaft + hook * 0.95)
    d.mark("hook end", hook * 2, shaft - 0.08)
    d.line(polygon((0, -h), (0, -h - d.between(0.1, 0.22))), stick, 0.07)
    sag = d.between(0.05, 0.14)
    scallop = [(t, -4 * sag * t * (1 - t)) for t in (0.0, 0.25, 0.5, 0.75)]
    hem = [(w * (k + t) / 2, y) for k in range(-2, 2) for t, y in scallop]
    dome = arc(0, 0, w, h, 0, -180, 20)
    d.surface(polygon(*hem, *dome), a)
    d.mark("canopy top", 0, -h)
    d.mark("left corner", -w, 0)
    d.mark("right corner", w, 0)
    for side, name in ((-1, "left rib"), (1, "right rib")):
        x = side * w * 0.5
        edge = arc(0, 0, x, h, 0, -90, 8)
        d.surface(polygon(*edge, *[(x * t, y) for t, y in scallop]), b)
        d.mark(name, x, 0)
    d.line(polygon((0, -h), (0, 0)), scaled(a, 0.6), 0.03, detail=0.3)
    d.mark("middle rib", 0, 0)


def hat(d: Drawing) -> None:
    """A brimmed hat with a band and a feather on the right."""
    w, h = d.between(0.45, 0.62), d.between(0.6, 1.05)
    brim, deep, taper = d.between(0.85, 1.1), d.between(0.13, 0.22), d.between(0.72, 1.12)
    felt = d.colour("brown", "black", "slate", "tan", "red", "green", "blue", "violet")
    ribbon = d.colour("red", "yellow", "white", "orange", "sky")
    d.surface(ellipse(0, 0, brim, deep, n=28), scaled(felt, 0.88))
    d.mark("brim left", -brim, 0)
    d.mark("brim right", brim, 0)
    d.mark("brim front", 0, deep)
    dent = d.between(-0.06, 0.14)
    d.surface(
        smooth(
            (-w, 0), (-w * (1 + taper) / 2, -h * 0.5), (-w * taper, -h), (0, -h + dent),
            (w * taper, -h), (w * (1 + taper) / 2, -h * 0.5), (w, 0), (0, deep * 0.6), steps=4,
        ),
        felt,
    )
    d.mark("crown left", -w * taper, -h)
    d.mark("crown right", w * taper, -h)
    band, lift = d.between(0.14, 0.26), -0.02
    k = 1 + (taper - 1) * band / h
    d.surface(
        smooth(
            (-w, lift), (-w * k, lift - band), (0, lift - band + deep * 0.6), (w * k, lift - band),
            (w, lift), (0, deep * 0.6), steps=4,
        ),
        ribbon,
    )
    d.mark("band left", -w * k, lift - band * 0.8)
    x, y = w * 0.5, lift - band * 0.2
    tip = (w + d.between(0.15, 0.5), -h * d.between(0.7, 1.05))
    d.surface(
        smooth(
            (x, y + 0.05), (x + 0.02, (y + tip[1]) / 2 - 0.1), tip,
            (x + 0.22, (y + tip[1]) / 2 + 0.12),
        ),
        d.colour("white", *VIVID),
    )
    d.mark("feather tip", *tip)
    d.mark("feather foot", x, y + 0.03)
    d.line(
        polygon((x, y + 0.05), (x * 0.3 + tip[0] * 0.7, y * 0.3 + tip[1] * 0.7)), (0.3, 0.26, 0.22),
        0.025, detail=0.7,
    )


def shoe(d: Drawing) -> None:
    """A laced shoe, its toe to the right."""
    w, h, ankle = 1.0, d.between(0.34, 0.48), d.between(0.2, 0.62)
    sole, heel = d.between(0.12, 0.2), d.between(0.0, 0.12)
    upper = d.colour(*VIVID, "brown", "white", "slate")
    rubber = d.colour("white", "cream", "slate", "tan")
    open_, toe = d.between(-0.28, -0.08), d.between(0.2, 0.3)
    top = -h - ankle
    tongue = (open_ + 0.14, top - d.between(0.06, 0.16))
    d.surface(
        smooth(
            (open_ - 0.25, top + 0.12), (open_ - 0.02, top), tongue, (open_ + 0.32, -h * 0.8),
            (open_, -h * 0.5),
        ),
        scaled(upper, 0.75),
    )
    d.mark("tongue", *tongue)
    d.surface(
        smooth(
            (-w * 0.95, 0.0), (-w * 0.96, -h * 0.6), (-w * 0.92, top), (-w * 0.6, top + 0.07),
            (open_, top + 0.02), (open_ + 0.3, -h * 0.86), (w * 0.45, -toe * 1.25),
            (w * 0.88, -toe), (w, 0.0), (0, 0.05), steps=4,
        ),
        upper, gloss=0.3,
    )
    d.mark("collar back", -w * 0.92, top)
    d.mark("collar front", open_, top + 0.02)
    d.surface(
        smooth((w * 0.5, 0.02), (w * 0.56, -toe * 1.02), (w * 0.88, -toe), (w, 0.0), steps=4),
        rubber, detail=0.2,
    )
    d.mark("toe cap", w * 0.88, -toe)
    d.surface(
        smooth(
            (-w * 0.97, -0.03), (0, 0.0), (w * 1.0, -0.03), (w * 1.04, sole * 0.6), (w * 0.9, sole),
            (0, sole), (-w * 0.4, sole), (-w * 0.5, sole + heel), (-w, sole + heel),
            (-w * 1.02, 0.05), steps=4,
        ),
        rubber, gloss=0.0,
    )
    d.mark("sole front", w * 1.03, sole * 0.6)
    d.mark("heel", -w, sole + heel)
    n = d.count(3, 4)
    for k in range(n):
        f = (k + 0.5) / n
        x, y = open_ + 0.06 + (w * 0.42 - open_) * f, top + 0.14 + (-toe * 1.1 - top) * f
        d.line(
            polygon((x - 0.2, y + 0.12), (x + 0.06, y - 0.03)), (0.97, 0.97, 0.94), 0.05,
            detail=0.15 if k == 0 else 0.35,
        )
        if k == 0:
            d.mark("top lace", x - 0.07, y + 0.045)
    kind, y = d.count(0, 2), -h * 0.42
    if kind == 0:
        d.surface(
            strip(
                smooth(
                    (-w * 0.5, y + 0.16), (-w * 0.15, y + 0.16), (w * 0.3, y - 0.14), closed=False,
                ),
                0.05, 0.13,
            ),
            rubber, detail=0.3,
        )
    elif kind == 1:
        d.surface(ellipse(-w * 0.25, y, 0.15, n=14), rubber, detail=0.3)
    else:
        d.surface(
            polygon(
                (-w * 0.45, y + 0.2), (-w * 0.3, y + 0.2), (0.0, y - 0.16), (-w * 0.15, y - 0.16),
            ),
            rubber, detail=0.3,
        )
    d.mark("badge", -w * 0.23, y)


def guitar(d: Drawing) -> None:
    """An acoustic guitar, upright, with a cutaway on the right of the neck."""
    low, high, h = d.between(0.45, 0.74), d.between(0.34, 0.5), d.between(0.5, 0.8)
    waist = high * d.between(0.62, 0.88)
    neck, thin = d.between(0.55, 1.15), d.between(0.06, 0.085)
    wood = d.colour("orange", "tan", "brown", "red", "gold", "blue")
    dark = d.colour("brown", "black")
    top = -h - neck
    cut = high * d.between(0.45, 0.65)
    d.surface(
        smooth(
            (-0.08, -h), (-high * 0.8, -h * 0.95), (-high, -h * 0.55), (-waist, -0.1),
            (-low, h * 0.5), (-low * 0.6, h * 0.98), (0, h * 1.05), (low * 0.6, h * 0.98),
            (low, h * 0.5), (waist, -0.1), (high * 0.98, -h * 0.42), (cut, -h * 0.55),
            (0.09, -h * 0.75), steps=4,
        ),
        wood, gloss=0.5,
    )
    d.mark("upper bout left", -high, -h * 0.55)
    d.mark("upper bout right", high * 0.98, -h * 0.42)
    d.mark("lower bout left", -low, h * 0.5)
    d.mark("lower bout right", low, h * 0.5)
    d.mark("body foot", 0, h * 1.05)
    r, y = d.between(0.15, 0.21), -h * d.between(0.05, 0.18)
    d.surface(ellipse(0, y, r, n=18), scaled(dark, 0.6))
    d.mark("sound hole", 0, y)
    by, bw = h * d.between(0.5, 0.64), d.between(0.2, 0.3)
    d.surface(box(-bw, by - 0.05, bw, by + 0.05), dark)
    d.mark("bridge", 0, by)
    d.surface(box(-thin, top, thin, y - r), dark)
    n = d.count(3, 6)
    for k in range(1, n + 1):
        fy = top + neck * k / (n + 1)
        d.line(polygon((-thin, fy), (thin, fy)), d.colour("silver"), 0.025, detail=0.8)
    head = d.between(0.24, 0.44)
    for side in (-1, 1):
        for t in (0.3, 0.7):
            d.surface(
                ellipse(side * (thin + 0.11), top - head * t, 0.055, 0.045, n=10),
                d.colour("silver", "cream"), detail=0.25,
            )
    d.surface(
        polygon(
            (-thin, top + 0.02), (-thin - 0.07, top - head), (thin + 0.07, top - head),
            (thin, top + 0.02),
        ),
        wood,
    )
    d.mark("head top", 0, top - head)
    for x in (-0.025, 0.025):
        d.line(polygon((x, top), (x, by)), d.colour("silver"), 0.015, detail=0.8)


def key(d: Drawing) -> None:
    """A key lying with its bow on the left, its teeth down on the right."""
    r, oval, shaft = d.between(0.32, 0.46), d.between(0.85, 1.2), d.between(0.9, 1.35)
    t, ring = d.between(0.1, 0.16), d.between(0.13, 0.2)
    metal = d.colour("gold", "gold", "silver", "brown", "slate")
    end = r + shaft
    d.surface(strip(arc(0, 0, r, r * oval, 2, 358, 30), ring), metal, gloss=0.5)
    d.mark("bow left", -r - ring * 0.3, 0)
    d.mark("bow top", 0, -r * oval - ring * 0.3)
    d.mark("bow foot", 0, r * oval + ring * 0.3)
    first, last = d.between(0.16, 0.36), d.between(0.24, 0.46)
    gap, wide = d.between(0.12, 0.2), d.between(0.1, 0.15)
    x2 = end - wide - 0.03
    x1 = x2 - gap - wide
    for x, deep, name in ((x1, first, "inner tooth"), (x2, last, "outer tooth")):
        d.surface(box(x, 0, x + wide, t / 2 + deep), metal)
        d.mark(name, x + wide / 2, t / 2 + deep)
    d.surface(box(r - ring * 0.2, -t / 2, end, t / 2, 0.03), metal, gloss=0.4)
    d.mark("tip", end, 0)
    cx = r + ring / 2 + d.between(0.06, 0.2)
    d.surface(box(cx - 0.05, -t * 1.1, cx + 0.05, t * 1.1), scaled(metal, 0.85))
    d.mark("collar", cx, 0)
    if d.chance(0.4):
        d.surface(box(cx + 0.1, -t, cx + 0.17, t), scaled(metal, 0.85), detail=0.5)
    d.mark("bow joint", r, 0)
