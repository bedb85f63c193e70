"""Pictures as HTML: images with their keypoints drawn over them, and feature maps as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from heads.plots.style import PALETTE
from heads.report.markup import Html, data_uri, tag

_DOT_RADIUS = 0.022
"""Share of the picture's longer side."""


def marked_picture(
    image: Image.Image, points: np.ndarray, visible: Sequence[bool] | np.ndarray, name: str
) -> Html:
    """A picture with a dot on each visible keypoint, (x, y) in pixels; dots can be switched off."""
    radius = _DOT_RADIUS * max(image.size)
    dots = [
        tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", fill=_colour(number))
        for number, ((x, y), seen) in enumerate(zip(points, visible, strict=True))
        if seen
    ]
    return tag(
        "svg",
        tag("image", href=data_uri(image), width=image.width, height=image.height),
        tag("g", *dots, class_="dots"),
        viewbox=f"0 0 {image.width} {image.height}",
        role="img",
        aria_label=name,
    )


def plain_picture(image: Image.Image, name: str) -> Html:
    """A picture as it is."""
    return tag("img", src=data_uri(image), alt=name)


def cell_picture(colours: np.ndarray, name: str) -> Html:
    """Colours uint8 [h, w, 3], each cell a sharp square, whatever the size on the page."""
    return tag("img", src=data_uri(Image.fromarray(colours)), alt=name, class_="cells")


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
