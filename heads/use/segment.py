"""Which part of a photo is what a sketch shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cache.storage.files import replacing
from heads.plots import masks_figure, save
from heads.plots.records import Mask
from heads.tasks.segmentation import THRESHOLD, similarity
from heads.use.pictures import PictureSource, load_picture
from heads.use.trained import Trained, check_task


@dataclass(frozen=True, kw_only=True)
class FoundMask(Mask):
    """A mask, and what it was made by."""

    threshold: float
    """The cosine from which on a pixel is foreground."""
    mean_similarity: float | None
    """Mean cosine of the foreground with the sketch; None where nothing was found."""

    @property
    def share(self) -> float:
        """How much of the photo is foreground."""
        return float(self.found.mean())


def segment(trained: Trained, sketch: PictureSource, photo: PictureSource) -> FoundMask:
    """The mask bool [H, W] of what the sketch shows, in the photo's pixels.

    By the threshold that was fixed on training pairs. Raises UseError for a run of another task
    or an unusable picture, RunError where the run does not hold its threshold.
    """
    check_task(trained.run, trained.task, "segmentation")
    threshold = trained.fitted.numbers[THRESHOLD]
    query, other = load_picture(sketch), load_picture(photo)
    pooled = trained.describe([query], "sketch").pooled.cpu()
    cosines = similarity(pooled, trained.describe([other], "photo").spatial.cpu())
    values = trained.frame(photo=other).on_picture("photo", cosines)[0]
    found = values >= threshold
    mean = float(values[found].mean()) if found.any() else None
    return FoundMask(query, other, found.numpy(), threshold=threshold, mean_similarity=mean)


def save_mask(found: FoundMask, folder: Path, taken: set[str]) -> dict[str, Path]:
    """Write `{photo}-mask.png`, white on black at the photo's size, and `{photo}-overlay.png`.

    Names in `taken` are not used again; what is used is added. Raises OSError.
    """
    stem = name = Path(found.photo.name).stem
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    paths = {kind: folder / f"{name}-{kind}.png" for kind in ("mask", "overlay")}
    save(masks_figure([found]), paths["overlay"])
    with replacing(paths["mask"]) as new:
        Image.fromarray(found.found.astype(np.uint8) * 255).save(new)
    return paths
