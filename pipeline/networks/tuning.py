"""Rearranging loaded networks for a device: what may change the last bits, and the speed.

What it gains depends on the card; `sketchfusion bench precompute --set extraction.compile=true`
tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
import torch._dynamo.config as dynamo_config
from torch import nn

from configs import ExtractionConfig
from pipeline.networks.backbone import Backbone
from pipeline.networks.vision import VisionTower

_MAX_VARIANTS = 64
"""Compiled variants of one kind of block, for its widths and batch sizes. Torch's default is 8,
beyond which it runs the block uncompiled after no more than a logged warning."""


def tune(networks: Backbone | VisionTower, extraction: ExtractionConfig) -> None:
    """Do in place what `extraction.compile` and `extraction.channels_last` ask for."""
    if extraction.channels_last:
        for network in _convolutional(networks):
            nn.Module.to(network, memory_format=torch.channels_last)
    if extraction.compile:
        compile_parts(networks)


def compile_parts(networks: Backbone | VisionTower, backend: str = "inductor") -> None:
    """Have each block compiled when it first runs.

    Block by block and not as a whole: injection comes between blocks, and blocks of one kind and
    size are compiled once.
    """
    for part in _blocks(networks):
        compiled = torch.compile(part.forward, backend=backend)
        part.forward = _with_variants(compiled)  # type: ignore[method-assign]


def _with_variants(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Run a compiled function with room for `_MAX_VARIANTS` of its variants.

    The limit is a global setting of torch, which newer versions keep per thread, so it is set for
    each call. `torch.compile` takes it as an argument only in versions newer than those admitted.
    """
    limit = {variant_limit(dynamo_config): _MAX_VARIANTS}

    @wraps(compiled)
    def call(*args: Any, **kwargs: Any) -> Any:
        with dynamo_config.patch(limit):  # type: ignore[attr-defined]
            return compiled(*args, **kwargs)

    return call


def variant_limit(config: object) -> str:
    """Name of dynamo's setting for the number of compiled variants; torch 2.6 has the older one."""
    return "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"


def _blocks(networks: Backbone | VisionTower) -> Iterator[nn.Module]:
    if isinstance(networks, VisionTower):
        tower: Any = networks.model
        yield from tower.blocks
        return
    unet = networks.unet
    yield networks.vae.encoder
    # The last up block never runs.
    yield from (*unet.down_blocks, unet.mid_block, *unet.up_blocks[:-1])
    visual: Any = networks.clip.visual
    # open_clip has towers of its own and those it takes from timm.
    yield from visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks


def _convolutional(networks: Backbone | VisionTower) -> Iterator[nn.Module]:
    if isinstance(networks, Backbone):
        yield from (networks.unet, networks.vae.encoder)
