"""What a demonstration found: plain records that its report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cache import StoreDescription, VerifyReport
from heads.evaluation.evaluate import Examined
from heads.pca import ColourMaps
from heads.plots.maps import MappedImages
from heads.plots.records import Ranking
from heads.tasks import TASKS


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
class Precomputed:
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
    runs: tuple[Precomputed, ...]
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


@dataclass(frozen=True)
class TrainedHead:
    """A head that was trained from a cache and evaluated.

    `n_reads` is how many images' features its training asked for, validation aside, and `seconds`
    how long it took, validation included.
    """

    examined: Examined
    epochs: int
    n_reads: int
    seconds: float

    @property
    def task(self) -> str:
        """Its task."""
        return self.examined.evaluation.task

    @property
    def main_metric(self) -> str:
        """The metric that stands for the task where there is room for one."""
        return TASKS[self.task].headline


@dataclass(frozen=True)
class InjectionEffect:
    """One task by SD's layers alone, without an injection and with a trained one.

    Both heads had the same number of epochs in all. The injection was trained live with the head
    for `live_epochs` at `sites`, which asked the UNet for `n_live` images' features in
    `live_seconds`; the precompute and the head's epochs on the new cache took the rest of
    `cycle_seconds`.
    """

    without: TrainedHead
    injected: TrainedHead
    sites: tuple[str, ...]
    live_epochs: int
    n_live: int
    live_seconds: float
    cycle_seconds: float


@dataclass(frozen=True)
class OwnPictures:
    """The user's pictures: features of a few, and which of them a trained head finds alike."""

    folder: str
    n_pictures: int
    quarantined: Mapping[str, str]
    seconds: float
    mapped: MappedImages
    rankings: tuple[Ranking, ...]
    """Empty where there is nothing to compare with."""


@dataclass(frozen=True)
class Demonstration:
    """Everything, with when and where. `seconds` from the first step to the report."""

    stage1: Stage1
    heads: tuple[TrainedHead, ...]
    injection: InjectionEffect
    own: OwnPictures | None
    seconds: float
    machine: Mapping[str, str]
    made: str
