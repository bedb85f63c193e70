"""From an image file and weights on disk to every array that the store must hold for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from tests.oracle.images import letterbox, read_rgb
from tests.oracle.unet import unet_features

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def null_prompt(sd_folder: Path) -> Tensor:
    """The empty prompt's embedding [1, L, D_text]."""
    if not (sd_folder / "text_encoder").is_dir():
        return load_file(sd_folder / "null_prompt.safetensors")["embedding"]
    tokenizer = CLIPTokenizer.from_pretrained(sd_folder / "tokenizer")
    ids = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length).input_ids
    encoder = CLIPTextModel.from_pretrained(sd_folder / "text_encoder").eval()
    return encoder(torch.tensor([ids])).last_hidden_state


def alphas_cumprod(scheduler: dict[str, Any]) -> Tensor:
    """Cumulative product of 1 - beta, float32 [T], of a Stable Diffusion schedule."""
    if scheduler["beta_schedule"] != "scaled_linear":
        raise ValueError(f"oracle knows scaled_linear only, not {scheduler['beta_schedule']}")
    start, end = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = torch.linspace(start, end, scheduler["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, dim=0)


def noise(seed: int, image_sha256: str, timestep: int, draw: int, shape: torch.Size) -> Tensor:
    """The noise of one image, timestep and draw: float32 of `shape`."""
    digest = hashlib.sha256(f"{seed}:{image_sha256}:{timestep}:{draw}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def build_clip(clip_json: Path, clip_weights: Path) -> open_clip.CLIP:
    """The open_clip model of a JSON model config with its weights, ready for inference."""
    model = open_clip.CLIP(**json.loads(clip_json.read_text()))
    model.load_state_dict(load_file(clip_weights))
    return model.eval()


def clip_tokens_and_pooled(clip: open_clip.CLIP, square: np.ndarray) -> tuple[Tensor, Tensor]:
    """CLIP's token map [D, h, w] before ln_post and its image embedding [D_joint], unnormalised.

    `square` is uint8 [R, R, 3]. The tokens are caught as they leave the last block.
    """
    pixels = (square / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    caught: list[Tensor] = []
    last_block = clip.visual.transformer.resblocks[-1]
    handle = last_block.register_forward_hook(lambda block, args, output: caught.append(output))
    pooled = clip.encode_image(_as_batch(pixels))
    handle.remove()
    rows, columns = clip.visual.grid_size
    tokens = caught[0].reshape(1 + rows * columns, -1)[1:]  # [1 + h * w, D] without the CLS token
    return tokens.T.reshape(-1, rows, columns), pooled[0]


@torch.no_grad()
def oracle_features(
    image_path: Path,
    sd_folder: Path,
    clip_json: Path,
    clip_weights: Path,
    injection_path: Path | None = None,
    *,
    resolution: int,
    pad: str = "edge",
    timesteps: Sequence[int] = (195,),
    layers: Sequence[str] = ("s3", "s4", "s5"),
    seed: int = 0,
    ensemble: int = 1,
) -> dict[str, np.ndarray]:
    """Everything the store holds for one image, as float32.

    Keys: `vae/latent` [4, H, W], `clip/tokens` [D, h, w], `clip/pooled` [D_joint] and
    `sd/t{timestep}/{layer}` [C, H', W'].
    """
    image_sha256 = hashlib.sha256(image_path.read_bytes()).hexdigest()
    square = letterbox(read_rgb(image_path), resolution, pad)

    vae = AutoencoderKL.from_pretrained(sd_folder / "vae").eval()
    mean = vae.encode(_as_batch(square / 127.5 - 1)).latent_dist.mean
    latent = mean * vae.config.scaling_factor
    tokens, pooled = clip_tokens_and_pooled(build_clip(clip_json, clip_weights), square)

    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet").eval()
    unet.set_default_attn_processor()  # plain softmax attention instead of the fused kernel
    scheduler = json.loads((sd_folder / "scheduler" / "scheduler_config.json").read_text())
    signal = alphas_cumprod(scheduler)
    prompt = null_prompt(sd_folder)
    injection = load_file(injection_path) if injection_path else {}

    arrays = {"vae/latent": latent[0], "clip/tokens": tokens, "clip/pooled": pooled}
    for t in timesteps:
        sums = {layer: torch.zeros(()) for layer in layers}
        for draw in range(ensemble):
            eps = noise(seed, image_sha256, t, draw, latent.shape)
            z_t = signal[t].sqrt() * latent + (1 - signal[t]).sqrt() * eps
            maps = unet_features(unet, z_t, t, prompt, injection, tokens[None], layers)
            sums = {layer: sums[layer] + maps[layer][0] for layer in layers}
        arrays |= {f"sd/t{t}/{layer}": sums[layer] / ensemble for layer in layers}
    return {name: array.numpy() for name, array in arrays.items()}


def _as_batch(pixels: np.ndarray) -> Tensor:
    """[H, W, 3] to float32 [1, 3, H, W], in memory as well: a channels-last view is less exact."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float().contiguous()
