"""The training pictures as the VAE sees them, encoded once.

    python -m pipeline.nano.latents --pictures DIR --vae DIR --out DIR

encodes the pictures of the first 6,800 instances and their mirror images. Writes `latents.npy`,
float16 [N, 3, 2, 4, 24, 24] (photo, two sketches; as they are, mirrored): the posterior's means
before normalisation, and `spread.safetensors` with their `mean` and `std` [4] by channel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from pipeline.nano.checkpoint import load_part
from pipeline.nano.data import Pictures
from pipeline.nano.train_vae import new_vae
from pipeline.networks.saving import save_tensors

INSTANCES = 6800
_ROWS = 8
_MEASURED = 2000
"""Instances from which the spread is taken."""


@torch.inference_mode()
def encode(pictures: Pictures, vae: AutoencoderKL, out: Path) -> None:
    """Encode every picture, and its mirror image: mirrored latents are not those of a mirror."""
    out.mkdir(parents=True, exist_ok=True)
    n = min(INSTANCES, len(pictures.images))
    shape = (n, 3, 2, vae.config.latent_channels, 24, 24)
    latents = np.lib.format.open_memmap(out / "latents.npy", "w+", np.float16, shape)
    for first in range(0, n, _ROWS):
        rows = torch.from_numpy(pictures.images[first : min(first + _ROWS, n)].copy())
        pixels = rows.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        both = torch.stack([pixels, pixels.flip(3)], 1).flatten(0, 1)
        means = vae.encode(both).latent_dist.mean
        latents[first : first + _ROWS] = means.half().view(len(rows), *shape[1:]).numpy()
    latents.flush()
    known = latents[:_MEASURED].astype(np.float32)
    mean, std = (torch.from_numpy(f(known, axis=(0, 1, 2, 4, 5))) for f in (np.mean, np.std))
    save_tensors(out / "spread.safetensors", {"mean": mean, "std": std})


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode the training pictures.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vae = new_vae()
    vae.load_state_dict(load_part(args.vae, "vae"))
    encode(Pictures.open(args.pictures), vae.eval(), args.out)


if __name__ == "__main__":
    main()
