"""What the runs that are served make of one drawing, whoever asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import StoreError, StorePath
from heads.explain.choosing import evenly
from heads.use import (
    Gallery,
    GalleryPictures,
    LoadedPicture,
    Trained,
    UseError,
    classify,
    grid_points,
    load_picture,
    match,
    open_several,
    segment,
)
from heads.use.match import FoundPoints
from heads.use.retrieve import FoundPhoto, open_own_gallery
from heads.use.trained import Log

MADE_FOR = {
    "photos": ("retrieval", "fine_grained"),
    "points": ("correspondence",),
    "classes": ("recognition",),
    "masks": ("segmentation",),
}
"""What can be asked for, and the tasks whose heads are made for it."""
N_CHECKED = 5
"""Photos of which one must be there when the gallery is opened."""
PIXELS_KEPT = 100_000_000
"""Of decoded photos that are kept: 300 MB, some eight of a phone or a hundred of a web page."""


@dataclass(frozen=True)
class Look:
    """What was found for a drawing."""

    sketch: LoadedPicture
    hits: list[FoundPhoto]
    """Best first."""
    classes: tuple[tuple[str, float], ...] | None
    """Name and probability, best first; None where no run classifies."""


class Service:
    """Answers about drawings; may be asked from several threads.

    Args:
        runs: each gives what it can: the first that is made for it, or else any.
        gallery: the photos that are searched, described by `searcher(runs)`.
        pictures: the photos themselves.
    """

    def __init__(
        self, runs: Sequence[Trained], gallery: Gallery, pictures: GalleryPictures
    ) -> None:
        self.searcher = searcher(runs)
        self.matcher = _made_for(runs, "points") or next((r for r in runs if r.has_cells), None)
        """Finds points; None where no run's features have cells."""
        self.classifier = _made_for(runs, "classes")
        self.segmenter = _made_for(runs, "masks")
        for run in (self.classifier, self.segmenter):
            if run is not None:
                _ = run.fitted  # Raises RunError now, and not when somebody has drawn.
        self._runs = runs
        self.gallery = gallery
        self._pictures = pictures
        self._ids = {gallery.sha256(image_id): image_id for image_id in reversed(gallery.ids)}
        self._decoded: OrderedDict[str, LoadedPicture] = OrderedDict()
        self._lock = threading.Lock()

    def roles(self) -> list[str]:
        """Which run does what, a line each, and which does nothing."""
        used = [self.searcher, self.matcher, self.classifier, self.segmenter]
        lines = []
        for (what, made_for), run in zip(MADE_FOR.items(), used, strict=True):
            if run is not None:
                fits = run.task in made_for
                lesser = "" if fits else f", trained for {run.task}: expect less of it here"
                lines.append(f"{what}: {run.run.folder}{lesser}")
        return lines + [f"unused: {run.run.folder}" for run in self._runs if run not in used]

    def look(self, drawing: bytes, k: int) -> Look:
        """The k photos most like an image file, and what it shows. Raises UseError."""
        sketch = load_picture(drawing)
        hits = self.gallery.search(sketch, k)
        classes = None if self.classifier is None else classify(self.classifier, sketch).classes
        return Look(sketch, hits, classes)

    def photo(self, sha256: str) -> LoadedPicture:
        """A photo of the gallery by the hex SHA-256 of its file; raises UseError for any other."""
        with self._lock:
            if sha256 in self._decoded:
                self._decoded.move_to_end(sha256)
                return self._decoded[sha256]
        if sha256 not in self._ids:
            raise UseError(f"{sha256[:64]}: no photo of the gallery; search again")
        photo = self._pictures.read(self._ids[sha256])
        with self._lock:
            self._decoded[sha256] = photo
            while sum(map(_pixels, self._decoded.values())) > PIXELS_KEPT:
                self._decoded.popitem(last=False)
        return photo

    def mask(self, drawing: bytes, sha256: str) -> np.ndarray:
        """bool [H, W]: what of a photo an image file shows, in the photo's pixels.

        Raises UseError, also where no run segments.
        """
        if self.segmenter is None:
            raise UseError("no run here segments; serve one that was trained for segmentation too")
        return segment(self.segmenter, drawing, self.photo(sha256)).found

    def match(
        self,
        drawing: bytes,
        sha256: str,
        points: Sequence[tuple[float, float]] = (),
        grid: int | None = None,
    ) -> FoundPoints:
        """Where in a photo the points of an image file are, in pixels of both.

        Args:
            grid: instead of points: one in each of so many fields squared of what is drawn.

        Raises UseError, also where no run's features have cells.
        """
        if self.matcher is None:
            raise UseError("no run here finds points; serve one that reads feature maps too")
        sketch = load_picture(drawing)
        asked = grid_points(sketch, grid) if grid else points
        return match(self.matcher, sketch, self.photo(sha256), asked)


def open_service(
    folders: Sequence[Path],
    place: StorePath | None,
    root: Path | None,
    log: Log = lambda line: None,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> Service:
    """Load runs and describe a gallery.

    Args:
        folders: of the runs.
        place: a store or a folder of photos; None is the store that the searching run read.
        root: the folder of pictures that a store was made from; None is the run's dataset.
        log: told what is loaded and computed, in one line.
        listener: told how many photos are described, and of how many.

    Raises what `open_several` and `open_gallery` do, and UseError where the gallery's pictures are
    not there.
    """
    runs = open_several(folders, log)
    gallery = open_own_gallery(searcher(runs), place, log, listener)
    pictures = gallery.pictures(root)
    _check_some(pictures, gallery.ids)
    _read_from_store(runs, gallery, log)
    service = Service(runs, gallery, pictures)
    for line in service.roles():
        log(line)
    return service


def _check_some(pictures: GalleryPictures, ids: Sequence[str]) -> None:
    """Raise UseError where none of some photos is there: it is another folder."""
    missing: UseError | None = None
    for image_id in evenly(ids, N_CHECKED):
        try:
            pictures.read(image_id)
            return
        except UseError as error:
            missing = missing or error
    if missing is not None:
        raise missing


def _read_from_store(runs: Sequence[Trained], gallery: Gallery, log: Log) -> None:
    """Have runs take the features of the gallery's photos from its store, if it is one."""
    if gallery.store is None:
        return
    for run in runs:
        try:
            run.read_from(gallery.store)
        except (StoreError, UseError):
            log(
                f"{run.run.folder}: photos are extracted on the fly, "
                f"{gallery.place} is not its store"
            )


def _pixels(picture: LoadedPicture) -> int:
    width, height = picture.image.size
    return width * height


def searcher(runs: Sequence[Trained]) -> Trained:
    """The run whose head searches."""
    return _made_for(runs, "photos") or runs[0]


def _made_for(runs: Sequence[Trained], what: str) -> Trained | None:
    return next((run for run in runs if run.task in MADE_FOR[what]), None)
