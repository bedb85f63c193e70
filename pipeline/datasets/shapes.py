"""The procedural world as a dataset. Nothing is on disk: images are drawn when they are read.

Images come in groups of three, one group for each instance of the world: the photo, then two
sketches of it.

    photo/house/000000.png  sketch/house/000000-1.png  sketch/house/000000-2.png
    photo/cat/000001.png    sketch/cat/000001-1.png    ...

So the first `size` images are complete groups but for the last one: it lacks both sketches where
`size` leaves a remainder of one, and its second sketch where it leaves two. Categories take
turns, so that any 96 images in a row show all 32.

With `unseen="second"` ten other categories take turns in the places of the eight unseen ones; the
images of seen categories are the same, byte for byte.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cached_property, partial
from typing import overload

import numpy as np

from pipeline.datasets.base import Annotations, Dataset, DatasetError, Label, Pair
from pipeline.shapes.categories import SEEN, UNSEEN, UNSEEN_SETS, UnseenSet
from pipeline.shapes.view import View
from pipeline.shapes.world import World

__all__ = ["SEEN", "UNSEEN", "UNSEEN_SETS", "ShapesDataset", "UnseenSet"]

SKETCHES_PER_PHOTO = 2
_GROUP = 1 + SKETCHES_PER_PHOTO
_SMALLEST, _LARGEST = 32, 2048  # side in pixels; below, nothing can be recognised
_ID = re.compile(r"(?:photo|sketch)/[a-z]+/(\d{6,})(?:-(\d))?\.png")


class ShapesDataset(Dataset):
    """The first `size` images of the world of one seed, each `pixels` x `pixels`.

    An image's bytes are a function of its id, the seed and `pixels` alone. Raises `DatasetError`
    for a negative size or seed, a side outside 32..2048 pixels, and an unknown set of unseen
    categories.
    """

    name = "shapes"

    def __init__(
        self, size: int, seed: int = 0, pixels: int = 96, unseen: UnseenSet = "first"
    ) -> None:
        if size < 0:
            raise DatasetError(f"shapes: size is {size}; give a number of images, 0 or more")
        if seed < 0:
            raise DatasetError(f"shapes: seed is {seed}; give a number, 0 or more")
        if not _SMALLEST <= pixels <= _LARGEST:
            raise DatasetError(
                f"shapes: pixels is {pixels}; give a side from {_SMALLEST} to {_LARGEST}"
            )
        if unseen not in UNSEEN_SETS:
            known = " or ".join(UNSEEN_SETS)
            raise DatasetError(f"shapes: unseen is {unseen!r}; give {known}")
        self._world = World(seed, unseen)
        self._n_images = size
        self._pixels = pixels

    @property
    def benchmark(self) -> str:
        """Each set of unseen categories has protocols of its own."""
        unseen = self._world.unseen
        return self.name if unseen == "first" else f"{self.name}, {unseen} unseen set"

    @cached_property
    def ids(self) -> Sequence[str]:
        return [_id(self._world, place) for place in range(self._n_images)]

    def read(self, image_id: str) -> bytes:
        """The image as PNG. Raises `DatasetError` where the dataset has no such id."""
        picture = io.BytesIO()
        view = _view(self._world, self._place(image_id))
        view.image(self._pixels).save(picture, "PNG", compress_level=1)
        return picture.getvalue()

    def size(self, image_id: str, data: bytes) -> tuple[int, int]:
        return self._pixels, self._pixels

    @cached_property
    def annotations(self) -> Annotations:
        """Labels at once; a pair or a mask is worked out whenever it is asked for."""
        return Annotations(
            labels={name: self._label(place) for place, name in enumerate(self.ids)},
            pairs=_Pairs(self._world, self._pixels, self._n_images),
            masks={
                name: partial(_mask, self._world, self._pixels, place)
                for place, name in enumerate(self.ids)
            },
        )

    def _label(self, place: int) -> Label:
        instance, number = divmod(place, _GROUP)
        return Label(
            category=self._world.category(instance),
            domain="sketch" if number else "photo",
            source=_id(self._world, place - number) if number else None,
            split=self._world.split(instance),
        )

    def _place(self, image_id: str) -> int:
        match = _ID.fullmatch(image_id)
        if match:
            place = int(match[1]) * _GROUP + int(match[2] or 0)
            if place < self._n_images and _id(self._world, place) == image_id:
                return place
        raise DatasetError(
            f"shapes: no image {image_id!r} among the first {self._n_images} of seed"
            f" {self._world.seed}"
        )


class _Pairs(Sequence[Pair]):
    """Each sketch of the first `n_images` images with its photo; nothing is drawn or kept."""

    def __init__(self, world: World, pixels: int, n_images: int) -> None:
        self._world = world
        self._pixels = pixels
        # Every sketch has its photo before it; a photo may lack its sketches at the end.
        self._n_pairs = n_images - -(-n_images // _GROUP)

    def __len__(self) -> int:
        return self._n_pairs

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n_pairs))]
        at = index + self._n_pairs if index < 0 else index
        if not 0 <= at < self._n_pairs:
            raise IndexError(f"pair {index} of {self._n_pairs}")
        instance, number = divmod(at, SKETCHES_PER_PHOTO)
        place = instance * _GROUP + number + 1
        sketch, photo = self._world.sketch(instance, number + 1), self._world.photo(instance)
        return Pair(
            sketch=_id(self._world, place),
            photo=_id(self._world, instance * _GROUP),
            category=self._world.category(instance),
            sketch_points=sketch.keypoints * self._pixels,
            photo_points=photo.keypoints * self._pixels,
            visible=sketch.visible & photo.visible,
            split=self._world.split(instance),
        )


def _id(world: World, place: int) -> str:
    instance, number = divmod(place, _GROUP)
    category = world.category(instance)
    if number:
        return f"sketch/{category}/{instance:06d}-{number}.png"
    return f"photo/{category}/{instance:06d}.png"


def _view(world: World, place: int) -> View:
    instance, number = divmod(place, _GROUP)
    return world.sketch(instance, number) if number else world.photo(instance)


def _mask(world: World, pixels: int, place: int) -> np.ndarray:
    return _view(world, place).mask(pixels)
