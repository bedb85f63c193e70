"""Where the UNet stands at an injection site: a prefix that can be stored and started from.

At a site its block has run and its injection has not. Nothing up to there depends on that site's
weights or any later one's, so training them may start there, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from pipeline.networks.digest import digest_tensors
from pipeline.networks.injection import Injection, adder
from pipeline.networks.noise import add_noise
from pipeline.networks.transfer import to_device
from pipeline.networks.unet import (
    LAYER_SITE,
    Inject,
    Prefix,
    advance,
    begin,
    block_sequence,
    site_channels,
    unused_skips,
)

if TYPE_CHECKING:
    from pipeline.networks.backbone import Backbone

HIDDEN = "hidden"
"""The part of a prefix that is the site's block output."""
SKIP = "skip"
"""`skip0`, `skip1`, … are the skips that later blocks still use, oldest first."""


def next_block(unet: UNet2DConditionModel, block: str) -> str:
    """The block that runs after `block`."""
    blocks = block_sequence(unet)
    return blocks[blocks.index(block) + 1]


def run_to_site(
    unet: UNet2DConditionModel,
    z_t: Tensor,
    timestep: int,
    prompt: Tensor,
    site: str,
    layers: Sequence[str] = (),
    inject: Inject | None = None,
) -> tuple[dict[str, Tensor], Prefix]:
    """Run from noisy latents `z_t` [B, 4, h, w] up to `site`, which is not injected yet.

    Returns:
        Features [B, C, H, W] of those `layers` that lie before the site, and the state at it.
    """
    wanted = {LAYER_SITE[layer]: layer for layer in layers}
    features: dict[str, Tensor] = {}

    def inject_before_site(block: str, hidden: Tensor) -> Tensor:
        if block == site:
            return hidden
        if inject is not None:
            hidden = inject(block, hidden)
        if block in wanted:
            features[wanted[block]] = hidden
        return hidden

    # No layers here: `advance` would stop at the last one, which may lie before the site.
    _, state = advance(
        unet,
        begin(unet, z_t),
        timestep,
        prompt,
        until=next_block(unet, site),
        inject=inject_before_site,
    )
    return features, state


def inject_at(site: str, state: Prefix, inject: Inject | None) -> Prefix:
    """The state after the injection of `site`, from the one that `run_to_site` gives."""
    hidden = inject(site, state.hidden) if inject is not None else state.hidden
    skips = state.skips
    if site.startswith("down"):
        # A down block's output is its last skip as well: injection replaces both.
        skips = (*skips[:-1], hidden)
    return Prefix(state.site, hidden, skips)


def pack(unet: UNet2DConditionModel, site: str, state: Prefix) -> dict[str, Tensor]:
    """The parts of a state at `site` that have to be kept, [B, C, h, w] by name.

    Left out are the oldest skips, which feed only the last up block, which never runs, and a down
    block's last skip, which is its output.
    """
    last = len(state.skips) - site.startswith("down")
    kept = state.skips[unused_skips(unet) : last]
    return {HIDDEN: state.hidden, **{f"{SKIP}{i}": skip for i, skip in enumerate(kept)}}


def unpack(
    unet: UNet2DConditionModel, site: str, parts: Mapping[str, Tensor], latent_size: Sequence[int]
) -> Prefix:
    """The state at `site` of parts that `pack` kept; `latent_size` is (h, w) in cells."""
    hidden = parts[HIDDEN]
    # Of the skips left out only the size is ever looked at.
    stand_in = hidden.new_zeros(()).expand(len(hidden), 1, *latent_size)
    n_kept = sum(name.startswith(SKIP) for name in parts)
    skips = [stand_in] * unused_skips(unet) + [parts[f"{SKIP}{i}"] for i in range(n_kept)]
    if site.startswith("down"):
        skips.append(hidden)
    return Prefix(next_block(unet, site), hidden, tuple(skips))


def prefix_shapes(
    unet: UNet2DConditionModel, side: int
) -> dict[str, dict[str, tuple[int, int, int]]]:
    """By site, the shape [C, h, w] of each part that `pack` keeps, for latents of `side` cells."""
    width, shapes = site_channels(unet), {}
    skips = [(width["down.0"], side, side)]

    def keep(site: str, hidden: tuple[int, int, int], kept: Sequence[tuple[int, int, int]]) -> None:
        skip_shapes = {f"{SKIP}{i}": s for i, s in enumerate(kept[unused_skips(unet) :])}
        shapes[site] = {HIDDEN: hidden, **skip_shapes}

    for i, block in enumerate(unet.down_blocks):
        site = f"down.{i}"
        skips += [(width[site], side, side)] * len(block.resnets)
        if block.downsamplers is not None:
            side = (side + 1) // 2
            skips.append((width[site], side, side))
        keep(site, skips[-1], skips[:-1])
    for i, block in enumerate(unet.up_blocks[:-1]):
        site = f"up.{i}"
        skips = skips[: -len(block.resnets)]
        # Blocks enlarge to the size of the skip they meet next.
        keep(site, (width[site], *skips[-1][1:]), skips)
    return shapes


@torch.inference_mode()
def features_and_prefix(
    backbone: Backbone,
    z0: Tensor,
    noise: Tensor,
    timestep: int,
    layers: Sequence[str],
    site: str,
    projected: Mapping[str, Tensor],
    rows: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `Backbone.unet_features` gives, and the parts of the prefix at `site`, in one pass.

    Both are float32 [B, C, h, w] by name.
    """
    unet, prompt = backbone.unet, backbone.null_prompt
    z_t = add_noise(z0, to_device(noise, backbone.device), backbone.alphas_cumprod[timestep])
    inject = adder(projected, rows) if projected else None
    features, state = run_to_site(
        unet, z_t.to(backbone.dtype), timestep, prompt, site, layers, inject
    )
    parts = pack(unet, site, state)
    state = inject_at(site, state, inject)
    features |= {layer: state.hidden for layer in layers if LAYER_SITE[layer] == site}
    later = [layer for layer in layers if layer not in features]
    if later:
        found, _ = advance(unet, state, timestep, prompt, layers=later, inject=inject)
        features |= found
    return (
        {layer: features[layer].float() for layer in layers},
        {name: value.float() for name, value in parts.items()},
    )


def site_digests(injection: Injection | None) -> dict[str, str]:
    """SHA-256 of each site's weights: what tells whether two injections agree before a site."""
    if injection is None:
        return {}
    state = injection.state()
    return {
        site: digest_tensors({kind: state[f"{site}.{kind}"] for kind in ("weight", "bias")})
        for site in injection.sites
    }
