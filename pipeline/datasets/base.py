"""What a dataset is: image files under stable ids, and, apart from them, annotations.

Stage 1 needs only the images (`ids`, `read`, `decode`); stage 2 needs only the annotations.
Both speak of an image by its id, so a store made once serves every task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.pictures.images import ImageError, decode_image, image_size

Domain = Literal["photo", "sketch"]


class DatasetError(ValueError):
    """A dataset that cannot be used as configured; the message says where and what to do."""


@dataclass(frozen=True)
class Skipped:
    """A path under the root that is no image of the dataset, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Label:
    """What one image shows.

    `category` is normalised (lower case, spaces). `source` is the id of the photo a sketch was
    drawn from, `split` the dataset's own partition where it has one ("train", "val", "test").
    """

    category: str | None = None
    domain: Domain | None = None
    source: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Pair:
    """A sketch and a photo of the same thing, with corresponding points where annotated.

    `sketch_points` and `photo_points` are float64 [K, 2], (x, y) in pixels of the image as
    decoded, from its upper left corner (the first pixel's centre is (0.5, 0.5)), row i of one
    corresponding to row i of the other; `visible` is bool [K], true where the point can be seen
    in both.
    """

    sketch: str
    photo: str
    category: str | None = None
    sketch_points: np.ndarray | None = None
    photo_points: np.ndarray | None = None
    visible: np.ndarray | None = None
    split: str | None = None


@dataclass(frozen=True)
class Annotations:
    """Everything a task may ask about a dataset's images.

    `masks` maps an image id to a function that loads its foreground as bool [H, W] in the
    pixels of the image as decoded.
    """

    labels: Mapping[str, Label] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()
    masks: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)


class Dataset(ABC):
    """Images under stable ids. Picklable, so that decoding can run in worker processes."""

    name: str
    root: Path | None = None

    @property
    def benchmark(self) -> str:
        """What its results are usually reported as: the name, unless it comes in versions."""
        return self.name

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """Relative posix paths in a fixed order; `limit` has been applied."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """What lies under the root and was left out."""
        return ()

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how the images were chosen, a line each."""
        return ()

    @abstractmethod
    def read(self, image_id: str) -> bytes:
        """The image's encoded bytes: what its content hash is taken of. Raises OSError."""

    def signature(self, image_id: str) -> str | None:
        """A string that changes when the image's file does, told without reading the file.

        None if there is no such string: then only the content says whether it has changed.
        """
        return None

    def expect(self, image_id: str) -> None:  # noqa: B027
        """Hear of an image that will be read soon, so that a disk can begin. Raises nothing."""

    def decode(self, image_id: str, data: bytes) -> Image.Image:
        """Those bytes as an RGB picture at full size. Raises ImageError."""
        return decode_image(data)

    def size(self, image_id: str, data: bytes) -> tuple[int, int]:
        """Width and height of what `decode` gives, without decoding. Raises `ImageError`."""
        return image_size(data)

    def picture(self, image_id: str) -> Image.Image | None:
        """An image as an RGB picture at full size; None if it cannot be read or decoded."""
        try:
            return self.decode(image_id, self.read(image_id))
        except (OSError, ImageError):
            return None

    @cached_property
    def annotations(self) -> Annotations:
        """Labels, pairs, keypoints and masks; empty where the dataset has none."""
        return Annotations()


def normalise_category(name: str) -> str:
    """Lower case, `-` and `_` as spaces, so that spellings of one class compare equal."""
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())
