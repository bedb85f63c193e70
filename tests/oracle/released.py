"""The released code's features and matches, written out from its equations and not from ours."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from tests.oracle.features import (
    alphas_cumprod,
    build_clip,
    clip_tokens_and_pooled,
    noise,
    null_prompt,
)
from tests.oracle.unet import unet_features

SITES = ("down.0", "down.1", "down.2", "down.3", "up.0", "up.1", "up.2")


def black_canvas(image: Image.Image, side: int) -> np.ndarray:
    """An RGB image in the middle of a black square: uint8 [side, side, 3]."""
    width, height = image.size
    canvas = np.zeros((side, side, 3), np.uint8)
    if height <= width:
        small = image.resize((side, int(np.around(side * height / width))), Image.LANCZOS)
        height = small.height
        canvas[(side - height) // 2 : (side + height) // 2] = np.asarray(small)
    else:
        small = image.resize((int(np.around(side * width / height)), side), Image.LANCZOS)
        width = small.width
        canvas[:, (side - width) // 2 : (side + width) // 2] = np.asarray(small)
    return canvas


def clip_crop(image: Image.Image, side: int) -> np.ndarray:
    """OpenAI's preprocessing up to the normalisation: uint8 [side, side, 3]."""
    transform = Compose([Resize(side, interpolation=InterpolationMode.BICUBIC), CenterCrop(side)])
    return np.asarray(transform(image))


def random_injection(clip_width: int, channels: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Convolutions one after the other, as torch initialises them."""
    torch.manual_seed(seed)
    found = {}
    for site, count in zip(SITES, channels, strict=True):
        conv = nn.Conv2d(clip_width, count, kernel_size=(1, 1), stride=(1, 1))
        found |= {f"{site}.weight": conv.weight.detach(), f"{site}.bias": conv.bias.detach()}
    return found


def posterior_noise(seed: int, sha256: str, timestep: int, draw: int, shape: torch.Size) -> Tensor:
    """What samples the posterior: of a stream that the diffusion noise does not touch."""
    text = f"{seed}:{sha256}:{timestep}:{draw}:posterior"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(number))


@torch.no_grad()
def released_features(
    image_path: Path,
    sd_folder: Path,
    clip_json: Path,
    clip_weights: Path,
    *,
    resolution: int,
    timestep: int,
    seed: int,
    ensemble: int,
) -> dict[str, np.ndarray]:
    """`sd/t{timestep}/s3` to `s5` of an RGB file, every copy through the VAE; `clip/tokens`."""
    image = Image.open(image_path)
    assert image.mode == "RGB"
    sha256 = hashlib.sha256(image_path.read_bytes()).hexdigest()
    clip = build_clip(clip_json, clip_weights)
    tokens, _ = clip_tokens_and_pooled(clip, clip_crop(image, resolution))
    canvas = torch.from_numpy(black_canvas(image, resolution)).permute(2, 0, 1)[None]
    copies = canvas.contiguous().float().repeat(ensemble, 1, 1, 1)  # 0 to 255

    vae = AutoencoderKL.from_pretrained(sd_folder / "vae").eval()
    posterior = vae.encode(copies).latent_dist
    one = posterior.mean[:1].shape
    draws = range(ensemble)
    sampled = torch.cat([posterior_noise(seed, sha256, timestep, draw, one) for draw in draws])
    latents = (posterior.mean + posterior.std * sampled) * vae.config.scaling_factor
    eps = torch.cat([noise(seed, sha256, timestep, draw, one) for draw in draws])
    scheduler = json.loads((sd_folder / "scheduler" / "scheduler_config.json").read_text())
    signal = alphas_cumprod(scheduler)[timestep]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * eps

    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet").eval()
    unet.set_default_attn_processor()
    channels = list(unet.config.block_out_channels)
    injection = random_injection(tokens.shape[0], [*channels, *channels[:0:-1]], seed)
    maps = unet_features(
        unet,
        noisy,
        timestep,
        null_prompt(sd_folder),
        injection,
        tokens[None].expand(ensemble, -1, -1, -1),
    )
    found = {f"sd/t{timestep}/{layer}": values.mean(0) for layer, values in maps.items()}
    return {name: value.numpy() for name, value in {**found, "clip/tokens": tokens}.items()}


def released_match(
    source: np.ndarray, target: np.ndarray, points: np.ndarray, side: int, window: int
) -> np.ndarray:
    """Points [K, 2] in pixels of the target's square, for points of the source's, in float64.

    Of descriptor maps [P, G, G]; one point and one cell after the other.
    """
    grid = source.shape[-1]
    stride = side / grid
    found = []
    for x, y in points:
        own = source[:, int(y * grid / side), int(x * grid / side)]
        similarity = np.einsum("p,phw->hw", own, target)
        best_y, best_x = np.unravel_index(similarity.argmax(), similarity.shape)
        masked = np.zeros_like(similarity)
        for dy in range(-window, window + 1):
            for dx in range(-window, window + 1):
                row, column = min(max(best_y + dy, 0), grid - 1), min(max(best_x + dx, 0), grid - 1)
                masked[row, column] = similarity[row, column]
        weights = np.exp((masked - masked.max()) / 0.02)
        weights /= weights.sum()
        column = sum(weights[:, i].sum() * i for i in range(grid))
        row = sum(weights[i].sum() * i for i in range(grid))
        found.append([column * stride + stride // 2, row * stride + stride // 2])
    return np.array(found)


def released_loss(
    source: np.ndarray,
    target: np.ndarray,
    points: np.ndarray,
    truth: np.ndarray,
    moved: np.ndarray,
    coordinates: tuple[np.ndarray, np.ndarray],
) -> float:
    """Mean end-point error in cells; `moved` [K, 2] is the noise on the flow, in cells.

    `points` and `truth` [K, 2] are in cells, `coordinates` the x [G] and y [G] of the soft-argmax.
    """
    grid = source.shape[-1]
    errors = []
    for (x, y), (tx, ty), (mx, my) in zip(points, truth, moved, strict=True):
        similarity = np.einsum("p,phw->hw", source[:, int(y), int(x)], target)
        weights = np.exp((similarity - similarity.max()) / 0.02)
        weights /= weights.sum()
        expected_x = (weights.sum(0) @ coordinates[0] + 1) * (grid - 1) / 2
        expected_y = (weights.sum(1) @ coordinates[1] + 1) * (grid - 1) / 2
        flow = expected_x - int(x), expected_y - int(y)
        errors.append(math.hypot(flow[0] - (tx - x + mx), flow[1] - (ty - y + my)))
    return float(np.mean(errors))
