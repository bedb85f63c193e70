"""The report's pictures: the world's pairs with their keypoints, and feature maps as colours."""

from __future__ import annotations

import statistics

from heads.demo.records import PicturePair, Stage1
from heads.report.markup import Html, join, tag
from heads.report.page import Section
from heads.report.pictures import cell_picture, marked_picture, plain_picture


def world_section(stage1: Stage1) -> Section:
    """A pair of each category, with keypoints that can be switched off."""
    switch = tag(
        "label",
        tag("span", "keypoints", class_="soft"),
        for_="keypoints",
        class_="switch",
    )
    box = tag("input", type="checkbox", id="keypoints", checked="checked")
    sheet = tag("div", *(_sheet_entry(pair) for pair in stage1.sheet), class_="sheet")
    body = join(
        tag(
            "p",
            "A sketch and the photo it shows, one pair of each category, at the size the networks "
            "see. Sketch and photo are posed independently. A dot marks a keypoint that can be "
            "seen in both; the same colour is the same point of the object.",
        ),
        box,
        " ",
        switch,
        sheet,
    )
    return Section("The world", body)


def _sheet_entry(pair: PicturePair) -> Html:
    pictures = [
        marked_picture(side.image, side.points, side.visible, side.image_id)
        for side in (pair.sketch, pair.photo)
    ]
    return tag(
        "figure",
        tag("div", *pictures, class_="pair"),
        tag("figcaption", pair.category),
    )


def features_section(stage1: Stage1) -> Section:
    """Feature maps of a few pairs beside their pictures."""
    if not stage1.examples:
        return Section("What the arrays look like", tag("p", "No pairs to show."))
    names = list(stage1.examples[0].maps)
    shares = {
        name: statistics.median(float(p.maps[name].shares.sum()) for p in stage1.examples)
        for name in names
    }
    body = join(
        tag(
            "p",
            f"Feature maps at timestep {stage1.timestep}, read from the store. A cell holds a "
            "vector; its first three principal components are shown as red, green and blue.",
        ),
        tag(
            "figure",
            tag("div", _map_table(stage1, names, shares), class_="scroll"),
            tag("figcaption", _map_caption(stage1)),
        ),
    )
    return Section("What the arrays look like", body)


def _map_table(stage1: Stage1, names: list[str], shares: dict[str, float]) -> Html:
    heads = [tag("th", ""), tag("th", "picture", colspan=2)]
    for name in names:
        channels, height, width = stage1.store.arrays[name].shape
        heads.append(
            tag(
                "th",
                tag("span", name, class_="mono"),
                Html("<br>"),
                f"{height} x {width} cells, {channels} channels",
                Html("<br>"),
                f"{shares[name]:.0%} of variance shown",
                colspan=2,
            )
        )
    rows = [_map_row(pair, names) for pair in stage1.examples]
    return tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="maps")


def _map_row(pair: PicturePair, names: list[str]) -> Html:
    sides = (pair.sketch, pair.photo)
    cells = [plain_picture(side.image, side.image_id) for side in sides]
    for name in names:
        colours = pair.maps[name].maps
        cells += [
            cell_picture(c, f"{name} of {side.image_id}")
            for c, side in zip(colours, sides, strict=True)
        ]
    return tag("tr", tag("th", pair.category), *(tag("td", cell) for cell in cells))


def _map_caption(stage1: Stage1) -> str:
    caption = (
        "Each row is a sketch and its photo; under each array, the sketch's map is on the left "
        "and the photo's on the right. Components and colour scale are worked out from both maps "
        "together, after each map lost its own mean and overall scale, so within a pair of maps "
        "one colour means one direction; between columns or rows colours cannot be compared. The "
        "scale ends at the 1st and 99th percentile. Shares of variance are medians over the rows."
    )
    if stage1.random_weights:
        caption += (
            " With random weights the maps show outlines, position and noise: what "
            "convolutions and attention do to a picture before they have learned."
        )
    return caption
