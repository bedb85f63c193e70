"""The UNet as a function: intermediate features, injection, early stop, resume in the middle.

`diffusers` runs its UNet from noise to noise. We want the outputs of its first up blocks, with
CLIP added between blocks, without the part nobody reads, and able to start where the trainable
part begins. So the driver walks `down_blocks`, `mid_block` and `up_blocks` itself and leaves what
happens inside a block to diffusers.

Sites are named `down.0` … `down.3`, `mid`, `up.0` … `up.2`; injection happens after the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

LAYER_SITE = {"s5": "up.0", "s4": "up.1", "s3": "up.2"}
"""Feature layers of the paper and the block whose injected output they are."""

Inject = Callable[[str, Tensor], Tensor]
"""Takes a site and that block's output [B, C, H, W]; returns what the next block should see."""


class UnsupportedUNet(ValueError):
    """A UNet whose forward needs more than a latent, a timestep and a prompt."""


@dataclass(frozen=True)
class Prefix:
    """Everything the UNet has computed before it enters block `site`.

    `hidden` is [B, C, H, W]; `skips` are the skip tensors still to be used, oldest first.
    A gradient-free prefix can be stored and training can start from it, exactly.
    """

    site: str
    hidden: Tensor
    skips: tuple[Tensor, ...]


def check_unet(unet: UNet2DConditionModel) -> None:
    """Raise UnsupportedUNet where the driver could not reproduce the UNet's own forward."""
    config = unet.config
    if config.addition_embed_type is not None:
        raise UnsupportedUNet(f"addition_embed_type {config.addition_embed_type} (SDXL?)")
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise UnsupportedUNet("class-conditional UNets need a class")
    if config.encoder_hid_dim_type is not None or config.encoder_hid_dim is not None:
        raise UnsupportedUNet("a projection of the prompt (encoder_hid_dim)")
    if config.time_cond_proj_dim is not None:
        raise UnsupportedUNet("guidance-conditioned UNets (time_cond_proj_dim)")
    if config.mid_block_type != "UNetMidBlock2DCrossAttn":
        raise UnsupportedUNet(f"mid block {config.mid_block_type}")


def site_channels(unet: UNet2DConditionModel) -> dict[str, int]:
    """Channels of each injection site's block output, in the order the UNet reaches them."""
    widths = list(unet.config.block_out_channels)
    sites = {f"down.{i}": width for i, width in enumerate(widths)}
    for i, width in enumerate(reversed(widths[1:])):
        sites[f"up.{i}"] = width
    return sites


def block_sequence(unet: UNet2DConditionModel) -> list[str]:
    """Every block in the order it runs: down.0 … down.3, mid, up.0 … up.3."""
    down = [f"down.{i}" for i in range(len(unet.down_blocks))]
    up = [f"up.{i}" for i in range(len(unet.up_blocks))]
    return [*down, "mid", *up]


def begin(unet: UNet2DConditionModel, z_t: Tensor) -> Prefix:
    """The state before the first block, from noisy latents `z_t` [B, 4, h, w]."""
    if unet.config.center_input_sample:
        z_t = 2 * z_t - 1.0
    hidden = unet.conv_in(z_t)
    return Prefix("down.0", hidden, (hidden,))


def advance(
    unet: UNet2DConditionModel,
    state: Prefix,
    timestep: Tensor | int,
    prompt: Tensor,
    *,
    layers: Sequence[str] = (),
    until: str | None = None,
    inject: Inject | None = None,
) -> tuple[dict[str, Tensor], Prefix]:
    """Run blocks from `state` until the last of `layers` is there, or block `until` comes next.

    Args:
        timestep: one for the batch, or [B].
        prompt: text embedding [1, L, D] or [B, L, D].
        layers: feature layers to collect (`s3`, `s4`, `s5`).
        until: stop before this block; the returned state resumes there.
        inject: called with (site, output) after every block but the mid block.

    Returns:
        Features [B, C, H, W] by layer, and the state reached.
    """
    sequence = block_sequence(unet)
    wanted = {LAYER_SITE[layer]: layer for layer in layers}
    missing = [layer for site, layer in wanted.items() if site not in sequence[:-1]]
    if missing:
        raise UnsupportedUNet(f"it has no layer {missing[0]}: only {len(unet.up_blocks)} up blocks")
    start = sequence.index(state.site)
    last = max((sequence.index(site) for site in wanted), default=len(sequence) - 2)
    stop = min(sequence.index(until), last + 1) if until else last + 1

    hidden, skips = state.hidden, list(state.skips)
    emb = _time_embedding(unet, hidden, timestep)
    prompt = prompt.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    features: dict[str, Tensor] = {}
    for site in sequence[start:stop]:
        kind, _, index = site.partition(".")
        if kind == "mid":
            hidden = unet.mid_block(hidden, emb, encoder_hidden_states=prompt)
            continue
        if kind == "down":
            block = unet.down_blocks[int(index)]
            hidden, new_skips = _call(block, prompt, hidden_states=hidden, temb=emb)
            skips.extend(new_skips)
        else:
            block = unet.up_blocks[int(index)]
            n = len(block.resnets)
            used, skips = skips[-n:], skips[:-n]
            hidden = _call(
                block,
                prompt,
                hidden_states=hidden,
                temb=emb,
                res_hidden_states_tuple=tuple(used),
                # The next skip's size: what makes odd latents meet their skips again.
                upsample_size=tuple(skips[-1].shape[-2:]) if skips else None,
            )
        if inject is not None:
            hidden = inject(site, hidden)
            if kind == "down":
                # A down block's output is also its last skip: the up path must see the sum.
                skips[-1] = hidden
        if site in wanted:
            features[wanted[site]] = hidden
    return features, Prefix(sequence[stop], hidden, tuple(skips))


def extract(
    unet: UNet2DConditionModel,
    z_t: Tensor,
    timestep: Tensor | int,
    prompt: Tensor,
    layers: Sequence[str],
    inject: Inject | None = None,
) -> dict[str, Tensor]:
    """Features [B, C, H, W] of `layers` from noisy latents `z_t` [B, 4, h, w], start to end."""
    features, _ = advance(unet, begin(unet, z_t), timestep, prompt, layers=layers, inject=inject)
    return features


def unused_skips(unet: UNet2DConditionModel) -> int:
    """How many of the oldest skips feed only the last up block, which never runs."""
    return len(unet.up_blocks[-1].resnets)


def _call(block: torch.nn.Module, prompt: Tensor, **inputs: object) -> Any:
    """A block's forward; only blocks with cross attention take the prompt."""
    if getattr(block, "has_cross_attention", False):
        inputs["encoder_hidden_states"] = prompt
    return block(**inputs)


def _time_embedding(unet: UNet2DConditionModel, hidden: Tensor, timestep: Tensor | int) -> Tensor:
    if not isinstance(timestep, Tensor):
        # Filled on the device: a copy to it would wait for all that it has to do.
        timestep = torch.full((1,), timestep, device=hidden.device)
    steps = timestep.to(hidden.device).reshape(-1).expand(hidden.shape[0])
    # Sinusoids are computed in float32 and cast, as diffusers does.
    emb = unet.time_embedding(unet.time_proj(steps).to(hidden.dtype))
    return emb if unet.time_embed_act is None else unet.time_embed_act(emb)
