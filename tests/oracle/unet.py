"""The UNet with CLIP injection, spelled out at the level of its sub-modules.

The forwards of diffusers' blocks are not used: every resnet, attention, downsampler and upsampler
is called here, and the skips are one visible list. Works for any batch and latent size, and is
differentiable in the injection weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

LAYER_OF_UP_BLOCK = ("s5", "s4", "s3")


def inject(hidden: Tensor, site: str, injection: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Add the CLIP tokens [B, D, h, w] to a block's output [B, C, H, W] at a site like "down.0".

    A 1x1 convolution at CLIP's resolution, then a bilinear resize. A site without weights leaves
    the output as it is.
    """
    if f"{site}.weight" not in injection:
        return hidden
    weight, bias = injection[f"{site}.weight"][:, :, 0, 0], injection[f"{site}.bias"]
    mapped = torch.einsum("cd,bdhw->bchw", weight, tokens) + bias[None, :, None, None]
    size = hidden.shape[-2:]
    return hidden + F.interpolate(
        mapped, size=size, mode="bilinear", align_corners=False, antialias=False
    )


def unet_features(
    unet: UNet2DConditionModel,
    z_t: Tensor,
    timestep: int,
    prompt: Tensor,
    injection: Mapping[str, Tensor],
    clip_tokens: Tensor,
    layers: Sequence[str] = ("s3", "s4", "s5"),
) -> dict[str, Tensor]:
    """Run the UNet on z_t [B, 4, H, W] up to up block 2; return the asked layers [B, C, h, w].

    `prompt` is [1, L, D_text], `clip_tokens` [B, D, h, w], `injection` the content of an injection
    file. Layers s5, s4 and s3 are the outputs of up blocks 0, 1 and 2 after injection.
    """
    prompt = prompt.expand(len(z_t), -1, -1)
    time = unet.time_embedding(unet.time_proj(torch.full((len(z_t),), timestep)).to(z_t.dtype))

    def attend(block: Any, index: int, hidden: Tensor) -> Tensor:
        if not hasattr(block, "attentions"):
            return hidden
        return block.attentions[index](hidden, encoder_hidden_states=prompt, return_dict=False)[0]

    hidden = unet.conv_in(z_t)
    skips = [hidden]
    for i, block in enumerate(unet.down_blocks):
        for j, resnet in enumerate(block.resnets):
            hidden = attend(block, j, resnet(hidden, time))
            skips.append(hidden)
        if block.downsamplers is not None:
            hidden = block.downsamplers[0](hidden)
            skips.append(hidden)
        hidden = inject(hidden, f"down.{i}", injection, clip_tokens)
        skips[-1] = hidden  # the last skip is the block's output, so it carries the injection too

    mid = unet.mid_block
    hidden = mid.resnets[0](hidden, time)
    for j, resnet in enumerate(mid.resnets[1:]):
        hidden = resnet(attend(mid, j, hidden), time)

    features = {}
    for i, layer in enumerate(LAYER_OF_UP_BLOCK):
        block = unet.up_blocks[i]
        for j, resnet in enumerate(block.resnets):
            hidden = attend(block, j, resnet(torch.cat([hidden, skips.pop()], dim=1), time))
        hidden = F.interpolate(hidden, size=skips[-1].shape[-2:], mode="nearest")
        hidden = block.upsamplers[0].conv(hidden)
        hidden = inject(hidden, f"up.{i}", injection, clip_tokens)
        features[layer] = hidden
    return {layer: features[layer] for layer in layers}
