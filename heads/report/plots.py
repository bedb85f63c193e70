"""Figures inside a page: drawings as SVG, figures made of pictures as JPEG, both in an address."""

from __future__ import annotations

import base64

from matplotlib.figure import Figure

from heads.plots.style import rendered
from heads.report.markup import Html, tag

PICTURE_DPI = 140
_POINTS = 96
"""CSS pixels of an inch."""


def drawing(figure: Figure, alt: str, caption: object = "") -> Html:
    """A diagram, sharp at every size."""
    return _figure(figure, ".svg", "image/svg+xml", alt, caption)


def photograph(figure: Figure, alt: str, caption: object = "") -> Html:
    """A figure that consists of pictures, which as SVG or PNG would be several times as large."""
    return _figure(figure, ".jpg", "image/jpeg", alt, caption)


def _figure(figure: Figure, suffix: str, kind: str, alt: str, caption: object) -> Html:
    content = base64.b64encode(rendered(figure, suffix, PICTURE_DPI)).decode("ascii")
    width = round(figure.get_figwidth() * _POINTS)
    image = tag("img", src=f"data:{kind};base64,{content}", alt=alt, class_="plot", width=width)
    return tag("figure", image, tag("figcaption", caption) if caption else "")
