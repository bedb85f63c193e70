"""Draw what docs/nano.md shows: losses, the VAE's reconstructions, the UNet's guess at t = 195.

    python -m pipeline.nano.pictures --vae DIR --unet DIR --clip DIR [--out docs/img]

Pictures are of the validation split of the training world; weights are the package's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipeline.nano.data import PIXELS, SEED, seen_instances
from pipeline.nano.export import WEIGHTS
from pipeline.networks.noise import add_noise
from pipeline.shapes.world import World

N_SHOWN, TIMESTEP = 7, 195
CURVES = {
    "vae": ("l1", "coarse", "edges"),
    "unet": ("denoising", "matching"),
    "clip": ("matching", "local", "whole"),
}
"""What is drawn of each training's log."""
_WIDTH, _HEIGHT, _MARGIN, _TOP = 560, 280, 40, 64
_COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#7a4fa0")
_SMOOTHED = 5


def curves_svg(points: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """Lines over training steps, each a moving mean, with the values on a logarithmic axis."""
    lines = {name: _smoothed(line) for name, line in points.items()}
    steps = [x for line in lines.values() for x, _ in line]
    values = [y for line in lines.values() for _, y in line]
    low, high = np.log10(min(values)), np.log10(max(values))

    def place(x: float, y: float) -> str:
        right = _MARGIN + (_WIDTH - 2 * _MARGIN) * x / max(steps)
        share = (np.log10(y) - low) / (high - low)
        return f"{right:.1f},{_HEIGHT - _MARGIN - (_HEIGHT - _MARGIN - _TOP) * share:.1f}"

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="20" font-size="14">{title}</text>',
        f'<path d="M{_MARGIN},{_TOP}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN}" '
        'fill="none" stroke="#888888"/>',
        f'<text x="{_MARGIN - 4}" y="{_TOP + 4}" text-anchor="end">{max(values):.2g}</text>',
        f'<text x="{_MARGIN - 4}" y="{_HEIGHT - _MARGIN}" text-anchor="end">'
        f"{min(values):.2g}</text>",
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="end">'
        f"step {max(steps):,.0f}</text>",
    ]
    for i, (name, line) in enumerate(lines.items()):
        path = " ".join(place(*point) for point in line)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{_COLOURS[i]}" stroke-width="1.5"/>'
        )
        drawn.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{20 + 15 * i}" text-anchor="end" '
            f'fill="{_COLOURS[i]}">{name.replace("_", " ")}</text>'
        )
    return "\n".join([*drawn, "</svg>\n"])


def read_log(path: Path, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of the named values in a training's log."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        name: [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
        for name in names
    }


@torch.inference_mode()
def decoded_rows(folder: Path) -> tuple[Image.Image, Image.Image]:
    """Originals over reconstructions; noisy latents decoded over the UNet's guess of clean ones."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    prompt = load_file(folder / "null_prompt.safetensors")["embedding"].float()
    pixels = _validation_pictures()
    scale = vae.config.scaling_factor
    z0 = vae.encode(pixels).latent_dist.mean * scale
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
    kept = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod[TIMESTEP]
    z_t = add_noise(z0, noise, kept)
    guess = unet(z_t, TIMESTEP, prompt.expand(len(z_t), -1, -1)).sample
    clean = (z_t - (1 - kept).sqrt() * guess) / kept.sqrt()
    reconstructed, noisy, denoised = (vae.decode(z / scale).sample for z in (z0, z_t, clean))
    return _sheet([pixels, reconstructed]), _sheet([pixels, noisy, denoised])


def _validation_pictures() -> Tensor:
    world = World(SEED)
    views = []
    for instance in islice(seen_instances(world, "val"), N_SHOWN):
        views += [world.photo(instance), world.sketch(instance, 1)]
    arrays = [np.asarray(view.image(PIXELS).convert("RGB")) for view in views]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures [N, 3, H, W] from -1 to 1, one under another."""
    strips = [torch.cat(list(row), 2) for row in rows]
    pixels = ((torch.cat(strips, 1).clamp(-1, 1) + 1) * 127.5).byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.BOX)


def _smoothed(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    ys = [y for _, y in line]
    starts = [max(0, i - _SMOOTHED + 1) for i in range(len(ys))]
    means = [float(np.mean(ys[first : i + 1])) for i, first in enumerate(starts)]
    return [(x, mean) for (x, _), mean in zip(line, means, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/nano.md.")
    for name in CURVES:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    args = parser.parse_args()
    for name, values in CURVES.items():
        log = read_log(getattr(args, name) / "log.jsonl", values)
        svg = curves_svg(log, f"{name.upper() if name != 'unet' else 'UNet'}: losses")
        (args.out / f"nano-{name}.svg").write_text(svg, encoding="utf-8")
    reconstructions, denoised = decoded_rows(WEIGHTS / "sd")
    reconstructions.save(args.out / "nano-reconstructions.png", optimize=True)
    denoised.save(args.out / "nano-denoised.png", optimize=True)


if __name__ == "__main__":
    main()
