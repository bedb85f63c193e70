"""HTML that is escaped by construction: plain strings become text, only `Html` passes as is."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

_VOID = frozenset({"img", "input", "meta", "rect", "circle", "image"})


class Html(str):
    """A piece of finished HTML."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children that are not `Html` are escaped; attributes always are.

    An underscore in an attribute's name stands for a hyphen and is dropped at its end
    (`class_`, `aria_label`). An attribute that is None or False is left out.
    """
    opening = name + "".join(
        f' {_attribute(key)}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        # The slash matters inside SVG, where an open element would swallow its neighbours.
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Pieces one after the other; those that are not `Html` are escaped."""
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts)
    )


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside an address, so that a page needs no other file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _attribute(key: str) -> str:
    # SVG spells this one name with a capital.
    return "viewBox" if key == "viewbox" else key.rstrip("_").replace("_", "-")
