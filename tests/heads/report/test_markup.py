"""HTML that cannot be broken out of."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from heads.report.markup import Html, data_uri, join, tag


class _Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_stays_text(text: str) -> None:
    read = _Reader(tag("p", text, title=text))
    assert read.tags == [("p", {"title": text})]
    assert read.text == text


def test_finished_html_is_not_escaped_again() -> None:
    inner = tag("b", "a < b")
    assert inner == "<b>a &lt; b</b>"
    assert join("x & ", inner, 3) == "x &amp; <b>a &lt; b</b>3"
    assert isinstance(join(), Html)


def test_attribute_names_and_those_left_out() -> None:
    element = tag("svg", class_="a", aria_label="b", viewbox="0 0 1 1", role=None, hidden=False)
    assert element == '<svg class="a" aria-label="b" viewBox="0 0 1 1"></svg>'
    assert tag("circle", r=0) == '<circle r="0"/>'


def test_a_picture_survives_as_an_address() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    kind, data = data_uri(Image.fromarray(pixels)).split(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(data))), pixels)
