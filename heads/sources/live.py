"""Feature maps computed with gradients, for training the injection.

The UNet starts from stored latents and CLIP tokens, never from pixels. What it computes before
the first trained site is constant: it comes from the stores, where they hold that prefix, or is
kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache import FeatureStore, Recipe
from heads.sources.base import SourceError
from heads.sources.computed import ComputedFeatures, Features
from heads.sources.prefixes import Memory, Start, StoredPrefixes
from pipeline.extraction.arrays import CLIP_TOKENS, LATENT
from pipeline.networks.backbone import Backbone
from pipeline.networks.injection import Injection, adder
from pipeline.networks.prefix import inject_at, pack, run_to_site, site_digests, unpack
from pipeline.networks.transfer import to_device
from pipeline.networks.unet import LAYER_SITE


@dataclass(frozen=True)
class LiveOptions:
    """How the UNet runs in front of a head; only the first changes a number."""

    fresh_noise: bool = False
    """New noise at every call, one draw from torch's CPU generator, instead of the recipe's."""
    checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it."""
    prefix_bytes: int = 0
    """Memory for what precedes the first trained site, of as many images as fit and of which no
    store holds it."""

    def __post_init__(self) -> None:
        if self.fresh_noise and self.prefix_bytes:
            raise SourceError("prefix_bytes: with fresh noise no prefix is ever used again; set 0")


def trained_sites(injection: Injection) -> tuple[str, ...]:
    """The injection's sites of which a parameter requires a gradient."""
    return tuple(
        site
        for site in injection.sites
        if any(parameter.requires_grad for parameter in injection[site].parameters())
    )


class LiveFeatures(ComputedFeatures):
    """Runs the UNet with a trainable injection on stored latents and CLIP tokens.

    With the recipe's noise and a backbone that computes in the recipe's precision, the maps are
    those that a precompute with the same injection writes, up to the rounding of what is stored.
    Which sites are trained is read once, here, and so are the weights of the sites before them.
    The UNet stays frozen, and everything up to and including the block of the first trained site
    runs without gradients, or not at all where a store holds the prefix at that site.

    Args:
        stores: stores with `vae/latent` and `clip/tokens`, of one recipe. With which injection
            their own layers were made does not matter.
        arrays: `sd/t{timestep}/{layer}` are computed, all others are read from the stores.
        backbone: the networks that the stores were made with.
        injection: at least one parameter requires a gradient; moved to the backbone's device.
        recipe: what the stores must have been made with, injection aside; None is the first's.
        options: see `LiveOptions`.

    Raises:
        RecipeMismatch: the stores were made with other networks or another recipe.
        StoreError: a store lacks an array.
        SourceError: nothing is trained, a trained site lies behind every layer asked for, or a
            layer does not exist.
        BackboneError: a timestep does not exist.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        arrays: Sequence[str],
        backbone: Backbone,
        injection: Injection,
        recipe: Recipe | None = None,
        options: LiveOptions = LiveOptions(),
    ) -> None:
        super().__init__(
            stores,
            arrays,
            backbone,
            [CLIP_TOKENS],
            recipe,
            options.fresh_noise,
            options.checkpointing,
        )
        self.injection = injection.to(backbone.device)
        self.trained: nn.Module | None = self.injection
        self.options = options
        trained = sorted(trained_sites(injection), key=self._blocks.index)
        if not trained:
            raise SourceError("no injection parameter requires a gradient: read the cache instead")
        self._first = trained[0]
        if self._blocks.index(trained[-1]) >= self._end:
            raise SourceError(
                f"injection at {trained[-1]} is trained, but no layer asked for "
                f"({', '.join(self._layers) or 'none'}) comes from it or after it"
            )
        self._memory = Memory(options.prefix_bytes)
        self._prefixes = self._stored_prefixes(stores)
        self.start = "it starts at the latents: fresh noise has no stored prefix"
        """Where the UNet starts, in words for the log."""
        if self._prefixes is not None:
            self.start = self._prefixes.describe(self.ids, self._timesteps)

    def _stored_prefixes(self, stores: Sequence[FeatureStore]) -> StoredPrefixes | None:
        if self.options.fresh_noise:
            return None
        before = self._blocks[: self._blocks.index(self._first)]
        digests = site_digests(self.injection)
        return StoredPrefixes(
            stores,
            self._first,
            parts=list(self._geometry.prefixes[self._first]),
            layers=[layer for layer in self._layers if LAYER_SITE[layer] in before],
            timesteps=self._timesteps,
            n_draws=self._n_draws,
            before={site: digest for site, digest in digests.items() if site in before},
            possible=before,
            device=self.backbone.device,
            dtype=self.backbone.dtype,
        )

    def expect(self, ids: Sequence[str]) -> None:
        """See `FeatureSource.expect`."""
        super().expect(ids)
        if self._prefixes is not None:
            self._prefixes.expect(ids)

    def _prepare(
        self, ids: Sequence[str], stored: Mapping[str, Tensor]
    ) -> Callable[[int, int], Features]:
        z0 = stored[LATENT]
        projected = {
            site: value.to(self.backbone.dtype)
            for site, value in self.injection.project(stored[CLIP_TOKENS]).items()
        }

        def compute(timestep: int, draw: int) -> Features:
            start = self._start(ids, z0, timestep, draw, projected)
            return self._finish(start, z0, timestep, projected)

        return compute

    @torch.no_grad()
    def _start(
        self,
        ids: Sequence[str],
        z0: Tensor,
        timestep: int,
        draw: int,
        projected: Mapping[str, Tensor],
    ) -> Start:
        """The constant part of a batch: from stores, else from memory, else computed."""
        keys = [(image_id, timestep, draw) for image_id in ids]
        stored, remembered, missing = [], [], []
        for row, key in enumerate(keys):
            if self._prefixes is not None and key in self._prefixes:
                stored.append(row)
            elif key in self._memory:
                remembered.append(row)
            else:
                missing.append(row)
        parts: list[Start] = []
        if stored and self._prefixes is not None:
            parts.append(self._prefixes.read([ids[row] for row in stored], timestep, draw))
        if remembered:
            where = [keys[row] for row in remembered]
            parts.append(self._memory.read(where, self.backbone.device))
        if missing:
            images = [ids[row] for row in missing]
            computed = self._compute_start(images, z0, timestep, draw, projected, missing)
            self._memory.keep([keys[row] for row in missing], computed)
            parts.append(computed)
        if len(parts) == 1:
            return parts[0]
        order = to_device(
            torch.tensor([*stored, *remembered, *missing]).argsort(), self.backbone.device
        )
        return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}

    def _compute_start(
        self,
        ids: Sequence[str],
        z0: Tensor,
        timestep: int,
        draw: int,
        projected: Mapping[str, Tensor],
        rows: Sequence[int],
    ) -> Start:
        """The same for some rows of the batch, from their latents."""
        some = None if len(rows) == len(z0) else rows
        unet = self.backbone.unet
        features, state = run_to_site(
            unet,
            self._noisy(ids, z0 if some is None else z0[some], timestep, draw),
            timestep,
            self.backbone.null_prompt,
            self._first,
            self._layers,
            adder(projected, some),
        )
        passed = {layer: value.float() for layer, value in features.items()}
        return passed | pack(unet, self._first, state)

    def _finish(
        self, start: Start, z0: Tensor, timestep: int, projected: Mapping[str, Tensor]
    ) -> Features:
        """Features [B, C, h, w] by layer: from the first trained site on, with gradients."""
        inject = adder(projected)
        state = unpack(self.backbone.unet, self._first, start, z0.shape[-2:])
        state = inject_at(self._first, state, inject)
        features = {layer: start[layer] for layer in self._layers if layer in start}
        features |= {x: state.hidden for x in self._layers if LAYER_SITE[x] == self._first}
        return features | self._run(state, timestep, inject)
