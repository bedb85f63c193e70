"""Feature maps of a UNet that learns itself: the fine-tuning baseline, without injection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cache import FeatureStore, Recipe
from heads.sources.base import SourceError
from heads.sources.computed import ComputedFeatures, Features
from heads.sources.live import LiveOptions
from pipeline.extraction.arrays import LATENT
from pipeline.networks.backbone import Backbone
from pipeline.networks.unet import begin


class FinetunedFeatures(ComputedFeatures):
    """Runs the UNet on stored latents, with gradients in its own parameters.

    Before the first step, and with the recipe's noise, the maps are those of plain SD. VAE and
    CLIP stay frozen. Parameters of the UNet that act after the last layer asked for do not
    require gradients: they would get none. The network stays in evaluation mode.

    Args:
        stores: stores with `vae/latent`, of one recipe. With which injection their own layers
            were made does not matter.
        arrays: `sd/t{timestep}/{layer}` are computed, all others are read from the stores.
        backbone: the networks that the stores were made with, in float32. Its UNet is the one
            that is trained: which of its parameters require gradients is set here.
        recipe: what the stores must have been made with, injection aside; None is the first's.
        options: see `LiveOptions`; nothing is constant here, so `prefix_bytes` must be 0.

    Raises:
        RecipeMismatch: the stores were made with other networks or another recipe.
        StoreError: a store lacks an array.
        SourceError: no layer is asked for or one does not exist, the backbone does not compute
            in float32, or memory for prefixes is asked for.
        BackboneError: a timestep does not exist.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        arrays: Sequence[str],
        backbone: Backbone,
        recipe: Recipe | None = None,
        options: LiveOptions = LiveOptions(),
    ) -> None:
        super().__init__(
            stores, arrays, backbone, [], recipe, options.fresh_noise, options.checkpointing
        )
        if backbone.dtype != torch.float32:
            precision = str(backbone.dtype).removeprefix("torch.")
            raise SourceError(
                f"fine-tuning needs a float32 backbone and this one is {precision}; "
                "set extraction.precision=float32"
            )
        if options.prefix_bytes:
            raise SourceError("prefix_bytes: when the UNet learns nothing is constant; set 0")
        if not self._layers:
            raise SourceError("no layer of the UNet is asked for: read the cache instead")
        self.options = options
        unet = backbone.unet.requires_grad_(False)
        blocks = [unet.get_submodule(_path(block)) for block in self._blocks[: self._end]]
        for module in (unet.conv_in, unet.time_embedding, *blocks):
            module.requires_grad_(True)
        self.trained: nn.Module | None = unet

    def _prepare(
        self, ids: Sequence[str], stored: Mapping[str, Tensor]
    ) -> Callable[[int, int], Features]:
        def compute(timestep: int, draw: int) -> Features:
            z_t = self._noisy(ids, stored[LATENT], timestep, draw)
            return self._run(begin(self.backbone.unet, z_t), timestep)

        return compute


def _path(block: str) -> str:
    """Where a block is in the UNet: `up.1` is `up_blocks.1`."""
    kind, _, index = block.partition(".")
    return f"{kind}_blocks.{index}" if index else "mid_block"
