"""What every source that runs the UNet does: inputs from stores, noise, draws, blocks."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cache import FeatureStore, Recipe, StoreError
from heads.sources.base import SourceError
from heads.sources.cached import CachedFeatures
from pipeline.extraction.arrays import LATENT, Geometry, feature_geometry, layer_array
from pipeline.networks.backbone import Backbone
from pipeline.networks.noise import add_noise, draw_noise
from pipeline.networks.prefix import next_block
from pipeline.networks.transfer import to_device
from pipeline.networks.unet import LAYER_SITE, Inject, Prefix, advance, block_sequence

_SD_ARRAY = re.compile(r"sd/t(\d+)/(\w+)")

Features = dict[str, Tensor]
"""Maps [B, C, h, w] by layer."""


class ComputedFeatures(ABC):
    """Layers come from the UNet, run on stored latents; all other arrays are read.

    Args:
        stores: stores with `vae/latent` and `inputs`, of one recipe. With which injection their
            own layers were made does not matter.
        arrays: `sd/t{timestep}/{layer}` are computed, all others are read from the stores.
        backbone: the networks that the stores were made with.
        inputs: arrays that the computation reads beside the latents.
        recipe: what the stores must have been made with, injection aside; None is the first's.
        fresh_noise: new noise at every call instead of the recipe's, one draw.
        checkpointing: compute each block again in the backward pass.

    Raises:
        RecipeMismatch: the stores were made with other networks or another recipe.
        StoreError: a store lacks an array.
        SourceError: a layer does not exist, or the latents are not what the UNet started from.
        BackboneError: a timestep does not exist.
    """

    trained: nn.Module | None

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        arrays: Sequence[str],
        backbone: Backbone,
        inputs: Sequence[str],
        recipe: Recipe | None,
        fresh_noise: bool,
        checkpointing: bool,
    ) -> None:
        refuse_sampled_latents(stores)
        computed = {name: match for name in arrays if (match := _SD_ARRAY.fullmatch(name))}
        stored = [name for name in arrays if name not in computed]
        if stores:
            # Latents and CLIP tokens do not depend on it.
            injection = stores[0].recipe.fields.get("injection")
            recipe = (recipe or stores[0].recipe).updated(
                {"injection": injection, **backbone.digests}, backbone.aliases
            )
        read = list(dict.fromkeys((LATENT, *inputs, *stored)))
        self._stored = CachedFeatures(stores, read, backbone.device, recipe)
        self.recipe = stores[0].recipe
        self.arrays = tuple(arrays)
        self.ids = self._stored.ids
        self.backbone = backbone
        self._fresh_noise = fresh_noise
        self._checkpointing = checkpointing

        self._timesteps = sorted({int(match[1]) for match in computed.values()})
        self._layers = sorted({match[2] for match in computed.values()})
        self._geometry = self._shapes_per_image()
        for layer in self._layers:
            if layer not in self._geometry.layers:
                known = ", ".join(self._geometry.layers)
                raise SourceError(f"no layer {layer}: this UNet has {known}")
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: self._geometry.layers[computed[name][2]]
            if name in computed
            else self._stored.shapes[name]
            for name in self.arrays
        }
        if self._timesteps:
            backbone.check_timesteps(self._timesteps)
        self._blocks = block_sequence(backbone.unet)
        reached = [self._blocks.index(LAYER_SITE[layer]) for layer in self._layers]
        self._end = max(reached, default=-1) + 1
        self._n_draws = 1 if fresh_noise else self._recipe_number("ensemble")

    def expect(self, ids: Sequence[str]) -> None:
        """See `FeatureSource.expect`."""
        self._stored.expect(ids)

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """See `FeatureSource.maps`; differentiable in what is trained."""
        found = self._stored.maps(ids)
        compute = self._prepare(ids, found)
        for timestep in self._timesteps:
            features = self._mean_of_draws(compute, timestep)
            found |= {layer_array(timestep, layer): value for layer, value in features.items()}
        return {name: found[name] for name in self.arrays}

    @abstractmethod
    def _prepare(
        self, ids: Sequence[str], stored: Mapping[str, Tensor]
    ) -> Callable[[int, int], Features]:
        """What computes the layers of a batch for a timestep and a draw.

        `stored` holds the batch's latents and the other inputs, float32 on the device.
        """

    def _mean_of_draws(
        self, compute: Callable[[int, int], Features], timestep: int
    ) -> dict[str, Tensor]:
        """Float32 features [B, C, h, w] by layer."""
        sums: Features = {}
        for draw in range(self._n_draws):
            for layer, value in compute(timestep, draw).items():
                sums[layer] = sums[layer] + value.float() if layer in sums else value.float()
        return {layer: total / self._n_draws for layer, total in sums.items()}

    def _noisy(self, ids: Sequence[str], z0: Tensor, timestep: int, draw: int) -> Tensor:
        """z_t [B, 4, h, w] in the backbone's precision, of latents z0."""
        if self._fresh_noise:
            noise = torch.randn(z0.shape)
        else:
            seed, shape = self._recipe_number("seed"), tuple(z0.shape[1:])
            noise = torch.stack(
                [draw_noise(shape, seed, self._stored.sha256(i), timestep, draw) for i in ids]
            )
        z_t = add_noise(z0, to_device(noise, z0.device), self.backbone.alphas_cumprod[timestep])
        return z_t.to(self.backbone.dtype)

    def _run(self, state: Prefix, timestep: int, inject: Inject | None = None) -> Features:
        """The layers that `state` still has before it, block by block and with gradients."""
        unet = self.backbone.unet
        features: Features = {}
        while self._blocks.index(state.site) < self._end:
            run_block = partial(
                advance,
                unet,
                state,
                timestep,
                self.backbone.null_prompt,
                layers=self._layers,
                until=next_block(unet, state.site),
                inject=inject,
            )
            if self._checkpointing:
                found, state = checkpoint(run_block, use_reentrant=False, preserve_rng_state=False)
            else:
                found, state = run_block()
            features |= found
        return features

    def _recipe_number(self, field: str) -> int:
        value = self.recipe.fields.get(field)
        if not isinstance(value, int):
            raise StoreError(
                f"the stores' recipe has no number called {field}; precompute them anew"
            )
        return value

    def _shapes_per_image(self) -> Geometry:
        backbone = self.backbone
        resolution = self._recipe_number("resolution")
        return feature_geometry(
            backbone.unet, backbone.vae, resolution, backbone.clip.tokens, backbone.clip.embedding
        )


def refuse_sampled_latents(stores: Sequence[FeatureStore]) -> None:
    """Raise SourceError for stores whose features start from samples of the VAE posterior.

    Their `vae/latent` is its mean, of which nothing would compute the same features.
    """
    for store in stores:
        preprocessing = store.recipe.fields.get("preprocessing")
        if isinstance(preprocessing, Mapping) and preprocessing.get("latent") == "sample":
            raise SourceError(
                f"{store.path}: was made with extraction.latent=sample, and the UNet cannot be "
                "trained live from it; train on its features (train.injection.sites=none), or "
                "precompute another store with extraction.latent=mean"
            )
