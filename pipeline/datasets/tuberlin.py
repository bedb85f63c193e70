"""TU-Berlin: 250 classes of 80 sketches, as PNG or SVG, and photos where they were added."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.datasets.base import Label
from pipeline.datasets.files import FileDataset, class_folder_labels


class TUBerlinDataset(FileDataset):
    """Class folders of sketches, under folders such as `png` and `svg` or directly in the root.

    Folders whose name speaks of photos or images (`ImageResized`) hold the photos that the
    extended dataset adds. Files of one number in one class are renderings of one drawing (`png`,
    `svg`, `png_ready`), of which one is read: the first by name unless `rendering` names another.
    """

    name = "tuberlin"
    layout = "<class>/<number>.png or .svg, such as png/airplane/1.png"

    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        labels = {}
        for path, label in class_folder_labels(files, default="sketch").items():
            if label is None:
                self._skip(path, "not in a class folder")
            else:
                labels[path] = label
        return self._one_rendering(labels)
