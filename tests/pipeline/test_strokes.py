"""Vector drawings: drawn where they should be, and harmless where they are hostile."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pictures.images import ImageError
from pipeline.pictures.strokes import MARGIN, STROKE_WIDTH, is_svg, render_strokes, render_svg

OPEN = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'


def svg(body: str) -> bytes:
    return (OPEN + body + "</svg>").encode()


def ink(image) -> np.ndarray:
    """Darkness of a picture as a share of black: float64 [H, W]."""
    assert image.mode == "RGB"
    return 1 - np.asarray(image.convert("L")) / 255


def inked_box(image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is darker than half, right and bottom exclusive."""
    ys, xs = np.nonzero(ink(image) > 0.5)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


# --- SVG ------------------------------------------------------------------------------------


def test_an_svg_is_drawn_on_white_at_the_size_asked_for():
    image = render_svg(svg('<rect x="10" y="20" width="30" height="40"/>'), 200)
    expected = np.zeros((200, 200))
    expected[40:120, 20:80] = 1
    np.testing.assert_array_equal(ink(image), expected)


def test_lines_are_anti_aliased():
    image = render_svg(svg('<path d="M10 10L90 53" stroke="black" stroke-width="3"/>'), 100)
    darkness = ink(image)
    assert ((darkness > 0.1) & (darkness < 0.9)).sum() > 50
    length = np.hypot(80, 43)
    assert darkness.sum() == pytest.approx(3 * length, rel=0.02)


def test_a_wide_svg_is_centred_in_the_square():
    data = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100">' + (
        b'<rect width="200" height="100"/></svg>'
    )
    assert inked_box(render_svg(data, 100)) == (0, 25, 100, 75)


def test_a_document_type_without_entities_is_fine():
    prologue = (
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE svg PUBLIC '
        b'"-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">\n'
    )
    data = prologue + svg('<rect width="50" height="50"/>')
    assert is_svg(data)
    assert inked_box(render_svg(data, 100)) == (0, 0, 50, 50)


def test_notes_of_an_editor_are_ignored():
    data = (
        b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:e="urn:editor" viewBox="0 0 100 100">'
        b'<e:view zoom="2"/><g><rect width="50" height="50"/></g></svg>'
    )
    assert inked_box(render_svg(data, 100)) == (0, 0, 50, 50)


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (b"<svg", "malformed"),
        (svg("<g>"), "malformed"),
        (b"\xff\xfe<\0s\0v\0g\0", "UTF-8"),
        (svg('<image href="secret.png" width="10" height="10"/>'), "<image>"),
        (svg('<image href="data:image/png;base64,AAAA" width="10" height="10"/>'), "<image>"),
        (svg('<filter id="f"><feImage href="secret.png"/></filter>'), "<filter>"),
        (svg('<use href="other.svg#a"/>'), "<use>"),
        (svg("<script>alert(1)</script>"), "<script>"),
        (svg("<foreignObject/>"), "<foreignObject>"),
        (svg("<text>words</text>"), "<text>"),
        (svg("<g>" * 100 + "</g>" * 100), "deeper"),
        (b"<!DOCTYPE svg [<!ENTITY x SYSTEM 'secret.txt'>]>" + svg("<g>&x;</g>"), "entities"),
        (f'<!DOCTYPE svg [<!ENTITY l0 "ha">{LAUGHS}]>'.encode() + svg("&l9;"), "entities"),
        (svg('<path d="M0 0L1e38 1e38A1e38 1e38 0 0 0 1 1"/>'), "pixels in d"),
        (svg('<circle cx="5" r="1234567"/>'), "pixels in r"),
        (svg('<circle cx="5" r="1e6"/>'), "pixels in r"),
        (svg('<circle r="9em"/>'), "em or ex"),
        (
            svg('<g transform="scale(99)"><g transform="scale(1 99)"><path d="M99"/></g></g>'),
            "in d",
        ),
        (svg('<g transform="matrix(1e9 0 0 1 0 0)"/>'), "pixels in transform"),
        (svg('<g transform="translate(1e9)"/>'), "pixels in transform"),
        (svg('<g transform="skewX(89.99999)"><rect x="9" width="1"/></g>'), "pixels in"),
        (svg('<svg viewBox="0 0 1 1"/>'), "inside an SVG"),
        (svg('<g stroke-dasharray="0.01"/>'), "stroke-dasharray"),
        (svg('<g style="stroke-dasharray:/**/1"/>'), "dasharray"),
        (svg('<g style="stroke:red;STROKE-DASHARRAY : 1 2"/>'), "DASHARRAY"),
        (svg("<style>g { stroke-dasharray: 1 }</style>"), "dasharray"),
        (svg(r'<g style="stroke-dash\61rray: 1"/>'), "in its style"),
        (svg('<g xmlns:s="http://www.w3.org/2000/svg" s:stroke-dasharray="1"/>'), "prefixed"),
        (svg('<g filter="blur(50)"/>'), "filter"),
        (svg('<g style="filter: blur(50px)"/>'), "filter"),
        (svg('<g style="transform: scale(1e9)"/>'), "transform"),
        (svg('<path stroke-width="99999999" d="M0 0 L100 100 L0 100"/>'), "stroke-width beyond"),
        (svg('<g style="stroke-width:1e8px"/>'), "stroke-width beyond"),
        (svg("<style>path { stroke-width: 1e8 }</style>"), "stroke-width beyond"),
        (svg('<g stroke-width="9em"/>'), "no plain length"),
        (svg("<style>g { opacity: 0.5 }</style>"), "opacity"),
        (svg("<style>" + "* " * 4_000 + "{x:y}</style>"), "selector"),
        (svg("<style>a, b/**/> c {x:y}</style>"), "selector"),
        (svg("<style>" + "a{}" * 3_000 + "</style>"), "<style> of over"),
        (svg('<g opacity="0.5"/>' * 101), "elements with an opacity"),
        (svg("<g/>" * 1_000), "elements"),
        (svg(f'<path d="M0 0{"l1 1" * 9_000}"/>'), "characters in d"),
        (svg(f"<desc>{'x' * 140_000}</desc>"), "bytes"),
        (b"<html><body><svg></svg></body></html>", "<html>"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0"/>', "size"),
    ],
)
def test_a_bad_or_hostile_svg_is_refused_with_one_line(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        render_svg(data, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        '<rect width="100" height="100" fill="url(FILE#a)"/>',
        "<style>@import url(FILE); rect { fill: url(FILE) }</style><rect width='9' height='9'/>",
        '<g style="mask: url(FILE#a); clip-path: url(FILE#a)"><rect width="9" height="9"/></g>',
    ],
)
def test_an_svg_cannot_read_files(tmp_path, monkeypatch, body):
    """Whatever way in is tried, it makes no difference whether the file exists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.svg").write_bytes(svg('<rect id="a" width="100" height="100"/>'))
    there, missing = (
        render_svg(svg(body.replace("FILE", name)), 64) for name in ("there.svg", "missing.svg")
    )
    np.testing.assert_array_equal(there, missing)


def test_deep_nesting_does_not_overflow_the_renderer():
    """At 500 groups resvg itself overflows its stack and takes the process with it."""
    code = (
        "from pipeline.pictures.strokes import render_svg\n"
        "from pipeline.pictures.images import ImageError\n"
        "group = '<g opacity=\"0.5\">'\n"
        f"data = lambda n: ({OPEN!r} + group * n + '</g>' * n + '</svg>').encode()\n"
        "render_svg(data(60), 64)\n"
        "for n in (500, 50_000):\n"
        "    try: render_svg(data(n), 64)\n"
        "    except ImageError: continue\n"
        "    raise SystemExit('not refused')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "body",
    [
        '<path id="n1234567890123" d="M.12345678901 1e-20L2E1 3e+1" stroke="#1e1000"/>',
        "<style>/* a > b */ .cls-1, #a{fill:none;stroke-width:2px}\n.b { stroke: red; }</style>",
        '<title>tel. 1234567890</title><rect width="9144" height="5"/>',
        '<g style="opacity:1;stroke-width:1.5px;stroke-dasharray:none;filter:none;fill:#1e1000"/>',
        '<g transform="scale(0.0001)"><rect width="12345678" height="5"/></g>',
    ],
)
def test_long_digits_that_are_no_huge_number_are_fine(body):
    assert render_svg(svg(body), 32).size == (32, 32)


def test_the_unit_of_a_drawing_does_not_matter():
    """What counts is how far it reaches in pixels, not in numbers: some draw in nanometres."""
    big, small = (
        render_svg(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {9 * unit} {9 * unit}"><path '
            f'd="M{unit} {unit}H{7 * unit}" stroke="red" stroke-width="{unit}"/></svg>'.encode(),
            64,
        )
        for unit in (10_000_000, 1)
    )
    np.testing.assert_array_equal(big, small)


def crowded(shape: str, count: int, attributes: str) -> bytes:
    """Paths across the whole drawing, as many and as long as are let through."""
    numbers = np.random.default_rng(0).integers(0, 100, (count, 6))
    path = "M0 0" + "".join(shape.format(*row) for row in numbers)
    return svg(
        f'<path d="{path}" stroke="black" fill="none" {attributes}/>' * (120_000 // len(path))
    )


@pytest.mark.parametrize(
    ("shape", "count"), [("L{0} {1}", 4_000), ("C{0} {1} {2} {3} {4} {5}", 1_500)]
)
def test_the_worst_that_is_let_through_is_drawn_in_seconds(shape, count):
    start = time.process_time()
    render_svg(crowded(shape, count, 'stroke-width="100" stroke-linejoin="round"'), 384)
    assert time.process_time() - start < 10  # about two on an ordinary core


@given(st.text(alphabet="MLCQAZ0123456789.,- eE", max_size=60))
@settings(deadline=None, max_examples=60)
def test_no_path_breaks_the_renderer(path):
    try:
        image = render_svg(svg(f'<path d="{path}" stroke="black"/>'), 32)
    except ImageError as error:
        assert "pixels in d" in str(error)
    else:
        assert image.size == (32, 32)


def test_is_svg_goes_by_content():
    assert is_svg(b"\n  " + svg(""))
    assert not is_svg(b"\x89PNG\r\n\x1a\n<svg")
    assert not is_svg(b"<html></html>")
    assert not is_svg(b"")


# --- strokes --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e5])
def test_a_drawing_fills_the_square_up_to_its_margin(side, scale):
    """A square outline, twice as wide as the margin allows for, is fitted whatever its units."""
    xs, ys = np.array([0, 100, 100, 0, 0]) * scale, np.array([0, 0, 100, 100, 0]) * scale
    left, top, right, bottom = inked_box(render_strokes([[list(xs), list(ys)]], side))
    border = side * (MARGIN - STROKE_WIDTH / 2)
    for found, expected in [(left, border), (top, border), (side - right, border)]:
        assert abs(found - expected) <= 1
    assert left == top == side - right == side - bottom


def test_the_aspect_is_kept_and_the_drawing_centred():
    left, top, right, bottom = inked_box(render_strokes([[[0, 200], [0, 0]], [[0], [50]]], 256))
    assert (right - left) == pytest.approx(4 * (bottom - top), abs=4 * 256 * STROKE_WIDTH)
    assert abs((top + bottom) / 2 - 128) <= 1 and abs((left + right) / 2 - 128) <= 1


def test_lines_have_their_width_and_round_ends():
    side = 256
    darkness = ink(render_strokes([[[0, 100], [0, 0]]], side))
    width = STROKE_WIDTH * side
    length = side * (1 - 2 * MARGIN)
    assert darkness.sum() == pytest.approx(length * width + np.pi * (width / 2) ** 2, rel=0.02)
    assert darkness[:, side // 2].sum() == pytest.approx(width, rel=0.05)


def test_raw_strokes_look_like_simplified_ones():
    simplified = [[[0, 10, 50], [0, 40, 20]], [[5, 6], [7, 8]]]
    raw = [[xs, ys, list(range(len(xs)))] for xs, ys in simplified]
    np.testing.assert_array_equal(render_strokes(raw, 128), render_strokes(simplified, 128))


@pytest.mark.parametrize("strokes", [[[[3], [4]]], [[[3, 3], [4, 4]]], [[[3], [4]], [[3], [4]]]])
def test_a_single_point_is_a_dot_in_the_middle(strokes):
    side = 256
    image = render_strokes(strokes, side)
    assert ink(image).sum() == pytest.approx(np.pi * (STROKE_WIDTH * side / 2) ** 2, rel=0.3)
    left, top, right, bottom = inked_box(image)
    assert (left + right) / 2 == (top + bottom) / 2 == side / 2


def test_a_point_beside_a_line_is_a_dot():
    with_dot = ink(render_strokes([[[0, 100], [0, 0]], [[50], [40]]], 256))
    without = ink(render_strokes([[[0, 100], [0, 0]]], 256))
    dot = np.pi * (STROKE_WIDTH * 256 / 2) ** 2
    assert with_dot.sum() - without.sum() == pytest.approx(dot, rel=0.15)


@pytest.mark.parametrize(
    "strokes",
    [
        [],
        [[[], []]],
        None,
        "strokes",
        {"x": 1},
        [[]],
        [[[1, 2]]],
        [[1, 2], [3, 4]],
        [[[1, 2], [3]]],
        [[[1, "a"], [3, 4]]],
        [[[1, None], [3, 4]]],
        [[[1, [2]], [3, 4]]],
        [[[1, 2], [3, 4], [5, 6], [7, 8]]],
        [[[1, float("nan")], [3, 4]]],
        [[[1, float("inf")], [3, 4]]],
        [[[1, 10**400], [3, 4]]],
        [[[1, 1e300], [3, 4]]],
    ],
)
def test_malformed_or_empty_drawings_are_refused(strokes):
    with pytest.raises(ImageError, match="strokes"):
        render_strokes(strokes, 64)


coordinate = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6))
points = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=6)


@given(st.lists(points, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_every_drawing_leaves_ink_inside_the_border(drawing):
    strokes = [[[x for x, _ in line], [y for _, y in line]] for line in drawing]
    darkness = ink(render_strokes(strokes, 128))
    assert darkness.sum() > 1
    assert darkness[0].sum() == darkness[-1].sum() == 0
    assert darkness[:, 0].sum() == darkness[:, -1].sum() == 0
