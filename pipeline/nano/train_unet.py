"""Train nano's UNet, and its empty prompt, to tell noise from latents.

    python -m pipeline.nano.train_unet --pictures DIR --latents DIR --out DIR

Pictures captioned by the billion teach a large UNet which part of a drawing is which part of a
thing. There are not so many here, so after a while the features that are read, `s3` and `s4`,
learn it beside the noise from the keypoints of the seen categories' training split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import SDConfig
from pipeline.nano.checkpoint import Average, Run, set_learning_rate
from pipeline.nano.data import PIXELS, Pictures
from pipeline.nano.matching import matching_loss
from pipeline.networks.stable_diffusion import build_architecture, sd_architecture

STEPS, PAIRS = 3400, 16
LEARNING_RATE, WARM_UP = 1e-3, 200
LOW, LOW_SHARE = 500, 0.8
"""Features are read at little noise, so most steps are below this timestep."""
MATCH_FROM, MATCH_WEIGHT, MATCH_BELOW = 1300, 0.1, 400
"""From which step on parts are matched, how much that counts, and below which timestep."""
AVERAGE_DECAY = 0.998
SEED = 3


class Denoiser(nn.Module):
    """The UNet with its empty prompt, a parameter: there is no other prompt to learn from."""

    alphas_cumprod: Tensor

    def __init__(self) -> None:
        super().__init__()
        architecture = sd_architecture(SDConfig(source="nano"))
        self.unet, _ = build_architecture(architecture)
        width = self.unet.config.cross_attention_dim
        self.null_prompt = nn.Parameter(0.5 * torch.randn(1, architecture["prompt_tokens"], width))
        schedule = DDPMScheduler.from_config(architecture["scheduler"])
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod, persistent=False)

    def forward(self, z_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The noise in latents z_t [B, 4, h, w] at timesteps [B], and unit features [B, C, h, w].

        The features are `s3` and `s4`, each of length 1, at the size of `s3`.
        """
        kept: list[Tensor] = []
        hooks = [
            self.unet.up_blocks[place].register_forward_hook(lambda *call: kept.append(call[2]))
            for place in (1, 2)
        ]
        noise = self.unet(z_t, timesteps, self.null_prompt.expand(len(z_t), -1, -1)).sample
        for hook in hooks:
            hook.remove()
        s4, s3 = (layer.float() for layer in kept)
        s4 = F.interpolate(s4, size=s3.shape[-2:], mode="bilinear", align_corners=False)
        joined = torch.cat([F.normalize(s3, dim=1), F.normalize(s4, dim=1)], 1)
        return noise.float(), joined / 2**0.5


def train(
    latents: np.ndarray,
    spread: dict[str, Tensor],
    points: np.ndarray,
    out: Path,
    n_steps: int = STEPS,
) -> None:
    """Train until `n_steps`; the checkpoint lies in `out`, what to ship is its `average`."""
    torch.manual_seed(SEED)
    denoiser = Denoiser()
    average = Average(denoiser, AVERAGE_DECAY)
    optimiser = torch.optim.AdamW(denoiser.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    parts = {"denoiser": denoiser, "average": average, "optimiser": optimiser}
    run = Run(out, SEED, parts)
    mean, std = (spread[name].view(1, -1, 1, 1) for name in ("mean", "std"))
    while run.step < n_steps:
        set_learning_rate(optimiser, LEARNING_RATE, run.step, n_steps, WARM_UP)
        means, places = batch(latents, points, run.generator)
        z0 = (means - mean) / std
        timesteps = draw_timesteps(PAIRS, run.generator).repeat(2)
        noise = torch.randn(z0.shape, generator=run.generator)
        kept = denoiser.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        z_t = kept.sqrt() * z0 + (1 - kept).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            guess, features = denoiser(z_t, timesteps)
        denoising = F.mse_loss(guess, noise)
        clear = timesteps[:PAIRS] < MATCH_BELOW
        (photo, sketch), (at_photo, at_sketch) = (x.chunk(2) for x in (features, places))
        there = matching_loss(sketch[clear], photo[clear], at_sketch[clear], at_photo[clear])
        back = matching_loss(photo[clear], sketch[clear], at_photo[clear], at_sketch[clear])
        matching = (there + back) / 2
        loss = denoising + (MATCH_WEIGHT * matching if run.step >= MATCH_FROM else 0)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        average.update(denoiser, run.step + 1)
        run.done(n_steps, denoising=denoising, matching=matching)


def batch(
    latents: np.ndarray, points: np.ndarray, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Photos, then a sketch of each: latents [2 P, 4, h, w] and points [2 P, 8, 3]."""
    rows = torch.randint(len(latents), (PAIRS,), generator=generator).repeat(2).tolist()
    which = [*[0] * PAIRS, *torch.randint(1, 3, (PAIRS,), generator=generator).tolist()]
    mirrored = torch.randint(2, (2 * PAIRS,), generator=generator)
    chosen = [latents[i, k, m] for i, k, m in zip(rows, which, mirrored.tolist(), strict=True)]
    places = torch.from_numpy(points[rows, which])
    places[..., 0] = torch.where(mirrored[:, None] == 1, PIXELS - places[..., 0], places[..., 0])
    return torch.from_numpy(np.stack(chosen)).float(), places


def draw_timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Timesteps [n], LOW_SHARE of them below LOW."""
    low = torch.rand(n, generator=generator) < LOW_SHARE
    below = torch.randint(0, LOW, (n,), generator=generator)
    return torch.where(low, below, torch.randint(LOW, 1000, (n,), generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's UNet.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    latents = np.load(args.latents / "latents.npy", mmap_mode="r")
    spread = load_file(args.latents / "spread.safetensors")
    train(latents, spread, Pictures.open(args.pictures).points, args.out, args.steps)


if __name__ == "__main__":
    main()
