"""Things that drive, sail and fly. Seen from the side, heading right unless said otherwise."""

from __future__ import annotations

import math

from pipeline.shapes.colours import VIVID, Colour, scaled
from pipeline.shapes.curves import box, ellipse, polygon, smooth
from pipeline.shapes.drawing import Drawing

# Coordinates read better in rows.
# fmt: off


def _wheel(d: Drawing, name: str, x: float, y: float, r: float, hub: Colour) -> None:
    d.surface(ellipse(x, y, r, n=20), d.colour("black"))
    d.surface(ellipse(x, y, r * 0.5, n=14), hub, detail=0.25, gloss=0.4)
    d.mark(name, x, y)


def car(d: Drawing) -> None:
    """A saloon or hatchback."""
    w, h = d.between(0.9, 1.05), d.between(0.26, 0.38)
    roof = h + d.between(0.26, 0.44)
    rear, front = -w * d.between(0.3, 0.62), w * d.between(0.05, 0.22)
    tail, screen = -w * d.between(0.72, 0.92), w * d.between(0.38, 0.58)
    paint, glass = d.colour(*VIVID, "white", "silver"), d.colour("glass")
    nose = h * d.between(0.55, 0.8)
    d.surface(
        smooth(
            (-w, 0.1), (-w * 1.01, -h * 0.5), (tail, -h * 0.98), (rear, -roof),
            ((rear + front) / 2, -roof * 1.05), (front, -roof), (screen, -h), (w * 0.88, -nose),
            (w, -nose * 0.4), (w, 0.12), (0, 0.15), steps=4,
        ),
        paint, gloss=0.5,
    )
    d.mark("rear bumper", -w, 0.05)
    d.mark("front bumper", w, 0.06)
    d.mark("roof rear", rear, -roof)
    d.mark("roof front", front, -roof)
    d.mark("bonnet joint", screen, -h)
    mid = (rear + front) / 2 + d.between(-0.05, 0.08)
    top, low = -roof + 0.1, -h * 0.98
    d.surface(
        polygon((rear + 0.07, top), (mid - 0.03, top), (mid - 0.03, low), (tail + 0.2, low)), glass,
        detail=0.2, gloss=0.4,
    )
    d.surface(
        polygon((mid + 0.03, top), (front - 0.02, top), (screen - 0.1, low), (mid + 0.03, low)),
        glass, detail=0.1, gloss=0.4,
    )
    d.surface(
        ellipse(w * 0.9, -nose * 0.45, 0.08, 0.06, n=12), d.colour("yellow", "cream"), detail=0.1,
    )
    d.mark("headlight", w * 0.9, -nose * 0.45)
    d.line(polygon((mid, low + 0.02), (mid, 0.08)), scaled(paint, 0.5), 0.025, detail=0.7)
    d.line(
        polygon((mid - 0.18, -h * 0.72), (mid - 0.06, -h * 0.72)), scaled(paint, 0.45), 0.04,
        detail=0.8,
    )
    r, hub = d.between(0.18, 0.27), d.colour("silver")
    _wheel(d, "rear wheel", -w * d.between(0.54, 0.66), 0.14, r, hub)
    _wheel(d, "front wheel", w * d.between(0.52, 0.64), 0.14, r, hub)


def truck(d: Drawing) -> None:
    """A lorry: a load box behind, a cab in front."""
    w, load, gap = 1.0, d.between(0.6, 0.95), d.between(0.04, 0.1)
    joint, cab = d.between(0.2, 0.42), d.between(0.48, 0.72)
    paint, cargo = d.colour(*VIVID), d.colour("white", "cream", "silver", *VIVID)
    d.surface(box(-w, -0.04, w * 0.9, 0.1), d.colour("slate"))
    d.surface(box(-w, -load, joint - gap, 0.0), cargo)
    d.mark("load top rear", -w, -load)
    d.mark("load top front", joint - gap, -load)
    d.mark("load foot rear", -w, 0.0)
    if d.chance(0.6):
        d.surface(
            box(-w * 0.82, -load * 0.72, joint - gap - 0.18, -load * 0.36), d.colour(*VIVID),
            detail=0.5,
        )
    else:
        for k in range(1, 4):
            x = -w + (joint - gap + w) * k / 4
            d.line(polygon((x, -load * 0.93), (x, -0.06)), scaled(cargo, 0.6), 0.03, detail=0.6)
    slope = d.between(0.04, 0.22)
    d.surface(
        polygon((joint, -cab), (w - slope, -cab), (w, -cab * 0.45), (w, 0.1), (joint, 0.1)), paint,
        gloss=0.4,
    )
    d.mark("cab roof front", w - slope, -cab)
    d.mark("front bumper", w, 0.08)
    d.surface(
        polygon(
            (joint + 0.16, -cab * 0.86), (w - slope - 0.04, -cab * 0.86), (w - 0.08, -cab * 0.45),
            (joint + 0.16, -cab * 0.45),
        ),
        d.colour("glass"), detail=0.05, gloss=0.4,
    )
    d.mark("cab window", (joint + w) / 2 + 0.02, -cab * 0.64)
    d.surface(ellipse(w - 0.06, -0.05, 0.055, n=10), d.colour("yellow"), detail=0.6)
    r, hub = d.between(0.17, 0.23), d.colour("silver")
    rear = -w * d.between(0.58, 0.72)
    if d.chance(0.45):
        d.surface(ellipse(rear + r * 2.2, 0.14, r, n=20), d.colour("black"))
    _wheel(d, "rear wheel", rear, 0.14, r, hub)
    _wheel(d, "front wheel", w * d.between(0.6, 0.7), 0.14, r, hub)


def bicycle(d: Drawing) -> None:
    """Two wheels, a diamond frame, saddle and handlebar."""
    r, base = d.between(0.42, 0.52), d.between(0.6, 0.72)
    frame, tyre = d.colour(*VIVID), d.colour("black")
    crank = (d.between(-0.12, 0.02), d.between(0.0, 0.08))
    seat = (d.between(-0.34, -0.2), -d.between(0.5, 0.68))
    head = (d.between(0.32, 0.44), -d.between(0.48, 0.62))
    for side, name in ((-1, "rear"), (1, "front")):
        x = side * base
        for k in range(d.count(3, 4)):
            a = math.pi * (k + 0.2) / 4
            dx, dy = r * math.cos(a), r * math.sin(a)
            d.line(polygon((x - dx, -dy), (x + dx, dy)), d.colour("silver"), 0.018, detail=0.85)
        d.line(ellipse(x, 0, r, n=24), tyre, 0.085, closed=True)
        d.mark(f"{name} tyre", x + side * r, 0)
    rear, front = (-base, 0.0), (base, 0.0)
    d.line(polygon(seat, rear, crank), frame, 0.075)
    d.mark("rear hub", *rear)
    d.line(polygon(crank, seat, head, crank), frame, 0.075)
    d.mark("crank", *crank)
    d.line(polygon(front, head), frame, 0.075)
    d.mark("front hub", *front)
    d.mark("steering head", *head)
    d.line(ellipse(*crank, 0.11, n=12), d.colour("slate"), 0.05, closed=True, detail=0.4)
    lean = ((seat[0] - crank[0]) * 0.22, (seat[1] - crank[1]) * 0.22)
    sx, sy = seat[0] + lean[0], seat[1] + lean[1]
    d.line(polygon(seat, (sx, sy)), frame, 0.05)
    d.surface(
        smooth((sx - 0.17, sy - 0.05), (sx, sy - 0.05), (sx + 0.18, sy - 0.01), (sx, sy + 0.05)),
        d.colour("black", "brown"),
    )
    d.mark("saddle", sx, sy - 0.02)
    hx, hy = head[0] - 0.05, head[1] - d.between(0.14, 0.26)
    d.line(polygon(head, (hx, hy)), frame, 0.06)
    if d.chance(0.5):
        bar = smooth(
            (hx, hy), (hx + 0.2, hy - 0.04), (hx + 0.24, hy + 0.1), (hx + 0.1, hy + 0.16),
            closed=False,
        )
    else:
        bar = smooth((hx + 0.04, hy), (hx - 0.08, hy - 0.07), (hx - 0.24, hy - 0.04), closed=False)
    d.line(bar, d.colour("slate", "black"), 0.07)
    d.mark("handlebar", hx, hy)


def airplane(d: Drawing) -> None:
    """An airliner seen obliquely: near wing towards the viewer, far wing beyond."""
    f, w = d.between(0.13, 0.2), 1.0
    body = d.colour("white", "silver", "cream", "sky", "yellow", "orange")
    trim = d.colour("red", "blue", "green", "orange", "violet")
    near, sweep, far = d.between(0.6, 0.85), d.between(0.3, 0.62), d.between(0.35, 0.55)
    root, chord = d.between(0.0, 0.16), d.between(0.3, 0.42)
    d.surface(
        polygon(
            (root, -f * 0.6), (root - chord * 0.8, -f * 0.6), (root - sweep * 0.8 - 0.17, -far),
            (root - sweep * 0.8, -far),
        ),
        scaled(body, 0.82),
    )
    d.mark("far wing tip", root - sweep * 0.8 - 0.06, -far + 0.02)
    fin = d.between(0.38, 0.55)
    d.surface(
        polygon(
            (-w * 0.98, -f * 0.3), (-w * 1.02, -fin), (-w * 0.86, -fin), (-w * 0.58, -f * 0.85),
        ),
        trim,
    )
    d.mark("tail fin top", -w * 0.94, -fin)
    d.surface(
        smooth(
            (w, 0.02), (w * 0.88, -f * 0.75), (w * 0.6, -f), (-w * 0.5, -f), (-w, -f * 0.55),
            (-w * 0.98, -f * 0.2), (-w * 0.5, f * 0.75), (w * 0.5, f), (w * 0.88, f * 0.75),
        ),
        body, gloss=0.3,
    )
    d.mark("nose", w, 0.02)
    d.mark("tail end", -w, -f * 0.4)
    d.surface(
        polygon(
            (w * 0.74, -f * 0.88), (w * 0.9, -f * 0.55), (w * 0.86, -f * 0.28),
            (w * 0.72, -f * 0.32),
        ),
        d.colour("slate"), detail=0.1,
    )
    d.mark("cockpit", w * 0.8, -f * 0.55)
    for k in range(d.count(4, 6)):
        d.surface(
            ellipse(w * (0.55 - 0.19 * k), -f * 0.3, 0.045, n=8), d.colour("slate"), detail=0.6,
        )
    d.surface(
        polygon(
            (-w * 0.7, f * 0.05), (-w * 0.92, f * 0.05), (-w * 1.08, f * 0.1 + 0.2),
            (-w * 0.97, f * 0.1 + 0.2),
        ),
        trim,
    )
    d.mark("tailplane tip", -w * 1.02, f * 0.1 + 0.18)
    ex, ey = root - sweep * 0.42 + 0.14, near * 0.45
    d.surface(
        smooth(
            (ex - 0.17, ey - 0.05), (ex + 0.12, ey - 0.07), (ex + 0.17, ey), (ex + 0.12, ey + 0.08),
            (ex - 0.17, ey + 0.05),
        ),
        scaled(trim, 0.9),
    )
    d.mark("engine", ex + 0.13, ey)
    d.surface(
        polygon(
            (root, f * 0.45), (root - chord, f * 0.45), (root - sweep - 0.18, near),
            (root - sweep, near),
        ),
        scaled(body, 0.92),
    )
    d.mark("near wing tip", root - sweep - 0.08, near - 0.02)


def sailboat(d: Drawing) -> None:
    """A hull, a mast, a main sail behind it and a jib before it, a pennant blowing back."""
    w, deep = d.between(0.7, 1.0), d.between(0.24, 0.4)
    mast, mx = d.between(1.2, 1.65), d.between(-0.08, 0.16)
    hull = d.colour("brown", "red", "blue", "white", "green")
    main = d.colour("white", "cream", "orange", "red")
    jib = d.colour("white", "cream", "sky", "lime")
    clew, boom = -w * d.between(0.6, 0.95), -d.between(0.12, 0.2)
    d.surface(
        smooth(
            (mx, -mast), (mx - 0.02, -mast * 0.55), (mx - 0.04, boom), (clew * 0.5, boom),
            (clew, boom), (clew * 0.72, -mast * 0.36), (clew * 0.33, -mast * 0.74),
        ),
        main,
    )
    d.mark("boom end", clew, boom)
    tack, head = w * d.between(0.72, 0.98), -mast * d.between(0.72, 0.95)
    d.surface(polygon((mx + 0.06, head), (tack, -0.1), (mx + 0.08, -0.14)), jib)
    d.mark("jib foot", tack, -0.1)
    d.mark("jib head", mx + 0.06, head)
    d.line(polygon((mx, 0.06), (mx, -mast - 0.12)), d.colour("brown"), 0.06)
    d.mark("mast top", mx, -mast - 0.12)
    d.surface(
        polygon((mx, -mast - 0.14), (mx - 0.26, -mast - 0.05), (mx, -mast + 0.03)),
        d.colour("red", "yellow", "blue"), detail=0.35,
    )
    for k in range(d.count(0, 3)):
        y = boom - 0.2 - 0.27 * k
        d.line(
            polygon((mx - 0.06, y), (clew * (0.82 - 0.17 * k), y)), scaled(main, 0.7), 0.025,
            detail=0.8,
        )
    bow, stern = w * 1.05, -w * d.between(0.85, 1.0)
    keel = d.between(0.5, 0.72)
    d.surface(
        smooth(
            (stern, 0.0), (0, 0.03), (bow, -0.05), (w * keel, deep * 0.9), (0, deep),
            (stern * 0.8, deep * 0.85), steps=4,
        ),
        hull, gloss=0.3,
    )
    d.mark("stern", stern, 0.0)
    d.mark("bow", bow, -0.05)
    d.mark("keel front", w * keel, deep * 0.9)
    d.mark("keel rear", stern * 0.8, deep * 0.85)
    if d.chance(0.6):
        d.line(
            smooth(
                (stern * 0.9, deep * 0.38), (0, deep * 0.45), (w * 0.85, deep * 0.33), closed=False,
            ),
            d.colour("white", "yellow"), 0.06, detail=0.6,
        )


def rocket(d: Drawing) -> None:
    """A body with a nose cone, a great fin on the left, a narrow one on the right, a flame."""
    h, w = d.between(0.85, 1.15), d.between(0.26, 0.42)
    nose = d.between(0.35, 0.6)
    paint = d.colour("white", "silver", "cream", "sky")
    trim = d.colour("red", "orange", "blue", "violet")
    flame = d.between(0.3, 0.6)
    d.surface(
        smooth(
            (-w * 0.5, h * 0.55), (-w * 0.42, h * 0.55 + flame * 0.5), (0, h * 0.55 + flame),
            (w * 0.42, h * 0.55 + flame * 0.5), (w * 0.5, h * 0.55),
        ),
        d.colour("orange", "yellow"), gloss=0.0,
    )
    d.mark("flame tip", 0, h * 0.55 + flame)
    left, right, drop = d.between(0.4, 0.6), d.between(0.16, 0.28), d.between(0.1, 0.3)
    for side, reach in ((-1, left), (1, right)):
        x = side * w * 0.92
        tip = (x + side * reach, h * 0.55 + drop)
        d.surface(
            smooth((x, h * 0.02), (x + side * reach * 0.75, h * 0.3), tip, (x, h * 0.52), steps=4),
            trim,
        )
        d.mark(f"{'left' if side < 0 else 'right'} fin tip", *tip)
    d.surface(
        smooth(
            (-w * 0.7, h * 0.58), (-w, 0.1), (-w * 0.97, -h * 0.3), (-w * 0.72, -h + nose * 0.6),
            (0, -h - 0.05), (w * 0.72, -h + nose * 0.6), (w * 0.97, -h * 0.3), (w, 0.1),
            (w * 0.7, h * 0.58),
        ),
        paint, gloss=0.5,
    )
    y, half = -h + nose * 0.6, w * 0.72
    d.surface(
        smooth(
            (-half, y), (-half * 0.55, y - nose * 0.36), (0, -h - 0.05),
            (half * 0.55, y - nose * 0.36), (half, y), (0, y + 0.05),
        ),
        trim, gloss=0.4,
    )
    d.mark("nose tip", 0, -h - 0.05)
    d.mark("nose left joint", -half, y)
    d.mark("nose right joint", half, y)
    r, wy = w * d.between(0.34, 0.5), -h * d.between(0.12, 0.3)
    d.surface(ellipse(0, wy, r, n=18), scaled(trim, 0.7))
    d.surface(ellipse(0, wy, r * 0.68, n=14), d.colour("glass"), detail=0.5, gloss=0.6)
    d.mark("porthole", 0, wy)
    if d.chance(0.5):
        d.surface(ellipse(0, wy + r * 2.3, r * 0.6, n=12), d.colour("glass"), detail=0.5, gloss=0.5)
    d.surface(box(-w * 0.6, h * 0.5, w * 0.6, h * 0.62), d.colour("slate"))
    d.mark("nozzle", 0, h * 0.62)


def helicopter(d: Drawing) -> None:
    """A cabin with a window, a tail boom to the left, two rotors, skids below."""
    w, h = d.between(0.42, 0.58), d.between(0.32, 0.44)
    boom, span = d.between(0.8, 1.1), d.between(0.75, 1.05)
    paint, metal = d.colour(*VIVID), d.colour("slate", "silver")
    end, up = -w * 0.6 - boom, -d.between(0.05, 0.2)
    d.surface(
        polygon((-w * 0.4, -h * 0.55), (end, up - 0.05), (end, up + 0.06), (-w * 0.4, h * 0.25)),
        scaled(paint, 0.9),
    )
    fin = d.between(0.22, 0.34)
    d.surface(
        polygon((end + 0.16, up), (end - 0.04, up), (end - 0.12, up - fin), (end + 0.02, up - fin)),
        paint,
    )
    d.mark("tail fin top", end - 0.05, up - fin)
    r = d.between(0.15, 0.22)
    d.line(polygon((end - r, up - r * 0.4), (end + r, up + r * 0.4)), metal, 0.05)
    d.line(polygon((end + r * 0.4, up - r), (end - r * 0.4, up + r)), metal, 0.05)
    d.mark("tail rotor", end, up)
    top = -h - d.between(0.16, 0.28)
    d.line(polygon((0, -h * 0.8), (0, top)), metal, 0.09)
    tilt = d.between(-0.06, 0.06)
    d.surface(
        smooth((-span, top + tilt), (0, top - 0.06), (span, top - tilt), (0, top + 0.05)), metal,
    )
    d.mark("rotor left tip", -span, top + tilt)
    d.mark("rotor right tip", span, top - tilt)
    skid = h + d.between(0.16, 0.28)
    for x in (-w * 0.45, w * 0.45):
        d.line(polygon((x, h * 0.7), (x, skid)), metal, 0.05)
    d.line(
        smooth(
            (-w * 0.95, skid), (0, skid), (w * 0.85, skid), (w * 1.1, skid - 0.12), closed=False,
        ),
        metal, 0.075,
    )
    d.mark("skid front", w * 1.1, skid - 0.12)
    d.mark("skid rear", -w * 0.95, skid)
    d.surface(
        smooth(
            (-w, -h * 0.1), (-w * 0.62, -h * 0.8), (0, -h), (w * 0.62, -h * 0.72), (w, h * 0.2),
            (w * 0.6, h * 0.85), (0, h), (-w * 0.6, h * 0.75),
        ),
        paint, gloss=0.5,
    )
    d.mark("nose", w, h * 0.2)
    d.surface(
        smooth(
            (w * 0.15, -h * 0.68), (w * 0.55, -h * 0.58), (w * 0.84, h * 0.08), (w * 0.2, h * 0.1),
            steps=4,
        ),
        d.colour("glass"), gloss=0.5,
    )
    d.mark("window", w * 0.42, -h * 0.2)
    if d.chance(0.6):
        d.surface(box(-w * 0.55, -h * 0.5, -w * 0.1, h * 0.5, 0.04), scaled(paint, 0.8), detail=0.6)
    else:
        d.line(
            polygon((-w * 0.9, h * 0.35), (w * 0.9, h * 0.35)), d.colour("white"), 0.06, detail=0.6,
        )
