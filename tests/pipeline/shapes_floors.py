"""How far one gets in the shapes world without seeing: floors that a feature has to beat.

    python -m tests.pipeline.shapes_floors

prints the figures of docs/shapes.md. Pictures are 96 x 96; a PCK@10 counts a point as found
within a tenth of the side, over keypoints visible in both images, averaged per pair, over both
directions, and then over categories.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from heads.floors import dense_hog
from pipeline.datasets.shapes import UNSEEN_SETS, ShapesDataset, UnseenSet
from pipeline.shapes.categories import CATEGORIES
from pipeline.shapes.view import View
from pipeline.shapes.world import World

PIXELS = 96


def copied_points(source: View, target: View) -> np.ndarray:
    """The source's keypoints [8, 2] as they are, in pixels."""
    return source.keypoints * PIXELS


def hog_points(source: View, target: View) -> np.ndarray:
    """The centres [8, 2] of the target's cells most like those at the source's keypoints,
    pixels."""
    ours, theirs = dense_hog(source.image(PIXELS)), dense_hog(target.image(PIXELS))
    n_cells = len(theirs)
    cells = np.clip(source.keypoints * n_cells, 0, n_cells - 1).astype(int)
    likeness = ours[cells[:, 1], cells[:, 0]] @ theirs.reshape(n_cells**2, -1).T
    y, x = np.divmod(likeness.argmax(1), n_cells)
    return (np.stack([x, y], axis=1) + 0.5) * PIXELS / n_cells


def pck10(
    predict: Callable[[View, View], np.ndarray],
    seed: int,
    per_category: int,
    categories: Sequence[str] = CATEGORIES,
    unseen: UnseenSet = "first",
) -> dict[str, float]:
    """PCK@10 of each category over its first `per_category` instances, one sketch each."""
    world = World(seed, unseen)
    found = defaultdict(list)
    for instance in _instances(world, categories, per_category):
        sketch, photo = world.sketch(instance, 1), world.photo(instance)
        both = sketch.visible & photo.visible
        for source, target in ((sketch, photo), (photo, sketch)):
            off = np.linalg.norm(predict(source, target) - target.keypoints * PIXELS, axis=1)
            found[world.category(instance)].append((off[both] <= 0.1 * PIXELS).mean())
    return {category: float(np.mean(rates)) for category, rates in found.items()}


def pixel_retrieval(
    seed: int, per_category: int, unseen: UnseenSet = "first"
) -> tuple[float, float]:
    """mAP@all of sketch to photo over the unseen categories by grey pixels, and by chance."""
    world = World(seed, unseen)
    instances = _instances(world, world.unseen_categories, per_category)
    categories = np.array([world.category(instance) for instance in instances])
    queries = _standardised(np.stack([_grey(world.sketch(i, 1)) for i in instances]))
    gallery = _standardised(np.stack([_grey(world.photo(i)) for i in instances]))
    # Photos may be lighter or darker than their background: both signs are tried.
    likeness = queries @ gallery.T
    relevant = categories[:, None] == categories
    chance = np.random.default_rng(0).random(likeness.shape)
    best = max(_mean_ap(likeness, relevant), _mean_ap(-likeness, relevant))
    return best, _mean_ap(chance, relevant)


def shape_retrieval(
    seed: int,
    per_category: int,
    categories: Sequence[str] = CATEGORIES,
    unseen: UnseenSet = "first",
) -> dict[str, float]:
    """How often a sketch's keypoints, posed at best, are nearest to those of its own photo.

    For each category, within it; chance is 1 / `per_category`. What a perfect reader of
    proportions, seeing nothing but eight points, would reach.
    """
    world = World(seed, unseen)
    rates = {}
    for category in categories:
        instances = _instances(world, [category], per_category)
        photos = [world.photo(i).keypoints for i in instances]
        sketches = [world.sketch(i, 1).keypoints for i in instances]
        nearest = [
            np.argmin([_affine_residual(photo, sketch) for photo in photos]) for sketch in sketches
        ]
        rates[category] = float(np.mean(nearest == np.arange(per_category)))
    return rates


def images_per_second(n_images: int) -> float:
    """Images drawn and encoded as PNG for each second of processor time."""
    dataset = ShapesDataset(n_images, pixels=PIXELS)
    start = time.process_time()
    for image_id in dataset.ids:
        dataset.read(image_id)
    return n_images / (time.process_time() - start)


def _instances(world: World, categories: Sequence[str], per_category: int) -> list[int]:
    """The first instances of each category, the categories taking turns."""
    return [world.instance(name, k) for k in range(per_category) for name in categories]


def _grey(view: View) -> np.ndarray:
    return np.asarray(view.image(PIXELS).convert("L"), dtype=np.float32) / 255.0


def _standardised(pictures: np.ndarray) -> np.ndarray:
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _mean_ap(likeness: np.ndarray, relevant: np.ndarray) -> float:
    order = np.argsort(-likeness, axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(1) / hits.sum(1)).mean())


def _affine_residual(target: np.ndarray, points: np.ndarray) -> float:
    """What the best similarity, mirrored or not, of points [K, 2] leaves of target [K, 2], 0..1."""
    a, b = target - target.mean(0), points - points.mean(0)
    singular = np.linalg.svd(a.T @ b, compute_uv=False)
    return 1.0 - float(singular.sum() ** 2 / ((a**2).sum() * (b**2).sum()))


def main() -> None:
    for title, categories, unseen in (
        ("all 32", CATEGORIES, "first"),
        ("second unseen set", UNSEEN_SETS["second"], "second"),
    ):
        print(f"{title}:")
        for name, predict in (("copied position", copied_points), ("dense HOG", hog_points)):
            rates = [pck10(predict, seed, 12, categories, unseen) for seed in range(3)]
            means = ", ".join(f"{np.mean(list(r.values())):.3f}" for r in rates)
            highest = max(np.mean([r[c] for r in rates]) for c in categories)
            print(f"  PCK@10, {name}, seeds 0-2: {means}; highest category {highest:.3f}")
        found = [pixel_retrieval(seed, 30, unseen) for seed in range(3)]
        pixels, chance = np.mean(found, axis=0)
        print(f"  mAP@all, unseen, grey pixels: {pixels:.3f} (chance {chance:.3f})")
        accuracies = [shape_retrieval(seed, 20, categories, unseen) for seed in range(3)]
        accuracy = np.mean([list(rates.values()) for rates in accuracies])
        print(f"  acc@1, own photo among 20 of its category, keypoints alone: {accuracy:.3f}")
    print(f"images/s, one core, PNG included: {max(images_per_second(480) for _ in range(3)):.0f}")


if __name__ == "__main__":
    main()
