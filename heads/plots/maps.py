"""Feature maps as colours, layer by layer, sketch above photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heads.pca import ColourMaps
from heads.plots.records import Picture
from heads.plots.style import SMALL, SOFT, at_least_one, bare, new_figure, show_picture, shown

_CELL = 1.35
"""Of a picture or a map, in inches."""


@dataclass(frozen=True)
class MappedImages:
    """Images, a sketch and its photo for instance, with their maps in colours that they share."""

    names: tuple[str, ...]
    maps: Mapping[str, ColourMaps]
    """By array name; one map for each image."""
    pictures: tuple[Picture, ...] = ()
    """One for each image, or none where they are not at hand."""


def maps_figure(groups: Sequence[MappedImages]) -> Figure:
    """A row for each image with its maps, and its picture in front; a block for each group.

    Above each column stand the array's name, its cells, and the share of variance that the three
    colours hold. Raises PlotError where there is no group or no map.
    """
    at_least_one("images", len(groups))
    names = list(groups[0].maps)
    at_least_one("maps", len(names))
    first = 1 if groups[0].pictures else 0
    n_rows = [len(group.names) for group in groups]
    figure = new_figure(
        (first + len(names)) * _CELL + 0.4, sum(n_rows) * _CELL + len(groups) * 0.3 + 1.0
    )
    blocks = figure.subfigures(
        len(groups), 1, squeeze=False, height_ratios=[n + 0.3 for n in n_rows]
    )
    for number, (block, group) in enumerate(zip(blocks.flat, groups, strict=True)):
        panels = block.subplots(len(group.names), first + len(names), squeeze=False)
        for row, image_id in enumerate(group.names):
            if first:
                show_picture(panels[row, 0], group.pictures[row].image)
            for axes, name in zip(panels[row, first:], names, strict=True):
                axes.imshow(group.maps[name].maps[row], interpolation="nearest")
                bare(axes)
            panels[row, 0].set_ylabel(
                shown(image_id, 21), fontsize=SMALL - 1, color=SOFT, parse_math=False
            )
        for axes, name in zip(panels[0, first:], names, strict=True):
            _title(axes, name, group.maps[name], with_name=number == 0)
    figure.supxlabel(
        "First three principal components as red, green and blue. In one block and column a colour "
        "is one direction\nof the features, shared by its images; between blocks or columns it is "
        "not.",
        fontsize=SMALL,
        color=SOFT,
    )
    return figure


def _title(axes: Axes, name: str, colours: ColourMaps, with_name: bool) -> None:
    height, width = colours.maps[0].shape[:2]
    share = f"{colours.shares.sum():.0%} of variance"
    text = f"{name}\n{height} x {width} cells\n{share}" if with_name else share
    axes.set_title(text, fontsize=SMALL - 0.5, color=SOFT, parse_math=False)
