"""The frozen backbone: Stable Diffusion and CLIP on one device, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from configs import BackboneConfig, ClipConfig, SDConfig
from configs.schema import VaePixels
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.clip import ClipVision, clip_features, load_clip
from pipeline.networks.injection import adder
from pipeline.networks.noise import add_noise
from pipeline.networks.stable_diffusion import load_stable_diffusion, random_stable_diffusion
from pipeline.networks.transfer import to_device
from pipeline.networks.unet import extract, site_channels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Backbone:
    """Frozen networks on `device`, computing in `dtype`; every result is float32.

    `alphas_cumprod` is [T] and `null_prompt` [1, L, D]; `digests` are those of `unet`, `vae`,
    `null_prompt`, `scheduler` and `clip`; `aliases` are the digests that older stores may hold in
    place of these, by the same names.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    clip: ClipVision
    alphas_cumprod: Tensor
    null_prompt: Tensor
    digests: Mapping[str, str]
    device: torch.device
    dtype: torch.dtype
    vae_pixels: VaePixels = "signed"
    """Range in which pixels enter the VAE: -1 to 1, or 0 to 255."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each injection site of the UNet."""
        return site_channels(self.unet)

    def check_timesteps(self, timesteps: Sequence[int]) -> None:
        """Raise BackboneError for a timestep the checkpoint's schedule does not have."""
        check_timesteps(timesteps, len(self.alphas_cumprod))

    @torch.inference_mode()
    def encode_latents(self, squares: Tensor) -> Tensor:
        """z0 [B, 4, h, w]: the VAE posterior's mean times `scaling_factor`.

        `squares` are uint8 [B, 3, R, R]; the VAE sees them in the range that `vae_pixels` names.
        """
        return self.encode_posterior(squares)[0]

    @torch.inference_mode()
    def encode_posterior(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, 4, h, w] of the VAE posterior, each times
        `scaling_factor`: a latent is mean + deviation * noise."""
        pixels = to_device(squares, self.device).float()
        if self.vae_pixels == "signed":
            pixels = pixels / 127.5 - 1.0
        posterior = self.vae.encode(pixels.to(self.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        # One memory layout, so that latents read back from a store give the same bits.
        mean, deviation = (
            (part.float() * scale).contiguous() for part in (posterior.mean, posterior.std)
        )
        return mean, deviation

    @torch.inference_mode()
    def encode_clip(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's token map [B, D, h, w] before `ln_post`, and image embedding [B, E]."""
        mean, std = (
            to_device(torch.tensor(values), self.device).view(1, 3, 1, 1)
            for values in (self.clip.mean, self.clip.std)
        )
        pixels = (to_device(squares, self.device).float() / 255.0 - mean) / std
        tokens, pooled = clip_features(self.clip.visual, pixels.to(self.dtype))
        return tokens.float().contiguous(), pooled.float()

    @torch.inference_mode()
    def unet_features(
        self,
        z0: Tensor,
        noise: Tensor,
        timestep: int,
        layers: Sequence[str],
        projected: Mapping[str, Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Feature maps [B, C, h, w] by layer, of latents and noise [B, 4, h, w].

        `projected` are CLIP maps by site; `rows` [B] says which of them belongs to each latent.
        """
        z_t = add_noise(z0, to_device(noise, self.device), self.alphas_cumprod[timestep])
        inject = adder(projected, rows) if projected else None
        features = extract(
            self.unet, z_t.to(self.dtype), timestep, self.null_prompt, layers, inject
        )
        return {layer: value.float() for layer, value in features.items()}


def load_backbone(
    config: BackboneConfig, device: str = "cpu", precision: str = "float32"
) -> Backbone:
    """Load both networks as configured. Raises BackboneError."""
    sd_config, clip_config = sd_and_clip(config)
    target, dtype = compute_in(device, precision)
    random_weights = config.weights == "random"
    sd = (random_stable_diffusion if random_weights else load_stable_diffusion)(sd_config)
    clip = load_clip(clip_config, config.resolution, random_weights)
    digests = {**sd.digests, "clip": clip.digest}
    for model in (sd.unet, sd.vae, clip.visual):
        nn.Module.to(model, target, dtype)
    return Backbone(
        unet=sd.unet,
        vae=sd.vae,
        clip=clip,
        alphas_cumprod=sd.alphas_cumprod.to(target),
        null_prompt=sd.null_prompt.to(target, dtype),
        digests=digests,
        device=target,
        dtype=dtype,
        aliases={**sd.aliases, "clip": clip.aliases},
    )


def sd_and_clip(config: BackboneConfig) -> tuple[SDConfig, ClipConfig]:
    """Where both networks come from. Raises BackboneError for a timm backbone."""
    if config.sd is None or config.clip is None:
        raise BackboneError(
            f"backbone {config.label} is a timm model: it has neither Stable Diffusion nor CLIP; "
            "choose a backbone with sd and clip"
        )
    return config.sd, config.clip


def compute_in(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where and in which type to compute. Raises BackboneError."""
    keep_float32()
    return pick_device(device), DTYPES[precision]


def check_timesteps(timesteps: Sequence[int], n_timesteps: int) -> None:
    """Raise BackboneError for a timestep that a schedule of so many does not have."""
    if max(timesteps) >= n_timesteps:
        raise BackboneError(
            f"extraction.timesteps: {max(timesteps)} is beyond this checkpoint's last, "
            f"{n_timesteps - 1}"
        )


def keep_float32() -> None:
    """Have CUDA multiply float32 numbers as such, for the whole process: TensorFloat-32, which
    torch allows in convolutions, keeps 10 bits of mantissa."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """`auto` is the first accelerator, or the CPU. Raises BackboneError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("a device without memory")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise BackboneError(
            f"extraction.device: {name!r} is not available here; use auto or cpu"
        ) from None
    return device
