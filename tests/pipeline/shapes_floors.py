"""How far one gets in the shapes world without seeing: floors that a feature has to beat.

    python -m tests.pipeline.shapes_floors

prints the figures of docs/shapes.md. Pictures are 96 x 96; a PCK@10 counts a point as found
within a tenth of the side, over keypoints visible in both images, averaged per pair, over both
directions, and then over categories.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from heads.floors import dense_hog
from pipeline.datasets.shapes import UNSEEN, ShapesDataset
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
    predict: Callable[[View, View], np.ndarray], seed: int, per_category: int
) -> dict[str, float]:
    """PCK@10 of each category over its first `per_category` instances, one sketch each."""
    world = World(seed)
    found = defaultdict(list)
    for instance in range(per_category * len(CATEGORIES)):
        sketch, photo = world.sketch(instance, 1), world.photo(instance)
        both = sketch.visible & photo.visible
        for source, target in ((sketch, photo), (photo, sketch)):
            off = np.linalg.norm(predict(source, target) - target.keypoints * PIXELS, axis=1)
            found[world.category(instance)].append((off[both] <= 0.1 * PIXELS).mean())
    return {category: float(np.mean(rates)) for category, rates in found.items()}


def pixel_retrieval(seed: int, per_category: int) -> tuple[float, float]:
    """mAP@all of sketch to photo over the unseen categories by grey pixels, and by chance."""
    world = World(seed)
    places = [CATEGORIES.index(name) for name in UNSEEN] * per_category
    instances = [p + len(CATEGORIES) * (k // len(UNSEEN)) for k, p in enumerate(places)]
    queries = _standardised(np.stack([_grey(world.sketch(i, 1)) for i in instances]))
    gallery = _standardised(np.stack([_grey(world.photo(i)) for i in instances]))
    # Photos may be lighter or darker than their background: both signs are tried.
    likeness = queries @ gallery.T
    relevant = np.equal.outer(places, places)
    chance = np.random.default_rng(0).random(likeness.shape)
    best = max(_mean_ap(likeness, relevant), _mean_ap(-likeness, relevant))
    return best, _mean_ap(chance, relevant)


def shape_retrieval(seed: int, per_category: int) -> float:
    """How often a sketch's keypoints, posed at best, are nearest to those of its own photo.

    Within each category; chance is 1 / `per_category`. What a perfect reader of proportions,
    seeing nothing but eight points, would reach.
    """
    world = World(seed)
    right = []
    for place in range(len(CATEGORIES)):
        instances = [place + turn * len(CATEGORIES) for turn in range(per_category)]
        photos = [world.photo(i).keypoints for i in instances]
        for k, instance in enumerate(instances):
            sketch = world.sketch(instance, 1).keypoints
            right.append(int(np.argmin([_affine_residual(photo, sketch) for photo in photos])) == k)
    return float(np.mean(right))


def images_per_second(n_images: int) -> float:
    """Images drawn and encoded as PNG for each second of processor time."""
    dataset = ShapesDataset(n_images, pixels=PIXELS)
    start = time.process_time()
    for image_id in dataset.ids:
        dataset.read(image_id)
    return n_images / (time.process_time() - start)


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
    for name, predict in (("copied position", copied_points), ("dense HOG", hog_points)):
        rates = [pck10(predict, seed, per_category=12) for seed in range(3)]
        means = ", ".join(f"{np.mean(list(r.values())):.3f}" for r in rates)
        highest = max(np.mean([r[c] for r in rates]) for c in CATEGORIES)
        print(f"PCK@10, {name}, seeds 0-2: {means}; highest category {highest:.3f}")
    pixels, chance = np.mean([pixel_retrieval(seed, per_category=30) for seed in range(3)], axis=0)
    print(f"mAP@all, unseen, grey pixels: {pixels:.3f} (chance {chance:.3f})")
    accuracy = np.mean([shape_retrieval(seed, per_category=20) for seed in range(3)])
    print(f"acc@1, own photo among 20 of its category, keypoints alone: {accuracy:.3f}")
    print(f"images/s, one core, PNG included: {max(images_per_second(480) for _ in range(3)):.0f}")


if __name__ == "__main__":
    main()
