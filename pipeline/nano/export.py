"""Write nano's weights into the package, in float16 and in the formats of real checkpoints.

    python -m pipeline.nano.export --pictures DIR --latents DIR --vae DIR --unet DIR --clip DIR

`weights/sd` is a diffusers folder with `null_prompt.safetensors` in place of a text encoder,
`weights/clip` an open_clip model. The loader knows nothing about them that it does not know about
others, so what training did to its numbers from outside is folded in: latents come out with mean 0
and spread 1 by channel, image embeddings centred.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from open_clip import CLIP
from safetensors.torch import load_file
from torch import Tensor

from cache.storage.files import replacing
from configs import ClipConfig, SDConfig
from pipeline.nano.captions import all_captions
from pipeline.nano.checkpoint import load_part
from pipeline.nano.data import PIXELS, Pictures
from pipeline.nano.train_clip import normalised
from pipeline.nano.train_unet import Denoiser
from pipeline.nano.train_vae import new_vae
from pipeline.networks.checkpoints import CLIP_WEIGHTS
from pipeline.networks.clip import build_clip
from pipeline.networks.saving import save_tensors
from pipeline.networks.stable_diffusion import sd_architecture

WEIGHTS = Path(__file__).parent / "weights"
"""Where the package keeps them."""
_MEASURED = 320
"""Instances over which embeddings are centred."""


def export_sd(vae: AutoencoderKL, denoiser: Denoiser, folder: Path) -> None:
    """Write a diffusers folder."""
    scheduler = sd_architecture(SDConfig(source="nano"))["scheduler"]
    vae.half().save_pretrained(folder / "vae")
    denoiser.unet.half().save_pretrained(folder / "unet")
    DDPMScheduler.from_config(scheduler).save_pretrained(folder / "scheduler")
    prompt = denoiser.null_prompt.detach().half().contiguous()
    save_tensors(folder / "null_prompt.safetensors", {"embedding": prompt})


def export_clip(model: CLIP, folder: Path) -> None:
    """Write an open_clip model: its configuration and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = sd_architecture(SDConfig(source="nano"))["clip"]
    document = json.dumps({"model_cfg": architecture}, indent=2)
    with replacing(folder / "open_clip_config.json") as new:
        new.write_text(document + "\n", encoding="utf-8")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_tensors(folder / CLIP_WEIGHTS, state)


@torch.no_grad()
def fold_spread(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Make mean * scaling_factor what was (mean - `mean`) / `std`; decoding undoes it."""
    latent, unit = len(mean), std * vae.config.scaling_factor
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:latent] /= unit.view(-1, 1, 1, 1)
    encode.bias[:latent] = (encode.bias[:latent] - mean) / unit
    encode.bias[latent:] -= 2 * unit.log()
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= unit.view(1, -1, 1, 1)


@torch.no_grad()
def fold_centre(model: CLIP, mean: Tensor, std: Tensor) -> None:
    """Make image embeddings what was (embedding - `mean`) / `std`, and centre those of captions.

    The projections have no bias; the layer norms before them have.
    """
    visual = model.visual
    visual.ln_post.bias -= mean @ torch.linalg.pinv(visual.proj)
    visual.proj /= std
    texts = model.encode_text(all_captions())
    model.ln_final.bias -= texts.mean(0) @ torch.linalg.pinv(model.text_projection)


@torch.inference_mode()
def embedding_spread(model: CLIP, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [E] of the image embeddings of training pictures."""
    embeddings = []
    for first in range(0, _MEASURED, 16):
        rows = torch.from_numpy(pictures.images[first : first + 16].copy()).flatten(0, 1)
        embeddings.append(model.encode_image(normalised(rows.permute(0, 3, 1, 2).float() / 255)))
    known = torch.cat(embeddings)
    return known.mean(0), known.std(0)


def averaged(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's state in the state of its `Average`."""
    return {name.removeprefix("network."): value for name, value in part.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write nano's weights into the package.")
    for name in ("pictures", "latents", "vae", "unet", "clip"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    vae, denoiser = new_vae(), Denoiser()
    vae.load_state_dict(load_part(args.vae, "vae"))
    denoiser.load_state_dict(averaged(load_part(args.unet, "average")))
    fold_spread(vae, **load_file(args.latents / "spread.safetensors"))
    export_sd(vae, denoiser, args.out / "sd")
    model = build_clip(ClipConfig(model="nano"), PIXELS).eval()
    model.load_state_dict(averaged(load_part(args.clip, "average")))
    fold_centre(model, *embedding_spread(model, Pictures.open(args.pictures)))
    export_clip(model, args.out / "clip")
    for file in args.out.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
