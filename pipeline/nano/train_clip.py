"""Train nano's CLIP on photos, sketches and captions.

    python -m pipeline.nano.train_clip --pictures DIR --out DIR

A batch is a number of instances, each with its photo and its two sketches. Three contrasts are
learned at once: picture and caption, pictures of one category, pictures of one instance. A small
convolutional network learns the same, and the transformer learns to agree with it, patch by patch.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import ClipConfig
from pipeline.nano import start
from pipeline.nano.captions import all_captions
from pipeline.nano.checkpoint import Average, Run, set_learning_rate
from pipeline.nano.data import PIXELS, Pictures
from pipeline.nano.matching import matching_loss
from pipeline.nano.teacher import WIDTH, Teacher
from pipeline.networks.clip import build_clip, clip_features
from pipeline.shapes.categories import SEEN

STEPS, INSTANCES, EMBEDDING = 3100, 24, 128
LEARNING_RATE, TEACHER_RATE, WEIGHT_DECAY, WARM_UP = 1e-3, 2.0, 0.05, 100
CLEAN_UNTIL = 0.25
"""Until this share of the steps, backgrounds come in slowly."""
TEACHER_UNTIL = 0.4
"""From then on the convolutional network only shows what it knows."""
CONTRAST_WEIGHT = 0.5
CONTRAST_RISES = ((0.4, 0.7), (0.125, 0.375))
"""Of the contrasts among pictures, and between which shares of the steps it comes in: for the
transformer once the other network has learned them, for that one after the captions."""
OWN_SHARE, TAUGHT_WEIGHT = 0.5, 2.0
"""How much the transformer follows the contrasts, and how much the other network."""
CATEGORY_TEMPERATURE, INSTANCE_TEMPERATURE = 0.1, 0.07
SEED = 2


def train(pictures: Pictures, out: Path, n_steps: int = STEPS) -> None:
    """Train until `n_steps`; the checkpoint lies in `out`, what to ship is its `average`."""
    torch.manual_seed(SEED)
    model = build_clip(ClipConfig(model="nano"), PIXELS)
    start.prepare(model.visual)
    teacher = Teacher(EMBEDDING)
    width = model.visual.conv1.out_channels
    agree = nn.Sequential(nn.GroupNorm(1, width), nn.Conv2d(width, WIDTH, 1))
    # Embeddings are centred while they are learned: else all of them turn to one direction.
    centre, teacher_centre = (nn.BatchNorm1d(EMBEDDING, affine=False) for _ in range(2))
    average = Average(model, 0.998)
    optimiser = torch.optim.AdamW(
        [
            {"params": [*model.parameters(), *agree.parameters()], "share": 1.0},
            {"params": teacher.parameters(), "share": TEACHER_RATE},
        ],
        betas=(0.9, 0.98),
        weight_decay=WEIGHT_DECAY,
    )
    parts: dict[str, Any] = {"model": model, "teacher": teacher, "agree": agree, "average": average}
    parts |= {"centre": centre, "teacher_centre": teacher_centre, "optimiser": optimiser}
    run = Run(out, SEED, parts)
    captions = all_captions()
    own = torch.arange(INSTANCES)
    while run.step < n_steps:
        progress = run.step / n_steps
        learns = progress < TEACHER_UNTIL
        share = TEACHER_RATE * (1 + math.cos(math.pi * min(progress / TEACHER_UNTIL, 1.0))) / 2
        optimiser.param_groups[1]["share"] = share
        set_learning_rate(optimiser, LEARNING_RATE, run.step, n_steps, WARM_UP)
        clean = 1 - progress / CLEAN_UNTIL
        weights = [CONTRAST_WEIGHT * rise(progress, *when) for when in CONTRAST_RISES]
        pixels, categories, places = batch(pictures, run.generator, clean)
        with torch.autocast("cpu", torch.bfloat16):
            tokens, seen = clip_features(model.visual, normalised(pixels))
            guess = agree(tokens)
        seen = centre(seen.float())
        with torch.set_grad_enabled(learns):
            shown, taught = teacher.train(learns)(normalised(pixels))
            taught = teacher_centre.train(learns)(taught)
        texts = model.encode_text(captions)
        texts = F.normalize(texts - texts.mean(0), dim=-1)
        scale = model.logit_scale.clamp(max=math.log(50.0)).exp()
        losses, hits, parts_matched = [], [], []
        networks = ((seen, tokens.float()), (taught, shown))
        for weight, (embeddings, maps) in zip(weights, networks, strict=True):
            matched = photo_matching(F.normalize(maps, dim=1), places)
            parts_matched.append(matched)
            units = F.normalize(embeddings, dim=-1)
            captioned, hit = caption_loss(units, texts, categories, scale)
            alike = contrast(units, categories.repeat_interleave(3), CATEGORY_TEMPERATURE)
            same = contrast(units, own.repeat_interleave(3), INSTANCE_TEMPERATURE)
            losses.append(captioned + matched + weight * (alike + same))
            hits.append(hit)
        target = F.interpolate(shown.detach(), size=guess.shape[-2:], mode="area")
        local = F.mse_loss(guess.float(), target) / target.square().mean()
        whole = 1 - F.cosine_similarity(seen, taught.detach()).mean()
        optimiser.zero_grad(set_to_none=True)
        loss = OWN_SHARE * losses[0] + TAUGHT_WEIGHT * (local + whole)
        (loss + losses[1] if learns else loss).backward()
        for network in (model, teacher):
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update(model, run.step + 1)
        run.done(
            n_steps,
            loss=losses[0],
            local=local,
            whole=whole,
            matching=parts_matched[0],
            photo_hits=hits[0][0],
            sketch_hits=hits[0][1:].mean(),
            teacher_loss=losses[1],
            teacher_matching=parts_matched[1],
            teacher_photo_hits=hits[1][0],
            teacher_sketch_hits=hits[1][1:].mean(),
        )


def rise(progress: float, start: float, end: float) -> float:
    """From 0 at `start` to 1 at `end`."""
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def contrast(images: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) of unit embeddings [B, E]."""
    itself = torch.eye(len(images), dtype=torch.bool)
    logits = (images @ images.T / temperature).masked_fill(itself, -1e9)
    positive = (labels[:, None] == labels) & ~itself
    likelihood = logits.log_softmax(1)
    return -((likelihood * positive).sum(1) / positive.sum(1)).mean()


def caption_loss(
    images: Tensor, texts: Tensor, categories: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy of captions with and without the kind of picture; hits [3] by kind.

    `images` [N * 3, E] are photo, sketch, sketch of each instance; `texts` [3 * C, E].
    """
    n = len(SEEN)
    logits = scale * images @ texts.T
    kinds = torch.tensor([0, 1, 1]).repeat(len(categories))
    wanted = categories.repeat_interleave(3)
    whole = F.cross_entropy(logits[:, : 2 * n], kinds * n + wanted)
    plain = F.cross_entropy(logits[:, 2 * n :], wanted)
    hits = (logits[:, 2 * n :].argmax(1) == wanted).float().view(-1, 3).mean(0)
    return (whole + plain) / 2, hits


def normalised(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] from 0 to 1 as stage 1 shows them to the tower."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    return (pixels - mean) / torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)


def photo_matching(maps: Tensor, places: Tensor) -> Tensor:
    """Loss of each sketch's parts found in its photo, and back, of unit maps [N * 3, C, h, w]."""
    photo, *sketches = maps.unflatten(0, (-1, 3)).unbind(1)
    at_photo, *at_sketches = places.unbind(1)
    ways = [
        (matching_loss(sketch, photo, at, at_photo) + matching_loss(photo, sketch, at_photo, at))
        for sketch, at in zip(sketches, at_sketches, strict=True)
    ]
    return (ways[0] + ways[1]) / 4


def batch(
    pictures: Pictures, generator: torch.Generator, clean: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [N * 3, 3, H, W] from 0 to 1, categories [N], keypoints [N, 3, 8, 3]; N instances.

    `clean` is how far the photos' backgrounds are faded to one colour; below 0 counts as 0.
    """
    rows = torch.randint(len(pictures.images), (INSTANCES,), generator=generator).numpy()
    pixels = torch.from_numpy(pictures.images[rows]).permute(0, 1, 4, 2, 3).float() / 255
    wall = torch.rand(INSTANCES, 3, 1, 1, generator=generator)
    if clean > 0:
        masks = np.unpackbits(pictures.photo_masks[rows], axis=1)
        behind = 1 - torch.from_numpy(masks).view(-1, 1, PIXELS, PIXELS).float()
        pixels[:, 0] += clean * behind * (wall - pixels[:, 0])
    # Colour must not decide what a sketch has not got.
    grey = torch.rand(INSTANCES, 1, 1, 1, generator=generator) < 0.3
    pixels[:, 0] = torch.where(grey, pixels[:, 0].mean(1, keepdim=True), pixels[:, 0])
    places = torch.from_numpy(pictures.points[rows])
    views, moved_places = moved(pixels.flatten(0, 1), places.flatten(0, 1), generator)
    categories = torch.from_numpy(pictures.categories[rows])
    return views, categories, moved_places.view_as(places)


def moved(pixels: Tensor, places: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each picture mirrored or not, turned, scaled and shifted a little; its edge goes on.

    The points [B, K, 3] go with it; those that leave the picture are no longer visible.
    """
    n = len(pixels)
    draws = torch.rand(5, n, generator=generator)
    angle = (draws[0] - 0.5) * 0.3
    scale = 0.9 + 0.2 * draws[1]
    mirror = torch.where(draws[2] < 0.5, -1.0, 1.0)
    shift = (draws[3:] - 0.5) * 0.1
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([mirror * cos, -sin, shift[0], mirror * sin, cos, shift[1]], 1).view(n, 2, 3)
    # From here on coordinates run from -1 to 1; `rows` leads from the new picture to the old.
    grid = F.affine_grid(rows, list(pixels.shape), align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    old = places[..., :2] * (2 / PIXELS) - 1
    new = torch.linalg.solve(rows[..., :2], (old - rows[:, None, :, 2]).mT).mT
    inside = (new.abs() < 1).all(-1, keepdim=True)
    return views, torch.cat([(new + 1) * (PIXELS / 2), places[..., 2:] * inside], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's CLIP.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(Pictures.open(args.pictures), args.out, args.steps)


if __name__ == "__main__":
    main()
