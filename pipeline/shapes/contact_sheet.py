"""A picture of the whole world: photo and sketch of instances of every category.

    python -m pipeline.shapes.contact_sheet docs/img/shapes.png
    python -m pipeline.shapes.contact_sheet docs/img/shapes-second.png --unseen second --pixels 64

The second shows one set of unseen categories, with more instances of each.

Half of the pairs carry their keypoints as dots, one colour for each keypoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from pipeline.shapes.categories import CATEGORIES, UNSEEN_SETS
from pipeline.shapes.view import View
from pipeline.shapes.world import World

_PAIRS_IN_ROW = 8
_DOTS = ("red", "orange", "yellow", "lime", "cyan", "dodgerblue", "blueviolet", "magenta")


def contact_sheet(
    world: World, pixels: int, categories: Sequence[str] = CATEGORIES, per_category: int = 2
) -> Image.Image:
    """`per_category` pairs of each category, side by side, every other pair with its keypoints."""
    n = len(categories) * per_category
    rows = -(-n // _PAIRS_IN_ROW)
    sheet = Image.new("RGB", (2 * _PAIRS_IN_ROW * pixels, rows * pixels), "white")
    for place in range(n):
        which, turn = divmod(place, per_category)
        instance = world.instance(categories[which], turn)
        x, y = place % _PAIRS_IN_ROW * 2 * pixels, place // _PAIRS_IN_ROW * pixels
        for step, view in enumerate((world.photo(instance), world.sketch(instance, 1))):
            tile = view.image(pixels)
            if turn % 2 == 0:
                _dot(tile, view, pixels)
            sheet.paste(tile, (x + step * pixels, y))
    return sheet


def _dot(tile: Image.Image, view: View, pixels: int) -> None:
    draw = ImageDraw.Draw(tile)
    r = pixels / 48
    for (x, y), visible, colour in zip(view.keypoints * pixels, view.visible, _DOTS, strict=True):
        if visible:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline="black")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a contact sheet of the shapes world.")
    parser.add_argument("out", type=Path, help="the PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, default=96, help="side of one picture")
    parser.add_argument("--unseen", choices=UNSEEN_SETS, help="only this set's unseen categories")
    arguments = parser.parse_args()
    if arguments.unseen is None:
        sheet = contact_sheet(World(arguments.seed), arguments.pixels)
    else:
        world = World(arguments.seed, arguments.unseen)
        sheet = contact_sheet(world, arguments.pixels, world.unseen_categories, per_category=4)
    # 256 dithered colours look the same and take a third of the bytes.
    palette = sheet.quantize(256, kmeans=3)
    sheet.quantize(palette=palette).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
