"""The UNet with CLIP injection through forward hooks on diffusers' unmodified forward.

A second implementation beside `tests.oracle.unet`: here diffusers itself decides how skips and
upsample sizes travel, and only the outputs of the blocks are touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

UP_BLOCK_OF_LAYER = {"s5": 0, "s4": 1, "s3": 2}


def add_to_down_output(
    output: tuple[Tensor, tuple[Tensor, ...]], addition: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Add to a down block's (output, skips): the output and the last skip, one tensor in both."""
    hidden, skips = output
    injected = hidden + addition
    return injected, (*skips[:-1], injected)


def hooked_features(
    unet: UNet2DConditionModel,
    z_t: Tensor,
    timestep: int,
    prompt: Tensor,
    injection: Mapping[str, Tensor],
    clip_tokens: Tensor,
    layers: Sequence[str] = ("s3", "s4", "s5"),
) -> dict[str, Tensor]:
    """Same arguments, results and gradients as `tests.oracle.unet.unet_features`."""
    features: dict[int, Tensor] = {}

    def addition(site: str, size: torch.Size) -> Tensor | None:
        weight = injection.get(f"{site}.weight")
        if weight is None:
            return None
        mapped = F.conv2d(clip_tokens, weight, injection[f"{site}.bias"])
        return F.interpolate(mapped, size=size, mode="bilinear", align_corners=False)

    def down_hook(index: int) -> Any:
        def hook(block: nn.Module, args: Any, output: tuple[Tensor, tuple[Tensor, ...]]) -> Any:
            added = addition(f"down.{index}", output[0].shape[-2:])
            return output if added is None else add_to_down_output(output, added)

        return hook

    def up_hook(index: int) -> Any:
        def hook(block: nn.Module, args: Any, output: Tensor) -> Tensor:
            added = addition(f"up.{index}", output.shape[-2:])
            features[index] = output if added is None else output + added
            return features[index]

        return hook

    with ExitStack() as hooks:
        for i, block in enumerate(unet.down_blocks):
            hooks.callback(block.register_forward_hook(down_hook(i)).remove)
        for i, block in enumerate(unet.up_blocks[:3]):
            hooks.callback(block.register_forward_hook(up_hook(i)).remove)
        unet(z_t, timestep, prompt.expand(len(z_t), -1, -1))
    return {layer: features[UP_BLOCK_OF_LAYER[layer]] for layer in layers}
