"""What an architecture costs per image, counted by running it on torch's `meta` device.

Nothing is allocated and nothing is computed: shapes and floating-point operations come from the
real modules, so they cannot drift from what stage 1 does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from configs import BackboneConfig, ExtractionConfig
from pipeline.extraction.arrays import Geometry, feature_geometry
from pipeline.networks.backbone import check_timesteps, sd_and_clip
from pipeline.networks.clip import build_clip, clip_shapes
from pipeline.networks.injection import Injection, adder, configured_injection
from pipeline.networks.stable_diffusion import build_architecture, sd_architecture
from pipeline.networks.unet import extract, site_channels
from pipeline.networks.vision import VisionGeometry, build_vision, vision_features, vision_geometry


@dataclass(frozen=True)
class Cost:
    """Floating-point operations per image (two per multiply-add) and the shapes produced.

    `unet` is one pass of the truncated UNet with its injection: multiply it by timesteps and
    draws, as `total` does. `vision` is the transformer of a timm backbone, which has nothing else.
    """

    vae: int
    clip: int
    unet: int
    passes: int
    geometry: Geometry | VisionGeometry
    vision: int = 0

    @property
    def total(self) -> int:
        """Operations per image for all timesteps and noise draws."""
        return self.vae + self.clip + self.unet * self.passes + self.vision


def measure_cost(backbone: BackboneConfig, extraction: ExtractionConfig) -> Cost:
    """Count one image's operations. Needs the architecture, not the weights.

    Raises BackboneError for an unknown architecture or a timestep that it does not have, and
    InjectionError for an unusable injection file.
    """
    if backbone.timm is not None:
        return _vision_cost(backbone)
    sd, clip = sd_and_clip(backbone)
    architecture = sd_architecture(sd)
    schedule = architecture["scheduler"]
    if schedule.get("trained_betas") is None:
        check_timesteps(extraction.timesteps, schedule.get("num_train_timesteps", 1000))
    with torch.device("meta"):
        unet, vae = build_architecture(architecture)
        visual = build_clip(clip, backbone.resolution).visual.eval()
        shapes: list[tuple[tuple[int, int, int], int]] = []
        clip_flops = _flops(lambda: shapes.append(clip_shapes(visual, backbone.resolution)))
        tokens, embedding = shapes[0]
        geometry = feature_geometry(unet, vae, backbone.resolution, tokens, embedding)
        square = torch.zeros(1, 3, backbone.resolution, backbone.resolution)
        prompt = torch.zeros(1, architecture["prompt_tokens"], unet.config.cross_attention_dim)
        z_t, token_map = torch.zeros(1, *geometry.latent), torch.zeros(1, *tokens)

        injected = configured_injection(extraction, tokens[0], site_channels(unet))
        sites = injected.channels if injected is not None else {}
        injection = Injection(tokens[0], sites)

        def unet_pass() -> object:
            inject = adder(injection.project(token_map)) if sites else None
            return extract(unet, z_t, 0, prompt, extraction.layers, inject)

        return Cost(
            vae=_flops(lambda: vae.encode(square)),
            clip=clip_flops,
            unet=_flops(unet_pass),
            passes=len(extraction.timesteps) * extraction.ensemble,
            geometry=geometry,
        )


def _vision_cost(backbone: BackboneConfig) -> Cost:
    blank = build_vision(backbone)
    side = backbone.resolution
    square = torch.zeros(1, 3, side, side, device="meta")
    flops = _flops(lambda: vision_features(blank, square))
    geometry = vision_geometry(blank, side)
    return Cost(vae=0, clip=0, unet=0, passes=0, geometry=geometry, vision=flops)


def probe_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations per second that this device reaches on a 3x3 convolution of the UNet's kind."""
    x = torch.randn(4, 320, 42, 42, device=device, dtype=dtype)
    conv = torch.nn.Conv2d(320, 320, 3, padding=1, device=device, dtype=dtype)
    operations = 2 * 4 * 320 * 320 * 9 * 42 * 42

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        conv(x)
        wait()
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            conv(x)
            wait()
            runs += 1
    return operations * runs / (time.perf_counter() - start)


@torch.no_grad()
def _flops(run: Callable[[], object]) -> int:
    with _WithoutUncounted(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


class _WithoutUncounted(TorchFunctionMode):
    """Leaves out what counts as no operation and keeps its input's shape: a third of the time."""

    _LEFT_OUT = frozenset((F.group_norm, F.layer_norm, F.silu, F.gelu))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self._LEFT_OUT else func(*args, **(kwargs or {}))
