"""Which photos of a gallery are most like a sketch: exact cosine search of pooled descriptors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cache import ImageRecord, RecipeMismatch, StorePath, store_path
from heads.plots.records import Hit, Ranking
from heads.search import search
from heads.use.gallery import GalleryPictures, Photos, open_photos
from heads.use.kept import KeptDescriptors
from heads.use.pictures import LoadedPicture, PictureSource, UseError, load_picture
from heads.use.trained import Log, Trained

SAVE_SECONDS = 60.0
"""At most so much of describing a gallery is lost when it is stopped."""


@dataclass(frozen=True)
class FoundPhoto:
    """A photo of the gallery and its cosine with the sketch."""

    id: str
    similarity: float


class Gallery:
    """Photos and their pooled descriptors; use `open_gallery`.

    Args:
        images: the photos, sorted by id.
        descriptors: float32 [N, P], of length 1.
        place: where they are.
    """

    def __init__(
        self,
        trained: Trained,
        photos: Photos,
        images: Sequence[ImageRecord],
        descriptors: Tensor,
        place: StorePath,
    ) -> None:
        self.place = place
        self.store = photos.store
        """Which holds the photos' features, if one does."""
        self.ids = tuple(image.id for image in images)
        self.descriptors = descriptors
        self.skipped = dict(photos.skipped)
        """Photos that could not be read, by id, with the reason."""
        self._trained = trained
        self._photos = photos
        self._sha256 = {image.id: image.sha256 for image in images}

    def __len__(self) -> int:
        return len(self.ids)

    def sha256(self, image_id: str) -> str:
        """Hex SHA-256 of a photo's file."""
        return self._sha256[image_id]

    def search(self, sketch: PictureSource, k: int = 10) -> list[FoundPhoto]:
        """The k photos most like a sketch, best first; of equal ones the lower id comes first.

        Raises UseError for an unusable picture.
        """
        query = self._trained.describe([load_picture(sketch)], "sketch").pooled.cpu()
        rows, cosines = search(query, self.descriptors, k)
        found = zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
        return [FoundPhoto(self.ids[row], cosine) for row, cosine in found]

    def pictures(self, root: Path | None = None) -> GalleryPictures:
        """The photos themselves. A store knows none: they come from `root`, or the run's dataset.

        Raises DatasetError where that cannot be opened, UseError for a root that is not needed.
        """
        return self._photos.pictures(self._trained, root)

    def rankings(
        self,
        results: Sequence[tuple[LoadedPicture, Sequence[FoundPhoto]]],
        root: Path | None = None,
    ) -> list[Ranking]:
        """Results with the photos themselves, for a figure.

        Raises DatasetError as `pictures` does, UseError where there is another picture of an id.
        """
        pictures = self.pictures(root)
        return [
            Ranking(sketch, tuple(Hit(pictures.read(f.id), f.similarity) for f in found))
            for sketch, found in results
        ]


def open_own_gallery(
    trained: Trained,
    place: StorePath | None,
    log: Log,
    listener: Callable[[int, int], None],
) -> Gallery:
    """`open_gallery` of a place, or else of the store that the run was trained on, if it can be
    searched; what was left out is logged. Raises as it does, and RunError for several stores."""
    where = trained.run.only_store() if place is None else place
    try:
        gallery = open_gallery(trained, where, log, listener)
    except RecipeMismatch as error:
        if place is not None:
            raise
        raise UseError(f"{error}; choose what is searched with --gallery") from None
    for name, why in gallery.skipped.items():
        log(f"left out {name}: {why}")
    return gallery


def open_gallery(
    trained: Trained,
    place: str | StorePath,
    log: Log = lambda line: None,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """Describe the photos of a store of the run's recipe, or of a folder.

    What is below a folder called sketch or sketches is no photo. Descriptors are kept in the run's
    folder: the next time only new photos are described.

    Args:
        log: told what is computed, in one line.
        listener: told how many photos are done, and of how many.

    Raises:
        RecipeMismatch: the store was made with another recipe; the message names the fields.
        StoreError, DatasetError: a store or a folder that cannot be read.
        UseError: there are no photos, or a fine-tuned run is asked to read a store.
    """
    where = store_path(place)
    photos = open_photos(trained, where)
    kept = KeptDescriptors(trained, where, log)
    everything = [image.sha256 for image in photos.images]
    new = list({i.sha256: i for i in photos.images if i.sha256 not in kept}.values())
    if new:
        log(photos.announce(len(new)))
        done, saved = 0, time.monotonic()
        with closing(photos.describe(trained, new)) as described:
            for images, pooled in described:
                kept.add([image.sha256 for image in images], pooled)
                done += len(images)
                listener(done, len(new))
                if time.monotonic() - saved > SAVE_SECONDS:
                    kept.save(everything)
                    saved = time.monotonic()
        kept.save(everything)
    there = sorted((i for i in photos.images if i.sha256 in kept), key=lambda image: image.id)
    if not there:
        why = "".join(f" ({name}: {reason})" for name, reason in [*photos.skipped.items()][:1])
        raise UseError(f"{place}: holds no photo that can be searched{why}; give another gallery")
    return Gallery(trained, photos, there, kept.rows([image.sha256 for image in there]), where)
