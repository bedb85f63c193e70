"""The house and what stands in it. Left and right are those of the drawing."""

from __future__ import annotations

from pipeline.shapes.colours import VIVID, scaled
from pipeline.shapes.curves import arc, box, ellipse, polygon, smooth, strip
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def house(d: Drawing) -> None:
    """A gabled house: door on the right, window on the left, chimney on the right slope."""
    w, h, roof = d.between(0.6, 0.95), d.between(0.6, 1.0), d.between(0.4, 0.85)
    eave, shift = d.between(0.1, 0.24), d.between(-0.2, 0.2)
    wall = d.colour("cream", "white", "tan", "yellow", "sky", "pink", "orange")
    tiles = d.colour("red", "brown", "slate", "teal")
    wood = d.colour("brown", "blue", "green", "red")
    cx, cw = w * d.between(0.5, 0.62), d.between(0.09, 0.14)
    top = -roof * d.between(0.75, 1.05)
    d.surface(box(cx - cw, top, cx + cw, 0), d.colour("brown", "slate"))
    d.mark("chimney", cx, top)
    d.surface(box(-w, -0.02, w, h), wall)
    d.mark("left foot", -w, h)
    d.mark("right foot", w, h)
    d.surface(polygon((-w - eave, 0), (shift, -roof), (w + eave, 0)), tiles)
    d.mark("roof peak", shift, -roof)
    d.mark("left eave", -w - eave, 0)
    d.mark("right eave", w + eave, 0)
    dx, dw, dh = w * d.between(0.35, 0.55), d.between(0.13, 0.2), h * d.between(0.5, 0.68)
    d.surface(box(dx - dw, h - dh, dx + dw, h), wood)
    d.mark("door top", dx, h - dh)
    d.surface(ellipse(dx + dw * 0.55, h - dh * 0.45, 0.035, n=8), d.colour("gold"), detail=0.7)
    s, wx, wy = d.between(0.14, 0.21), -w * d.between(0.4, 0.55), h * d.between(0.3, 0.45)
    d.surface(box(wx - s, wy - s, wx + s, wy + s), d.colour("glass"), gloss=0.4)
    d.mark("window", wx, wy)
    d.line(polygon((wx - s, wy), (wx + s, wy)), (0.96, 0.95, 0.92), 0.035, detail=0.4)
    d.line(polygon((wx, wy - s), (wx, wy + s)), (0.96, 0.95, 0.92), 0.035, detail=0.4)
    if d.chance(0.4):
        d.surface(ellipse(shift, -roof * 0.38, 0.11, n=14), d.colour("glass"), detail=0.5)


def bottle(d: Drawing) -> None:
    """A bottle, its label towards the left, a shine on the right."""
    w, h = d.between(0.28, 0.46), d.between(0.55, 0.8)
    neck, slope, tall = d.between(0.09, 0.15), d.between(0.22, 0.5), d.between(0.22, 0.5)
    glass = d.colour("green", "brown", "blue", "teal", "violet", "red")
    top = -h - slope - tall
    d.surface(
        smooth(
            (-neck, top), (neck, top), (neck, top + tall * 0.5), (neck * 1.05, top + tall),
            (w * 0.9, -h + 0.02), (w, -h + 0.2), (w, 0), (w, h - 0.1), (w * 0.9, h), (-w * 0.9, h),
            (-w, h - 0.1), (-w, 0), (-w, -h + 0.2), (-w * 0.9, -h + 0.02),
            (-neck * 1.05, top + tall), (-neck, top + tall * 0.5), steps=4,
        ),
        glass, gloss=0.5,
    )
    d.mark("left shoulder", -w * 0.9, -h + 0.02)
    d.mark("right shoulder", w * 0.9, -h + 0.02)
    d.mark("left foot", -w * 0.9, h)
    d.mark("right foot", w * 0.9, h)
    d.mark("neck foot", 0, top + tall)
    cap = d.between(0.12, 0.2)
    d.surface(
        box(-neck * 1.25, top - cap * 0.6, neck * 1.25, top + cap * 0.4),
        d.colour("gold", "red", "white", "tan"),
    )
    d.mark("cap top", 0, top - cap * 0.6)
    y0, y1 = -h * d.between(0.25, 0.5), h * d.between(0.3, 0.65)
    x1 = w * d.between(0.1, 0.4)
    paper = d.colour("cream", "white", "yellow")
    d.surface(box(-w, y0, x1, y1), paper, gloss=0.0)
    d.mark("label upper right", x1, y0)
    d.mark("label lower right", x1, y1)
    if d.chance(0.5):
        d.surface(
            ellipse((x1 - w) / 2, (y0 + y1) / 2, (x1 + w) * 0.28, n=14), d.colour(*VIVID),
            detail=0.5,
        )
    else:
        for t in (0.3, 0.5, 0.7):
            y = y0 + (y1 - y0) * t
            d.line(polygon((-w * 0.82, y), (x1 - 0.08, y)), (0.25, 0.22, 0.25), 0.035, detail=0.6)
    d.line(
        polygon((w * 0.72, -h + 0.25), (w * 0.72, h * 0.5)), scaled(glass, 1.7), 0.05, detail=0.6,
    )


def lamp(d: Drawing) -> None:
    """A table lamp, its switch chain hanging on the right."""
    top, foot, h = d.between(0.2, 0.42), d.between(0.55, 0.85), d.between(0.5, 0.8)
    stem, base = d.between(0.7, 1.15), d.between(0.3, 0.5)
    metal = d.colour("gold", "brown", "slate", "white", "blue")
    shade = d.colour("cream", "yellow", "orange", "red", "lime", "sky", "pink")
    cx, drop = foot * d.between(0.45, 0.62), d.between(0.28, 0.5)
    d.line(polygon((cx, -0.04), (cx, drop)), d.colour("gold", "slate"), 0.03)
    d.surface(ellipse(cx, drop, 0.06, n=12), d.colour("red", "gold"))
    d.mark("chain end", cx, drop)
    if d.chance(0.5):
        d.surface(box(-0.06, -0.1, 0.06, stem), metal, gloss=0.5)
    else:
        fat = d.between(0.18, 0.3)
        d.surface(
            smooth(
                (-0.05, -0.1), (0.05, -0.1), (0.06, stem * 0.25), (fat, stem * 0.62), (0.1, stem),
                (-0.1, stem), (-fat, stem * 0.62), (-0.06, stem * 0.25),
            ),
            metal, gloss=0.6,
        )
    d.mark("stem middle", 0, stem * 0.5)
    d.surface(
        smooth(
            (-base, stem + 0.1), (-base * 0.7, stem - 0.05), (0, stem - 0.1),
            (base * 0.7, stem - 0.05), (base, stem + 0.1), (0, stem + 0.13), steps=4,
        ),
        metal, gloss=0.4,
    )
    d.mark("base left", -base, stem + 0.1)
    d.mark("base right", base, stem + 0.1)
    d.surface(
        smooth(
            (-top, -h), (0, -h + 0.04), (top, -h), ((top + foot) / 2 - 0.02, -h / 2), (foot, 0),
            (0, 0.08), (-foot, 0), (-(top + foot) / 2 + 0.02, -h / 2), steps=4,
        ),
        shade, gloss=0.0,
    )
    d.mark("shade upper left", -top, -h)
    d.mark("shade upper right", top, -h)
    d.mark("shade lower left", -foot, 0)
    d.mark("shade lower right", foot, 0)
    if d.chance(0.5):
        for t in (0.15, 0.85):
            half = top + (foot - top) * t
            d.line(
                smooth(
                    (-half + 0.03, -h + h * t), (0, -h + h * t + 0.05), (half - 0.03, -h + h * t),
                    closed=False,
                ),
                scaled(shade, 0.6), 0.05, detail=0.5,
            )
    else:
        for x in (-0.5, 0.0, 0.5):
            d.line(
                polygon((top * x, -h + 0.05), (foot * x, 0.02)), scaled(shade, 0.7), 0.03,
                detail=0.6,
            )


def mug(d: Drawing) -> None:
    """A mug with its handle on the right and an emblem."""
    w, h, taper = d.between(0.5, 0.78), d.between(0.6, 0.95), d.between(0.78, 1.02)
    lip = d.between(0.1, 0.2)
    clay, emblem = d.colour(*VIVID, "white", "cream"), d.colour(*VIVID, "white")
    y0, y1, out = -h * d.between(0.45, 0.65), h * d.between(0.3, 0.6), d.between(0.34, 0.55)
    ring = smooth(
        (w * 0.85, y0), (w + out * 0.7, y0 - 0.02), (w + out, (y0 + y1) / 2 - 0.05),
        (w + out * 0.6, y1), (w * taper * 0.85, y1 + 0.02), closed=False, steps=6,
    )
    d.surface(strip(ring, d.between(0.13, 0.19)), clay, gloss=0.3)
    d.mark("handle outer", w + out, (y0 + y1) / 2 - 0.05)
    d.surface(
        polygon((-w, -h), (w, -h), *arc(0, h - lip * 0.6, w * taper, lip * 0.8, 0, 180, 14)), clay,
        gloss=0.4,
    )
    d.mark("handle top", w, y0)
    d.mark("handle foot", w * (1 + (taper - 1) * (y1 + h) / (2 * h)), y1)
    d.mark("left foot", -w * taper, h - lip * 0.6)
    d.mark("right foot", w * taper, h - lip * 0.6)
    d.surface(ellipse(0, -h, w, lip, n=24), scaled(clay, 1.12))
    d.mark("rim left", -w, -h)
    d.mark("rim right", w, -h)
    d.surface(
        ellipse(0, -h + lip * 0.12, w * 0.86, lip * 0.72, n=20), d.colour("brown", "black"),
        detail=0.3,
    )
    cx, cy, r = -w * d.between(0.0, 0.25), h * d.between(-0.1, 0.2), d.between(0.18, 0.3)
    if d.chance(0.5):
        d.surface(
            smooth(
                (cx, cy + r), (cx - r, cy - r * 0.2), (cx - r * 0.5, cy - r * 0.8),
                (cx, cy - r * 0.4), (cx + r * 0.5, cy - r * 0.8), (cx + r, cy - r * 0.2),
            ),
            emblem,
        )
    else:
        d.surface(ellipse(cx, cy, r, n=18), emblem)
    d.mark("emblem", cx, cy)


def chair(d: Drawing) -> None:
    """A chair seen obliquely, its back on the left."""
    w, back, leg = d.between(0.55, 0.8), d.between(0.8, 1.2), d.between(0.6, 0.95)
    dx, dy, lean = d.between(0.22, 0.4), d.between(0.16, 0.3), d.between(0.0, 0.22)
    t = d.between(0.09, 0.14)
    wood = d.colour("brown", "tan", "red", "white", "blue", "green", "orange")
    shade = scaled(wood, 0.75)
    # The seat's corners: near and far, by the back (left) and in front (right).
    near_left, near_right = (-w, 0.0), (w * 0.75, 0.0)
    far_left, far_right = (-w + dx, -dy), (w * 0.75 + dx, -dy)
    for x, y, name in ((*far_left, ""), (*far_right, "far front foot")):
        d.surface(box(x - t / 2, y, x + t / 2, y + leg * 0.95), shade, detail=0.0 if name else 0.2)
        if name:
            d.mark(name, x, y + leg * 0.95)
    d.surface(
        strip(polygon((far_left[0], far_left[1]), (far_left[0] - lean, far_left[1] - back)), t),
        shade,
    )
    d.mark("far back post", far_left[0] - lean, far_left[1] - back)
    rungs = d.count(2, 4)
    for k in range(rungs):
        f = 0.95 - 0.7 * k / rungs
        a = (near_left[0] - lean * f, -back * f)
        b = (far_left[0] - lean * f, far_left[1] - back * f)
        d.surface(
            polygon(
                (a[0], a[1] - t * 0.7), (b[0], b[1] - t * 0.7), (b[0], b[1] + t * 0.7),
                (a[0], a[1] + t * 0.7),
            ),
            wood, detail=0.0 if k == 0 else 0.35,
        )
    d.surface(strip(polygon(near_left, (near_left[0] - lean, -back)), t), wood)
    d.mark("near back post", near_left[0] - lean, -back)
    for x, name in ((near_left[0], "near back foot"), (near_right[0], "near front foot")):
        d.surface(box(x - t / 2, 0, x + t / 2, leg), wood)
        d.mark(name, x, leg)
    cushion = d.colour(*VIVID) if d.chance(0.5) else scaled(wood, 1.15)
    d.surface(
        polygon(
            (near_left[0] - t / 2, 0.0), far_left, (far_right[0] + t / 2, far_right[1]),
            (near_right[0] + t / 2, 0.0),
        ),
        cushion,
    )
    d.mark("seat far corner", *far_right)
    d.mark("seat back corner", near_left[0], -0.01)
    d.surface(box(near_left[0] - t / 2, 0.0, near_right[0] + t / 2, t * 0.9), wood)
    d.mark("seat front corner", near_right[0], 0.02)


def teapot(d: Drawing) -> None:
    """A teapot, spout on the right, handle on the left."""
    w, h = d.between(0.52, 0.72), d.between(0.45, 0.68)
    clay, trim = d.colour(*VIVID, "white", "cream", "brown"), d.colour("gold", *VIVID)
    reach, rise = d.between(0.4, 0.62), d.between(0.3, 0.6)
    tip = (w + reach, -rise)
    d.surface(
        strip(
            smooth(
                (w * 0.6, h * 0.45), (w + reach * 0.45, h * 0.2), (w + reach * 0.62, -rise * 0.6),
                tip, closed=False,
            ),
            0.34, 0.13,
        ),
        clay, gloss=0.4,
    )
    d.mark("spout tip", *tip)
    out, y0, y1 = d.between(0.35, 0.55), -h * d.between(0.45, 0.6), h * d.between(0.35, 0.55)
    d.surface(
        strip(
            smooth(
                (-w * 0.7, y0), (-w - out * 0.7, y0 - 0.05), (-w - out, (y0 + y1) / 2 - 0.05),
                (-w - out * 0.5, y1), (-w * 0.7, y1), closed=False,
            ),
            d.between(0.11, 0.16),
        ),
        clay,
    )
    d.mark("handle outer", -w - out, (y0 + y1) / 2 - 0.05)
    foot = w * d.between(0.55, 0.75)
    d.surface(box(-foot, h * 0.82, foot, h * 1.06, 0.04), trim)
    d.mark("foot left", -foot, h * 1.04)
    d.mark("foot right", foot, h * 1.04)
    d.surface(
        smooth(
            (-w * 0.5, -h * 0.85), (0, -h * 0.97), (w * 0.5, -h * 0.85), (w * 0.95, -h * 0.35),
            (w, h * 0.2), (w * 0.6, h * 0.88), (0, h * 0.97), (-w * 0.6, h * 0.88), (-w, h * 0.2),
            (-w * 0.95, -h * 0.35),
        ),
        clay, gloss=0.6,
    )
    d.mark("handle top", -w * 0.86, y0)
    d.mark("spout foot", w * 0.93, h * 0.3)
    lid = w * d.between(0.5, 0.66)
    d.surface(
        smooth(
            (-lid, -h * 0.82), (-lid * 0.6, -h * 1.08), (0, -h * 1.18), (lid * 0.6, -h * 1.08),
            (lid, -h * 0.82), (0, -h * 0.74),
        ),
        scaled(clay, 0.88), gloss=0.4,
    )
    d.mark("lid rim", lid, -h * 0.84)
    r = d.between(0.07, 0.12)
    d.surface(ellipse(0, -h * 1.18 - r * 0.8, r, n=14), trim, gloss=0.5)
    d.mark("knob", 0, -h * 1.18 - r * 0.8)
    if d.chance(0.6):
        d.surface(
            strip(
                smooth((-w * 0.95, 0.04), (0, 0.14), (w * 0.95, 0.04), closed=False),
                d.between(0.08, 0.16),
            ),
            trim, detail=0.5,
        )
    else:
        for x in (-0.5, 0.0, 0.5):
            d.surface(ellipse(x * w, h * 0.1, 0.09, n=12), trim, detail=0.6)
