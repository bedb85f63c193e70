"""Tiny real checkpoints and pictures, written to disk for the tests.

The classes and file layouts are those of the real checkpoints (diffusers, transformers,
open_clip); only the widths are small. Everything is seeded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

UNET_CHANNELS = (32, 64, 64, 64)
TEXT_WIDTH = 32
PROMPT_LENGTH = 16
SITES = ("down.0", "down.1", "down.2", "down.3", "up.0", "up.1", "up.2")
SITE_SETS = {
    "none": (),
    "down": SITES[:4],
    "up": SITES[4:],
    "some": ("down.1", "down.3", "up.1"),
    "all": SITES,
}
"""Sets of injection sites that the UNet's implementations are compared on."""

Family = Literal["sd2", "sd15"]


def build_tiny_unet(
    *,
    family: Family = "sd2",
    channels: Sequence[int] = UNET_CHANNELS,
    layers_per_block: int = 1,
    seed: int = 0,
) -> UNet2DConditionModel:
    """A UNet shaped like Stable Diffusion's, with `channels` (multiples of 8) per level.

    `sd2` has a head count per level and linear projections around attention; `sd15` has one head
    count and 1x1 convolutions.
    """
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=tuple(channels),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=layers_per_block,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=[1, 2, 4, 4] if family == "sd2" else 2,
        use_linear_projection=family == "sd2",
    ).eval()


def save_tiny_sd(
    folder: Path,
    *,
    seed: int = 0,
    text: Literal["encoder", "null_prompt", "none"] = "encoder",
    family: Family = "sd2",
    channels: Sequence[int] = UNET_CHANNELS,
    layers_per_block: int = 1,
    text_width: int = TEXT_WIDTH,
    unet_shard_size: str = "10GB",
) -> Path:
    """Write a diffusers folder with safetensors weights and return it.

    The VAE halves the side three times (8 pixels a cell), as the real one. `text` chooses between
    a tokenizer and text encoder, a `null_prompt.safetensors`, and neither. A `text_width` other
    than the UNet's gives a mismatched folder; a small `unet_shard_size` (such as "200KB") splits
    the UNet's weights over several files.
    """
    unet = build_tiny_unet(
        family=family, channels=channels, layers_per_block=layers_per_block, seed=seed
    )
    unet.save_pretrained(folder / "unet", max_shard_size=unet_shard_size)

    _tiny_vae(seed + 1).save_pretrained(folder / "vae")
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")

    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    torch.manual_seed(seed + 2)
    if text == "encoder":
        _save_tokenizer(folder / "tokenizer", pad_token="!" if family == "sd2" else "<|endoftext|>")
        _save_text_encoder(folder / "text_encoder", text_width)
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
    elif text == "null_prompt":
        embedding = torch.randn(1, PROMPT_LENGTH, text_width)
        save_file({"embedding": embedding}, folder / "null_prompt.safetensors")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _tiny_vae(seed: int) -> AutoencoderKL:
    """An autoencoder whose scaled latents have a spread of about 1, like the real ones."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.18215,
    )
    with torch.no_grad():
        vae.quant_conv.weight[:4] *= 30  # the first 4 channels are the posterior's mean
    return vae


def _vocabulary() -> dict[str, int]:
    """A byte-pair vocabulary with CLIP's order: letters, letters that end a word, specials."""
    letters = ["!", *"abcdefghijklmnopqrstuvwxyz"]
    words = letters + [f"{letter}</w>" for letter in letters]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


def _save_tokenizer(folder: Path, pad_token: str) -> None:
    """Write the four files that Stable Diffusion repositories carry for their tokenizer.

    Stable Diffusion 2 pads with "!" (id 0), Stable Diffusion 1 with the end token.
    """
    specials = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": pad_token,
        "unk_token": "<|endoftext|>",
    }
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": PROMPT_LENGTH,
        "do_lower_case": True,
        **specials,
    }
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _save_text_encoder(folder: Path, width: int) -> None:
    vocabulary = _vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=0,
    )
    CLIPTextModel(config).save_pretrained(folder)


def save_tiny_clip(
    folder: Path,
    *,
    image_size: int = 64,
    patch_size: int = 16,
    width: int = 32,
    layers: int = 2,
    quick_gelu: bool = False,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write an open_clip ViT and return (JSON model config, safetensors weights).

    Sizes in pixels; the head width is 16.
    """
    config = {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": image_size,
            "patch_size": patch_size,
            "width": width,
            "layers": layers,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 64,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    config_path, weights_path = folder / "tiny-vit.json", folder / "tiny-vit.safetensors"
    config_path.write_text(json.dumps(config, indent=2))
    torch.manual_seed(seed)
    save_file(open_clip.CLIP(**config).state_dict(), weights_path)
    return config_path, weights_path


def random_injection(
    channels: Sequence[int] = UNET_CHANNELS,
    clip_width: int = 32,
    *,
    sites: Sequence[str] = SITES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Injection weights [C, D, 1, 1] and biases [C] whose effect is as large as the activations."""
    c0, c1, c2, c3 = channels
    # Up blocks mirror the down blocks; up block 3 is never reached.
    width = dict(zip(SITES, (c0, c1, c2, c3, c3, c2, c1), strict=True))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for site in sites:
        weight = torch.randn(width[site], clip_width, 1, 1, generator=generator)
        weights[f"{site}.weight"] = weight / clip_width**0.5
        weights[f"{site}.bias"] = 0.1 * torch.randn(width[site], generator=generator)
    return weights


def save_injection(
    path: Path,
    channels: Sequence[int] = UNET_CHANNELS,
    clip_width: int = 32,
    *,
    sites: Sequence[str] = SITES,
    seed: int = 0,
) -> Path:
    """Write `random_injection` as an injection file and return its path."""
    save_file(random_injection(channels, clip_width, sites=sites, seed=seed), path)
    return path


def write_images(folder: Path, n: int, *, seed: int = 0) -> list[Path]:
    """Write `n` pictures of varied size, aspect ratio, format and mode; return their paths.

    In turn: RGB PNG, RGB JPEG, PNG with transparency, JPEG with an EXIF rotation, grey PNG.
    """
    rng = np.random.default_rng(seed)
    sizes = [(96, 96), (120, 60), (37, 101), (80, 64), (150, 23), (8, 8)]  # width, height
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        width, height = sizes[i % len(sizes)]
        image = _picture(rng, width, height)
        exif = Image.Exif()
        match i % 5:
            case 2:
                image.putalpha(_picture(rng, width, height).convert("L"))
            case 3:
                exif[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
            case 4:
                image = image.convert("L")
        path = folder / f"picture_{i:03d}.{'jpg' if i % 5 in (1, 3) else 'png'}"
        image.save(path, exif=exif)
        paths.append(path)
    return paths


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth waves, a filled box and a little noise, each in random colours."""
    y, x = np.mgrid[0:height, 0:width][..., None] / max(width, height)
    waves = np.sin(x * rng.uniform(2, 20, 3) + y * rng.uniform(2, 20, 3) + rng.uniform(0, 6, 3))
    colours = 127 + 90 * waves + rng.normal(0, 12, (height, width, 3))
    left, top = int(rng.integers(width)), int(rng.integers(height))
    colours[top : top + 1 + height // 3, left : left + 1 + width // 3] = rng.integers(0, 256, 3)
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def truncate(path: Path, keep: float = 0.5) -> None:
    """Cut a file to the given share of its bytes, as an interrupted download leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def replace_by_pickle(folder: Path) -> None:
    """Turn every safetensors file below a folder into a .bin pickle of the same tensors."""
    for path in sorted(folder.rglob("*.safetensors")):
        tensors: Mapping[str, Tensor] = load_file(path)
        torch.save(tensors, path.with_suffix(".bin"))
        path.unlink()
