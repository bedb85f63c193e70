"""One's own pictures: class sub-folders, or a flat folder."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.datasets.base import Domain, Label, normalise_category
from pipeline.datasets.files import FileDataset, domain_of

_DOMAIN_FOLDERS: dict[str, Domain] = {
    "photo": "photo",
    "photos": "photo",
    "sketch": "sketch",
    "sketches": "sketch",
}


class FolderDataset(FileDataset):
    """Any tree of images. An image's category is the name of the folder it lies in.

    Images directly under the root have none. A folder at the top called photo(s) or sketch(es)
    gives the domain of what is in it and is no category itself. Of trees of class folders that
    hold the same pictures under the same names (`sketch` and `sketches`, `photos` and
    `photos_256`) one is read: the first by name unless `rendering` names another.
    """

    name = "folder"
    layout = "<class>/*.png, *.jpg and other images, or images without class folders"

    def _describe(self, files: Sequence[str]) -> dict[str, Label]:
        by_folder: dict[str, Label] = {}
        labels = {}
        for path in files:
            folder = path.rpartition("/")[0]
            if folder not in by_folder:
                by_folder[folder] = _label(folder)
            labels[path] = by_folder[folder]
        return self._one_rendering(labels, lambda path, label: domain_of(path.partition("/")[0]))


def _label(folder: str) -> Label:
    top, _, below = folder.partition("/")
    domain = _DOMAIN_FOLDERS.get(top.lower())
    category = (below if domain else folder).rpartition("/")[2]
    return Label(normalise_category(category) or None, domain)
