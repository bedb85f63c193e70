"""Train nano's VAE on crops of photos and sketches.

python -m pipeline.nano.train_vae --pictures DIR --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from configs import SDConfig
from pipeline.nano.checkpoint import Run
from pipeline.nano.data import PIXELS, Pictures
from pipeline.networks.stable_diffusion import build_architecture, sd_architecture

STEPS, BATCH, CROP = 4500, 16, 48
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-5
SEED = 1


def train(pictures: Pictures, out: Path, n_steps: int = STEPS) -> None:
    """Train until `n_steps`; the checkpoint lies in `out`."""
    torch.manual_seed(SEED)
    vae = new_vae()
    optimiser = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=n_steps + 1, pct_start=0.05
    )
    run = Run(out, SEED, {"vae": vae, "optimiser": optimiser, "schedule": schedule})
    while run.step < n_steps:
        pixels = random_crops(pictures, run.generator)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=run.generator)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        fine, coarse, edges = reconstruction_losses(decoded, pixels)
        kl = posterior.kl().mean()
        loss = fine + coarse + edges + KL_WEIGHT * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        run.done(n_steps, l1=fine, coarse=coarse, edges=edges, kl=kl)


def new_vae() -> AutoencoderKL:
    """The VAE as built in, with a posterior that starts narrow: wide ones drown all colour."""
    _, vae = build_architecture(sd_architecture(SDConfig(source="nano")))
    latent = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[latent:] *= 0.1
        vae.quant_conv.bias[latent:] = -5.0
    return vae


def reconstruction_losses(decoded: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 of pixels, of means over 4 x 4 pixels (colour), and of gradients; [B, 3, H, W] each."""
    error = decoded - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean(), F.avg_pool2d(error, 4).abs().mean(), edges / 2


def random_crops(pictures: Pictures, generator: torch.Generator) -> Tensor:
    """Crops [B, 3, CROP, CROP] from -1 to 1, mirrored or not; half of them from photos."""
    rows = torch.randint(len(pictures.images), (BATCH,), generator=generator).tolist()
    y, x = torch.randint(PIXELS - CROP + 1, (2, BATCH), generator=generator).tolist()
    crops = [
        pictures.images[row, (0, 1, 0, 2)[i % 4], y[i] : y[i] + CROP, x[i] : x[i] + CROP]
        for i, row in enumerate(rows)
    ]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    mirrored = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, pixels.flip(3), pixels).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's VAE.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(Pictures.open(args.pictures), args.out, args.steps)


if __name__ == "__main__":
    main()
