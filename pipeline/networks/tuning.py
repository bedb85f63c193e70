"""Rearranging loaded networks for a device: what may change the last bits, and the speed.

What it gains depends on the card; `sketchfusion bench precompute --set extraction.compile=true`
tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from configs import ExtractionConfig
from pipeline.networks.backbone import Backbone
from pipeline.networks.vision import VisionTower

_MAX_VARIANTS = 64
"""How often the code of one kind of block is compiled, for each width and size of a batch. Beyond
torch's default of 8 it would run uncompiled, and nobody would know."""


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
        part.compile(backend=backend, recompile_limit=_MAX_VARIANTS)


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
