"""Does the built-in backbone see? Unseen categories, fresh worlds, nothing trained on top.

    python benchmarks/nano_gate.py [--seeds 101 102 103] [--sets unseen] [--images 1440]

Retrieval from sketch to photo, photo to photo and sketch to sketch (mAP@all, cosine) by CLIP's
image embedding, by pooled UNet features and by both; correspondence from sketch to photo alone
(PCK@10, mean over pairs) by nearest neighbours of UNet features, CLIP tokens and both. Beside them
the same networks with random weights, histograms of gradients, copied positions, and chance. Prints
Markdown: the mean over the seeds and the standard deviation between them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from configs import load_config
from heads.floors import copied_positions, global_hog, hog_matches
from heads.matching import correlate, nearest_neighbour, sample_descriptors
from heads.metrics.correspondence import pck
from heads.metrics.ranking import rank
from heads.metrics.retrieval import category_scores
from heads.protocols import PointPair
from heads.protocols.chance import expected_ap
from pipeline.datasets.shapes import UNSEEN, ShapesDataset
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.noise import draw_noise

PIXELS, GRID, BATCH = 96, 24, 16
TIMESTEP, LAYERS = 195, ("s3", "s4")
"""Where UNet features are read, chosen on the seen categories' validation split of seed 90."""
WAYS = (("sketch", "photo"), ("photo", "photo"), ("sketch", "sketch"))

Describe = Callable[[Sequence[str]], Tensor]
Results = dict[tuple[str, str], float]
"""A figure by what was asked and who answered."""


@dataclass
class World:
    """The part of one seed's world that is looked at."""

    dataset: ShapesDataset
    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    pairs: list[PointPair] = field(default_factory=list)

    @classmethod
    def of(cls, seed: int, n_images: int, part: str) -> World:
        """All of the unseen categories, or the seen ones' validation split."""
        world = cls(ShapesDataset(n_images, seed, PIXELS))
        annotations = world.dataset.annotations
        for name, label in annotations.labels.items():
            wanted = label.category in UNSEEN if part == "unseen" else label.split == "val"
            # The second sketches are left out: a photo's two are alike.
            if wanted and not name.endswith("-2.png"):
                world.ids[label.domain].append(name)
        for place in range(0, len(annotations.pairs), 2):
            name = world.dataset.ids[place // 2 * 3 + 1]
            if name in world.ids["sketch"]:
                pair = annotations.pairs[place]
                world.pairs.append(
                    PointPair(
                        pair.sketch,
                        pair.photo,
                        pair.category,
                        torch.from_numpy(pair.sketch_points / PIXELS),
                        torch.from_numpy(pair.photo_points / PIXELS),
                        torch.from_numpy(pair.visible),
                    )
                )
        return world

    def picture(self, name: str) -> Image.Image:
        """The picture of an id."""
        return Image.open(io.BytesIO(self.dataset.read(name))).convert("RGB")

    def labels(self, names: Sequence[str]) -> Tensor:
        """int64 [N]."""
        known = self.dataset.annotations.labels
        order = sorted({label.category for label in known.values()})
        return torch.tensor([order.index(known[name].category) for name in names])


class Eyes:
    """A backbone's features of a world's pictures, each computed once."""

    def __init__(self, backbone: Backbone, world: World) -> None:
        self.backbone, self.world = backbone, world
        self._maps: dict[str, dict[str, Tensor]] = {}

    def maps(self, names: Sequence[str], layers: Sequence[str]) -> Tensor:
        """Unit features [N, C, GRID, GRID]: each layer resized and made a unit, then joined."""
        self._compute([name for name in names if name not in self._maps])
        size = (GRID, GRID)
        units = []
        for layer in layers:
            raw = torch.stack([self._maps[name][layer] for name in names])
            raw = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)
            units.append(F.normalize(raw, dim=1))
        return F.normalize(torch.cat(units, 1), dim=1)

    def embeddings(self, names: Sequence[str]) -> Tensor:
        """CLIP's image embeddings [N, E]."""
        self._compute([name for name in names if name not in self._maps])
        return torch.stack([self._maps[name]["embedding"] for name in names])

    def pooled(self, names: Sequence[str]) -> Tensor:
        """The mean of the UNet's unit features over an image, a unit: [N, C]."""
        means = [self.maps([name], LAYERS).mean((0, 2, 3)) for name in names]
        return F.normalize(torch.stack(means), dim=1)

    def both(self, names: Sequence[str]) -> Tensor:
        """The UNet's pooled features and CLIP's embedding, each a unit: [N, C + E]."""
        return torch.cat([self.pooled(names), F.normalize(self.embeddings(names), dim=1)], 1)

    def matches(self, layers: Sequence[str]) -> list[Tensor]:
        """For each pair the photo's points [K, 2] nearest to the sketch's."""
        found = []
        for pair in self.world.pairs:
            sketch, photo = self.maps([pair.sketch], layers), self.maps([pair.photo], layers)
            descriptors = sample_descriptors(sketch, pair.sketch_points[None].float(), 1.0)
            found.append(nearest_neighbour(correlate(descriptors, photo), 1.0)[0])
        return found

    def _compute(self, names: list[str]) -> None:
        for first in range(0, len(names), BATCH):
            part = names[first : first + BATCH]
            data = [self.world.dataset.read(name) for name in part]
            arrays = [np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in data]
            squares = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
            z0 = self.backbone.encode_latents(squares)
            noise = torch.stack(
                [
                    draw_noise(z0.shape[1:], 0, hashlib.sha256(d).hexdigest(), TIMESTEP, 0)
                    for d in data
                ]
            )
            maps = self.backbone.unet_features(z0, noise, TIMESTEP, LAYERS)
            maps["tokens"], maps["embedding"] = self.backbone.encode_clip(squares)
            for row, name in enumerate(part):
                self._maps[name] = {layer: value[row] for layer, value in maps.items()}


def retrieval(world: World, describe: Describe | None) -> dict[str, float]:
    """mAP@all each way, a picture not counting as its own answer; None is chance."""
    scores = {}
    for ours, theirs in WAYS:
        queries, gallery = world.ids[ours], world.ids[theirs]
        labels, answers = world.labels(queries), world.labels(gallery)
        alone = ours == theirs
        if describe is None:
            relevant = (labels[:, None] == answers).sum(1).numpy() - alone
            value = float(expected_ap(relevant, len(gallery) - alone).mean())
        else:
            ranking = torch.cat(list(rank(describe(queries), describe(gallery))))
            if alone:
                itself = torch.arange(len(queries))[:, None]
                value = _without_itself(ranking, itself, labels)
            else:
                names = ["map@all"]
                value = category_scores([ranking], labels, answers, names).metrics["map@all"]
        scores[f"{ours} to {theirs}"] = value
    return scores


def _without_itself(ranking: Tensor, itself: Tensor, labels: Tensor) -> float:
    n = len(labels)
    ranking = ranking[ranking != itself].view(n, n - 1)
    hits = (labels[ranking] == labels[:, None]).double()
    precision = hits.cumsum(1) / torch.arange(1, n)
    return float(((precision * hits).sum(1) / hits.sum(1)).mean())


def correspondence(world: World, found: list[Tensor]) -> float:
    """PCK@10 of photo points [K, 2] for every pair, in fractions."""
    truth = [pair.photo_points for pair in world.pairs]
    visible = [pair.visible for pair in world.pairs]
    return pck(found, truth, visible, percents=(10,)).metrics["pck@10"]


def look(seed: int, n_images: int, part: str, trained: Backbone, random: Backbone) -> Results:
    """All results of one seed, by (task, who)."""
    world = World.of(seed, n_images, part)
    eyes, blind = Eyes(trained, world), Eyes(random, world)
    hogs = global_hog(world.picture, [*world.ids["photo"], *world.ids["sketch"]])
    row_of = {name: i for i, name in enumerate([*world.ids["photo"], *world.ids["sketch"]])}
    rows: Results = {}
    describers: dict[str, Describe | None] = {
        "SD": eyes.pooled,
        "CLIP": eyes.embeddings,
        "SD+CLIP": eyes.both,
        "CLIP, random weights": blind.embeddings,
        "HOG": lambda names: hogs[[row_of[name] for name in names]],
        "chance": None,
    }
    for who, describe in describers.items():
        for way, value in retrieval(world, describe).items():
            rows[f"mAP@all, {way}", who] = value
    answers = {
        "SD": eyes.matches(LAYERS),
        "CLIP": eyes.matches(["tokens"]),
        "SD+CLIP": eyes.matches([*LAYERS, "tokens"]),
        "SD, random weights": blind.matches(LAYERS),
        "CLIP, random weights": blind.matches(["tokens"]),
        "HOG": [found.photo_points for found in hog_matches(world.picture, world.pairs)],
        "copied position": [found.photo_points for found in copied_positions(world.pairs)],
    }
    for who, found in answers.items():
        rows["PCK@10, sketch to photo", who] = correspondence(world, found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--sets", choices=("unseen", "val"), default="unseen")
    parser.add_argument("--images", type=int, default=1440, help="of all 32 categories, per seed")
    args = parser.parse_args()
    trained, random = (
        load_backbone(load_config("demo", [f"backbone.weights={weights}"]).backbone)
        for weights in ("pretrained", "random")
    )
    results = [look(seed, args.images, args.sets, trained, random) for seed in args.seeds]
    for task in dict.fromkeys(task for task, _ in results[0]):
        print(f"\n| {task} | mean | spread |\n|---|---|---|")
        for key in results[0]:
            if key[0] == task:
                values = [result[key] for result in results]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                print(f"| {key[1]} | {statistics.mean(values):.3f} | {spread:.3f} |")


if __name__ == "__main__":
    main()
