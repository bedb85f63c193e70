"""What a demonstration of stage 1 found: plain records that a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cache import StoreDescription, VerifyReport
from heads.pca import ColourMaps


@dataclass(frozen=True)
class Planned:
    """What the plan expected of the first run. `flops` are per image, by network."""

    n_to_do: int
    bytes_needed: int
    seconds: float
    flops: Mapping[str, int]
    unet_passes: int
    device: str


@dataclass(frozen=True)
class Run:
    """One precompute. `wall` seconds include loading weights and listing images.

    `seconds` cover the extraction; `read`, `compute` and `write` are the parts of it during which
    the run waited for images, for the networks and for the disk.
    """

    title: str
    n_computed: int
    arrays: tuple[str, ...]
    wall: float
    seconds: float
    read: float
    compute: float
    write: float
    bytes_written: int

    @property
    def images_per_second(self) -> float:
        """Rate of the extraction; 0 where nothing was left to do."""
        return self.n_computed / self.seconds if self.n_computed else 0.0


@dataclass(frozen=True)
class Reading:
    """Random batches from the store against the same images through the networks.

    Seconds are per image, of the median batch. `largest_difference` is the largest distance
    between a stored value and the recomputed one, as a share of the array's largest magnitude.
    """

    arrays: tuple[str, ...]
    batch_size: int
    n_batches: int
    bytes_per_image: int
    cached_seconds: float
    live_seconds: float
    largest_difference: float

    @property
    def ratio(self) -> float:
        """How many times faster the store is."""
        return self.live_seconds / self.cached_seconds


@dataclass(frozen=True)
class ZarrCheck:
    """Rows read with plain zarr-python that equal those of the store's own reader."""

    n_rows: int
    n_equal: int
    n_arrays: int


@dataclass(frozen=True)
class MarkedPicture:
    """A picture as decoded, with keypoints [K, 2], (x, y) in its pixels, and bool [K] visible."""

    image_id: str
    image: Image.Image
    points: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class PicturePair:
    """A sketch and the photo it shows; `maps` colours both, sketch first, by array name."""

    category: str
    sketch: MarkedPicture
    photo: MarkedPicture
    maps: Mapping[str, ColourMaps]


@dataclass(frozen=True)
class Stage1:
    """Everything the demonstration found.

    `sheet` shows the world, one pair of each category; `examples` have feature maps, of
    `timestep`. `store_name` is the store's folder as the user would type it. Of the
    `n_earlier_files` data files there were before the store grew, `n_untouched_files` have the
    same size and time of change after it. `verified` is the verification of a sound store.
    """

    dataset: str
    backbone: str
    random_weights: bool
    store_name: str
    planned: Planned
    runs: tuple[Run, ...]
    n_untouched_files: int
    n_earlier_files: int
    store: StoreDescription
    verified: VerifyReport
    verify_seconds: float
    reading: Reading
    zarr: ZarrCheck
    timestep: int
    sheet: tuple[PicturePair, ...]
    examples: tuple[PicturePair, ...]
    machine: Mapping[str, str]
    made: str
