"""What a precompute will take: images, bytes, operations, time; and whether the disk has room."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import ArraySpec, FeatureStore, NotAStore, RemotePath, StorePath
from cache.units import human_bytes, human_flops, human_seconds, printable
from configs import Config
from pipeline.cost import Cost, measure_cost, probe_flops_per_second
from pipeline.extraction.arrays import array_specs
from pipeline.extraction.vision import vision_specs
from pipeline.job import open_configured
from pipeline.networks.backbone import DTYPES, pick_device
from pipeline.networks.vision import VisionGeometry
from pipeline.precompute import WHOLE, Part

DISK_MARGIN = 1.02
"""Room kept for indexes, commits and file-system blocks."""
PROBE_SHARE = 0.5
"""Share of the probe's speed that a whole forward pass reaches, attention and decoding included."""


@dataclass(frozen=True)
class Plan:
    """The size of a job. Bytes are for the images still to do; seconds are a rough estimate.

    `bytes_by_array` is per image; `flops` per image, two per multiply-add. Of object storage
    `bytes_free` is None: there is no limit.
    """

    n_images: int
    n_to_do: int
    n_skipped: int
    bytes_by_array: dict[str, int]
    bytes_needed: int
    bytes_free: int | None
    place: StorePath
    cost: Cost
    flops_per_second: float | None
    """None where there is nothing to do."""
    device: str
    notes: list[str]
    """How the images were chosen, where that is not obvious."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room for what is still to be written."""
        return self.bytes_free is None or self.bytes_needed <= self.bytes_free

    @property
    def shortage(self) -> str | None:
        """What the disk lacks, in words; None where the store fits."""
        if self.bytes_free is None or self.fits:
            return None
        free, needed = human_bytes(self.bytes_free), human_bytes(self.bytes_needed)
        return f"{self.place} has {free} free but the store needs {needed}"

    @property
    def seconds(self) -> float:
        """Rough time for the images still to do, from a short probe of this machine."""
        if self.flops_per_second is None:
            return 0.0
        return self.n_to_do * self.cost.total / self.flops_per_second

    def as_json(self) -> dict[str, Any]:
        """One plain object."""
        return {
            "images": self.n_images,
            "images_to_do": self.n_to_do,
            "files_skipped": self.n_skipped,
            "notes": self.notes,
            "bytes_per_image": self.bytes_by_array,
            "bytes_needed": self.bytes_needed,
            "bytes_free": self.bytes_free,
            "flops_per_image": {
                "vae": self.cost.vae,
                "clip": self.cost.clip,
                "unet_pass": self.cost.unet,
                "unet_passes": self.cost.passes,
                "vision": self.cost.vision,
                "total": self.cost.total,
            },
            "device": self.device,
            "seconds_estimate": round(self.seconds, 1),
            "fits": self.fits,
        }

    def as_text(self) -> str:
        """The same for a terminal."""
        cost = self.cost
        per_image = sum(self.bytes_by_array.values())
        networks = (
            f"vision transformer {human_flops(cost.vision)}"
            if cost.vision
            else f"VAE {human_flops(cost.vae)}, CLIP {human_flops(cost.clip)}, "
            f"UNet {human_flops(cost.unet)} x {cost.passes}"
        )
        free = "" if self.bytes_free is None else f"{human_bytes(self.bytes_free)} free "
        width = max(16, *map(len, self.bytes_by_array))
        lines = [
            f"images      {self.n_images:,} ({self.n_to_do:,} to do; "
            f"{self.n_skipped:,} other files left out)",
            *(f"note        {note}" for note in self.notes),
            f"disk        {human_bytes(self.bytes_needed)} needed, {free}at {self.place}",
            f"per image   {human_bytes(per_image)}, {human_flops(cost.total)} ({networks})",
            *(f"  {name:<{width}} {human_bytes(n)}" for name, n in self.bytes_by_array.items()),
            f"time        about {human_seconds(self.seconds)} on {self.device} "
            "(rough: from a half-second probe)"
            if self.n_to_do
            else "time        nothing to do",
        ]
        return "\n".join(lines)


def make_plan(config: Config, out: StorePath | None = None, part: Part = WHOLE) -> Plan:
    """Count a job without loading weights or opening images.

    Args:
        out: the store's folder if it is known; images it already has are not counted again.
        part: counts only this part's share of the images.

    Raises DatasetError or BackboneError; the latter also for a hub checkpoint whose architecture
    is not built in, since nothing is downloaded here.
    """
    dataset = open_configured(config)
    extraction = config.extraction
    cost = measure_cost(config.backbone, extraction)
    if isinstance(cost.geometry, VisionGeometry):
        specs = vision_specs(cost.geometry, extraction)
    else:
        specs = array_specs(cost.geometry, extraction)
    n_images = len(dataset.ids)
    n_to_do = math.ceil(_count_missing(dataset.ids, specs, out) / part.count)
    bytes_by_array = {
        spec.name: sum(array.record_bytes for array in spec.zarr_arrays) for spec in specs
    }
    device = pick_device(extraction.device)
    place = out if isinstance(out, RemotePath) else _existing_parent(out or Path("stores"))
    # The probe takes half a second, for nothing where there is nothing to do.
    speed = probe_flops_per_second(device, DTYPES[extraction.precision]) if n_to_do else None
    return Plan(
        n_images=n_images,
        n_to_do=n_to_do,
        n_skipped=len(dataset.skipped),
        bytes_by_array=bytes_by_array,
        bytes_needed=int(n_to_do * sum(bytes_by_array.values()) * DISK_MARGIN),
        bytes_free=None if isinstance(place, RemotePath) else shutil.disk_usage(place).free,
        place=place,
        cost=cost,
        flops_per_second=None if speed is None else speed * PROBE_SHARE,
        device=str(device),
        notes=[printable(note) for note in dataset.notes],
    )


def _count_missing(ids: Sequence[str], specs: list[ArraySpec], out: StorePath | None) -> int:
    """How many images the store at `out` lacks an array of."""
    if out is None:
        return len(ids)
    try:
        store = FeatureStore.open(out)
    except NotAStore:
        return len(ids)
    if any(spec.name not in store.arrays for spec in specs):
        return len(ids)
    done = np.logical_and.reduce([store.committed[spec.name] for spec in specs])
    # Most stores list just the dataset, in its order: then no image need be looked up.
    if store.ids == list(ids):
        return int(np.count_nonzero(~done))
    complete = {store.ids[row] for row in np.flatnonzero(done)}
    return sum(image_id not in complete for image_id in ids)


def _existing_parent(path: Path) -> Path:
    """The nearest folder above a place that need not exist yet."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
