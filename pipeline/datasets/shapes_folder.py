"""Write pictures of the procedural world into a folder, where none of one's own are at hand.

    python -m pipeline.datasets.shapes_folder pictures --categories 12 --instances 8

The folder is laid out as the datasets `folder` and `sketchy` read it: photo/<category>/000000.png
and sketch/<category>/000000-1.png. Masks go beside it, masks/<category>/000000.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.base import DatasetError
from pipeline.datasets.shapes import SKETCHES_PER_PHOTO, UNSEEN_SETS, ShapesDataset, UnseenSet
from pipeline.shapes.world import World


def write_pictures(
    folder: Path,
    n_categories: int,
    n_instances: int,
    pixels: int = 96,
    seed: int = 0,
    masks: Path | None = None,
    unseen: UnseenSet = "first",
) -> int:
    """Write the first instances of the first categories; returns the number of pictures.

    Each instance is a photo and two sketches, PNG of `pixels` x `pixels`. The bytes are those that
    the dataset `shapes` has under the same ids.

    Args:
        masks: a folder for the photos' masks, white on black; without it none are written.
        unseen: the world's set of unseen categories.

    Raises:
        DatasetError: a number out of range, or a folder that holds something.
        OSError: a folder that cannot be written.
    """
    world = World(seed, unseen)
    n_known = len(world.categories)
    if not 1 <= n_categories <= n_known:
        raise DatasetError(f"categories: {n_categories}; give a number from 1 to {n_known}")
    if n_instances < 1:
        raise DatasetError(f"instances: {n_instances}; give a number, 1 or more")
    last = max(world.instance(name, n_instances - 1) for name in world.categories)
    dataset = ShapesDataset((last + 1) * (1 + SKETCHES_PER_PHOTO), seed, pixels, unseen)
    for place in [folder] if masks is None else [folder, masks]:
        _check_free(place)
    ids = list(_first_of(dataset, world.categories[:n_categories], n_instances))
    for image_id in ids:
        path = folder / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(image_id))
        if masks is not None and dataset.annotations.labels[image_id].domain == "photo":
            path = masks / image_id.removeprefix("photo/")
            path.parent.mkdir(parents=True, exist_ok=True)
            foreground = dataset.annotations.masks[image_id]()
            Image.fromarray(foreground.astype(np.uint8) * 255).save(path)
    return len(ids)


def _first_of(dataset: ShapesDataset, categories: Sequence[str], n: int) -> Iterator[str]:
    """The images of the first `n` instances of each category."""
    n_left: dict[str | None, int] = dict.fromkeys(categories, n * (1 + SKETCHES_PER_PHOTO))
    for image_id, label in dataset.annotations.labels.items():
        if n_left.get(label.category, 0):
            n_left[label.category] -= 1
            yield image_id


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder}: is there already; choose a new folder")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write pictures of the procedural world into a folder."
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--categories", type=int, default=12, help="how many of them")
    parser.add_argument("--instances", type=int, default=8, help="photos of each category")
    parser.add_argument("--pixels", type=int, default=96, help="side of one picture")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another world")
    parser.add_argument(
        "--unseen", choices=UNSEEN_SETS, default="first", help="the world's unseen categories"
    )
    parser.add_argument("--masks", type=Path, metavar="DIR", help="write the photos' masks there")
    asked = parser.parse_args()
    try:
        n = write_pictures(
            asked.folder,
            asked.categories,
            asked.instances,
            asked.pixels,
            asked.seed,
            asked.masks,
            asked.unseen,
        )
    except (DatasetError, OSError) as error:
        parser.error(str(error))
    print(f"{asked.folder}: {n} pictures")


if __name__ == "__main__":
    main()
