"""The noise added to a latent: a function of the image's content, the timestep and the draw.

Nothing else enters, so a feature depends neither on its batch, its order, its shard nor the
machine that computed it.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

POSTERIOR = ":posterior"
"""Stream of the noise that samples the VAE's posterior."""


def noise_seed(seed: int, image_sha256: str, timestep: int, draw: int, stream: str = "") -> int:
    """The generator's seed: the first 8 bytes of a SHA-256, without the sign bit."""
    text = f"{seed}:{image_sha256}:{timestep}:{draw}{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def draw_noise(
    shape: tuple[int, ...],
    seed: int,
    image_sha256: str,
    timestep: int,
    draw: int,
    stream: str = "",
) -> Tensor:
    """Standard normal float32 noise of one latent's shape [C, h, w], always drawn on the CPU.

    `stream` separates noise that is drawn for another purpose, such as `POSTERIOR`.
    """
    generator = torch.Generator("cpu").manual_seed(
        noise_seed(seed, image_sha256, timestep, draw, stream)
    )
    return torch.randn(shape, generator=generator)


def add_noise(z0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4)."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float32, device=z0.device)
    return alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise
