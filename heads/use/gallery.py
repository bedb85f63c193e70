"""Where a gallery's photos come from: a store, or a folder of image files."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from torch import Tensor

from cache import FeatureStore, ImageRecord, RemotePath, StorePath
from heads.tasks.base import in_batches
from heads.training.learner import describe_maps
from heads.use.pictures import LoadedPicture, UseError
from heads.use.trained import Trained
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset
from pipeline.datasets.files import first_domain
from pipeline.inputs.collection import scan
from pipeline.inputs.loader import RowBatch, auto_workers, load_squares
from pipeline.job import open_configured

BATCH = 16
"""Photos described together: 0.3 GB of maps at the paper's sizes."""

Described = tuple[list[ImageRecord], Tensor]
"""Photos and their pooled descriptors [B, P], on the CPU."""


class Photos(Protocol):
    """The photos of a gallery."""

    images: list[ImageRecord]
    store: FeatureStore | None
    """Which holds their features, if one does."""
    skipped: dict[str, str]
    """What `describe` could not read, by id, with the reason."""

    def announce(self, n: int) -> str:
        """What describing n of them means, in one line."""

    def describe(self, trained: Trained, images: Sequence[ImageRecord]) -> Generator[Described]:
        """Descriptors of some of them, batch by batch."""

    def pictures(self, trained: Trained, root: Path | None) -> GalleryPictures:
        """The pictures themselves, for a store from a folder `root` or the run's dataset.

        Raises DatasetError where they cannot be opened, UseError for a root that is not needed.
        """


def open_photos(trained: Trained, place: StorePath) -> Photos:
    """The photos of a store or a folder. Raises StoreError, DatasetError or UseError."""
    if isinstance(place, RemotePath) or (place / "zarr.json").is_file():
        return StoredPhotos(trained, place)
    return PhotoFolder(place)


class StoredPhotos:
    """Photos whose features a store of the run's recipe holds.

    Raises RecipeMismatch for a store of another recipe, StoreError for one without the arrays.
    """

    def __init__(self, trained: Trained, place: StorePath) -> None:
        store = FeatureStore.open(place)
        self.store: FeatureStore | None = store
        self._where = store.path
        self._kind = str(store.provenance.get("dataset", "folder"))
        self._source = trained.stored(store)
        readable = set(self._source.ids)
        self.images = [i for i in store.images if i.id in readable and is_photo(i.id)]
        self.skipped: dict[str, str] = {}

    def announce(self, n: int) -> str:
        return f"describing {n:,} photos of {self._where}"

    def describe(self, trained: Trained, images: Sequence[ImageRecord]) -> Generator[Described]:
        for batch in in_batches(images, BATCH):
            maps = self._source.maps([image.id for image in batch])
            yield batch, describe_maps(trained.head, maps, ["photo"] * len(batch)).pooled.cpu()

    def pictures(self, trained: Trained, root: Path | None) -> GalleryPictures:
        advice = "give the folder that the gallery was made from with --root"
        if root is None:
            dataset, where = open_configured(trained.config), "the run's dataset"
        else:
            dataset, where = open_dataset(self._kind, root), str(root)
        return GalleryPictures(dataset, self.images, f"{where} does not have this photo; {advice}")


class PhotoFolder:
    """Image files, whose features are extracted on the fly."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.store: FeatureStore | None = None
        self._dataset = open_dataset("folder", place)
        self.images = [i for i in scan(self._dataset).images if is_photo(i.id)]
        self.skipped: dict[str, str] = {}

    def announce(self, n: int) -> str:
        return (
            f"extracting {n:,} photos of {self._place} on the fly; a folder that several runs "
            "search is better precomputed into a store"
        )

    def describe(self, trained: Trained, images: Sequence[ImageRecord]) -> Generator[Described]:
        rows = list(range(len(images)))
        batches = [RowBatch(key, part) for key, part in enumerate(in_batches(rows, BATCH))]
        decoded = load_squares(
            self._dataset,
            images,
            batches,
            trained.config.backbone.resolution,
            trained.config.extraction.pad,
            min(auto_workers(trained.extractor.device), len(batches) - 1),
            clip_input=trained.config.extraction.clip_input,
        )
        with closing(decoded) as squares:
            for batch in squares:
                self.skipped |= {images[row].id: why for row, why in batch.unreadable.items()}
                read = [images[row] for row in batch.rows]
                if read:
                    sha256s = [image.sha256 for image in read]
                    found = trained.describe_squares(batch.squares, sha256s, "photo")
                    yield read, found.pooled.cpu()

    def pictures(self, trained: Trained, root: Path | None) -> GalleryPictures:
        if root is not None:
            raise UseError(f"--root {root}: is for a gallery that is a store; leave it out")
        why = f"has changed or is gone from {self._place}; open the gallery again"
        return GalleryPictures(self._dataset, self.images, why)


class GalleryPictures:
    """A gallery's photos as pictures.

    Args:
        dataset: which has them, if their contents are what was described.
        images: the photos.
        missing: what to say of one that it does not have.
    """

    def __init__(self, dataset: Dataset, images: Sequence[ImageRecord], missing: str) -> None:
        self._dataset = dataset
        self._sha256 = {image.id: image.sha256 for image in images}
        self._missing = missing

    def read(self, image_id: str) -> LoadedPicture:
        """A photo, decoded. Raises UseError where it is not the one that was described."""
        sha256 = self._sha256[image_id]
        try:
            data = self._dataset.read(image_id)
        except (OSError, LookupError, ValueError):
            data = b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UseError(f"{image_id}: {self._missing}")
        return LoadedPicture(image_id, self._dataset.decode(image_id, data), sha256)


def is_photo(image_id: str) -> bool:
    """Whether an id is a photo's: no folder says otherwise, the first that says anything."""
    return first_domain(image_id.split("/")[:-1]) != "sketch"
