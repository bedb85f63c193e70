"""A user's foreground masks, one file per photo: `<class>/<photo's stem>.png`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.datasets.base import DatasetError, Label, Skipped, normalise_category
from pipeline.datasets.listing import list_files, read_image_file
from pipeline.pictures.images import ImageError, decode_foreground, image_size

MASK_SUFFIXES = frozenset({".png", ".bmp", ".gif", ".tif", ".tiff"})
"""Lossless formats only: JPEG noise around zero would become foreground."""


def photo_masks(
    folder: Path, root: Path, labels: Mapping[str, Label]
) -> tuple[dict[str, Callable[[], np.ndarray]], list[Skipped]]:
    """A loader per photo of `labels` that has a mask under `folder`, and the masks of no photo.

    A loader gives bool [H, W], true where the mask is not zero. It raises `DatasetError` where
    the mask cannot be read or its size is not the photo's.
    """
    photos = {
        (label.category, Path(image_id).stem): image_id
        for image_id, label in labels.items()
        if label.domain == "photo"
    }
    listing = list_files(folder, MASK_SUFFIXES)
    masks: dict[str, Callable[[], np.ndarray]] = {}
    skipped = [Skipped((folder / entry.path).as_posix(), entry.reason) for entry in listing.skipped]
    for path in listing.files:
        file = Path(path)
        photo = photos.get((normalise_category(file.parent.name), file.stem))
        if photo is None:
            skipped.append(Skipped((folder / path).as_posix(), "mask of no photo"))
        else:
            masks[photo] = partial(load_mask, folder / path, root / photo)
    return masks, skipped


def load_mask(mask: Path, photo: Path) -> np.ndarray:
    """The mask as bool [H, W] in the photo's pixels. Raises `DatasetError`."""
    try:
        foreground = decode_foreground(read_image_file(mask))
        width, height = image_size(read_image_file(photo))
    except (OSError, ImageError) as error:
        raise DatasetError(f"mask {mask} of {photo}: {' '.join(str(error).split())}") from error
    if foreground.shape != (height, width):
        raise DatasetError(
            f"mask {mask} has {foreground.shape[1]} x {foreground.shape[0]} pixels,"
            f" its photo {width} x {height}"
        )
    return foreground
