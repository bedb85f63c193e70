"""The pictures that `nano` is trained on, drawn once: seen categories of the world `shapes`.

    python -m pipeline.nano.data --out DIR [--seed 9001] [--instances 16000] [--split train]

writes `images.npy`, uint8 [N, 3, 96, 96, 3] (photo, first sketch, second sketch),
`photo_masks.npy`, uint8 [N, 1152] (the photo's mask, 8 pixels a byte), `categories.npy`, int64
[N], and `points.npy`, float32 [N, 3, 8, 3] (x and y in pixels, and 1 where visible).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pipeline.shapes.categories import SEEN
from pipeline.shapes.world import Split, World

PIXELS = 96
SEED = 9001
"""The training world; no test or benchmark uses it."""


@dataclass(frozen=True)
class Pictures:
    """What `draw` wrote, mapped into memory; axes as the module says."""

    images: np.ndarray
    photo_masks: np.ndarray
    categories: np.ndarray
    points: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Pictures:
        """Map a folder's arrays."""
        names = ("images", "photo_masks", "categories", "points")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def draw(out: Path, seed: int, n_instances: int, split: Split, workers: int) -> None:
    """Draw the first `n_instances` seen instances of one split of a world."""
    out.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    chosen = list(islice(seen_instances(world, split), n_instances))
    shape = (n_instances, 3, PIXELS, PIXELS, 3)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, shape)
    masks = np.empty((n_instances, PIXELS * PIXELS // 8), np.uint8)
    points = np.empty((n_instances, 3, 8, 3), np.float32)
    with get_context("spawn").Pool(workers) as pool:
        drawn = pool.imap(partial(_draw_instance, seed), chosen, chunksize=64)
        for row, (pictures, mask, keypoints) in enumerate(drawn):
            images[row], masks[row], points[row] = pictures, mask, keypoints
    images.flush()
    np.save(out / "photo_masks.npy", masks)
    np.save(out / "points.npy", points)
    np.save(out / "categories.npy", [SEEN.index(world.category(i)) for i in chosen])


def seen_instances(world: World, split: Split) -> Iterator[int]:
    """The instances of the seen categories' split, without end."""
    for instance in count():
        if world.category(instance) in SEEN and world.split(instance) == split:
            yield instance


def _draw_instance(seed: int, instance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    world = World(seed)
    views = [world.photo(instance), world.sketch(instance, 1), world.sketch(instance, 2)]
    pictures = np.stack([np.asarray(view.image(PIXELS).convert("RGB")) for view in views])
    points = np.stack(
        [np.column_stack([view.keypoints * PIXELS, view.visible]) for view in views]
    ).astype(np.float32)
    return pictures, np.packbits(views[0].mask(PIXELS)), points


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures that nano is trained on.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--instances", type=int, default=16000)
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    draw(args.out, args.seed, args.instances, args.split, args.workers)


if __name__ == "__main__":
    main()
