"""Feature maps computed with gradients, for training the injection.

The UNet starts from stored latents and CLIP tokens, never from pixels. What it computes before
the first trained site can be kept in memory; prefixes in a store are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cache import FeatureStore, Recipe, StoreError
from heads.sources.cached import CachedFeatures
from pipeline.arrays import CLIP_TOKENS, LATENT, feature_geometry, layer_array
from pipeline.backbone import Backbone
from pipeline.injection import Injection, adder
from pipeline.noise import add_noise, draw_noise
from pipeline.unet import LAYER_SITE, Inject, Prefix, advance, begin, block_sequence, unused_skips

_SD_ARRAY = re.compile(r"sd/t(\d+)/(\w+)")


class SourceError(ValueError):
    """Live features that cannot be what was asked for."""


@dataclass(frozen=True)
class LiveOptions:
    """How the live source computes; only the first changes a number."""

    fresh_noise: bool = False
    """New noise at every call, one draw from torch's CPU generator, instead of the recipe's."""
    checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it."""
    prefix_bytes: int = 0
    """Memory for what precedes the first trained site, of as many images as fit."""

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


class LiveFeatures:
    """Runs the UNet with a trainable injection on stored latents and CLIP tokens.

    With the recipe's noise and a backbone that computes in the recipe's precision, the maps are
    those that a precompute with the same injection writes, up to the rounding of stored CLIP
    tokens. Which sites are trained is read once, here. The UNet stays frozen, and everything up
    to and including the block of the first trained site runs without gradients.

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
        computed = {name: match for name in arrays if (match := _SD_ARRAY.fullmatch(name))}
        stored = [name for name in arrays if name not in computed]
        if stores:
            asked = dict((recipe or stores[0].recipe).fields)
            # Latents and CLIP tokens do not depend on it.
            asked["injection"] = stores[0].recipe.fields.get("injection")
            recipe = Recipe({**asked, **backbone.digests})
        inputs = dict.fromkeys((LATENT, CLIP_TOKENS, *stored))
        self._stored = CachedFeatures(stores, list(inputs), backbone.device, recipe)
        self.recipe = stores[0].recipe
        self.arrays = tuple(arrays)
        self.ids = self._stored.ids
        self.backbone = backbone
        self.injection = injection.to(backbone.device)
        self.options = options

        self._timesteps = sorted({int(match[1]) for match in computed.values()})
        self._layers = sorted({match[2] for match in computed.values()})
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: self._layer_shape(computed[name][2])
            if name in computed
            else self._stored.shapes[name]
            for name in self.arrays
        }
        self._blocks = block_sequence(backbone.unet)
        reached = [self._blocks.index(LAYER_SITE[layer]) for layer in self._layers]
        trained = sorted(trained_sites(injection), key=self._blocks.index)
        if not trained:
            raise SourceError("no injection parameter requires a gradient: read the cache instead")
        self._first = trained[0]
        self._end = max(reached, default=-1) + 1
        if self._blocks.index(trained[-1]) >= self._end:
            raise SourceError(
                f"injection at {trained[-1]} is trained, but no layer asked for "
                f"({', '.join(self._layers) or 'none'}) comes from it or after it"
            )
        backbone.check_timesteps(self._timesteps)
        self._memory = _Memory(options.prefix_bytes)

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """See `FeatureSource.maps`; differentiable in the trained sites' parameters."""
        found = self._stored.maps(ids)
        z0 = found[LATENT]
        projected = {
            site: value.to(self.backbone.dtype)
            for site, value in self.injection.project(found[CLIP_TOKENS]).items()
        }
        for timestep in self._timesteps:
            features = self._average_draws(ids, z0, timestep, projected)
            found |= {layer_array(timestep, layer): value for layer, value in features.items()}
        return {name: found[name] for name in self.arrays}

    def _average_draws(
        self, ids: Sequence[str], z0: Tensor, timestep: int, projected: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Float32 features [B, C, h, w] by layer: the mean over the recipe's noise draws."""
        n_draws = 1 if self.options.fresh_noise else self._recipe_number("ensemble")
        sums: dict[str, Tensor] = {}
        for draw in range(n_draws):
            start = self._start(ids, z0, timestep, draw, projected)
            for layer, value in self._finish(start, z0, timestep, projected).items():
                sums[layer] = sums[layer] + value.float() if layer in sums else value.float()
        return {layer: total / n_draws for layer, total in sums.items()}

    @torch.no_grad()
    def _start(
        self,
        ids: Sequence[str],
        z0: Tensor,
        timestep: int,
        draw: int,
        projected: Mapping[str, Tensor],
    ) -> _Start:
        """The constant part of a batch, from memory as far as it is there."""
        if not self.options.prefix_bytes:
            return self._compute_start(ids, z0, timestep, draw, adder(projected))
        keys = [(image_id, timestep, draw) for image_id in ids]
        missing = [row for row, key in enumerate(keys) if key not in self._memory]
        computed: dict[int, _Start] = {}
        if missing:
            images = [ids[row] for row in missing]
            inject = adder(projected, missing)
            batch = self._compute_start(images, z0[missing], timestep, draw, inject)
            for position, row in enumerate(missing):
                computed[row] = {name: t[position : position + 1] for name, t in batch.items()}
                self._memory.keep(keys[row], computed[row])
        rows = [
            computed[row] if row in computed else self._memory[keys[row]] for row in range(len(ids))
        ]
        return {
            name: torch.cat([row[name].to(self.backbone.device) for row in rows])
            for name in rows[0]
        }

    def _compute_start(
        self, ids: Sequence[str], z0: Tensor, timestep: int, draw: int, inject: Inject
    ) -> _Start:
        if self.options.fresh_noise:
            noise = torch.randn(z0.shape)
        else:
            seed, shape = self._recipe_number("seed"), tuple(z0.shape[1:])
            noise = torch.stack(
                [draw_noise(shape, seed, self._stored.sha256(i), timestep, draw) for i in ids]
            )
        unet = self.backbone.unet
        z_t = add_noise(z0, noise.to(z0.device), self.backbone.alphas_cumprod[timestep])
        features, state = advance(
            unet,
            begin(unet, z_t.to(self.backbone.dtype)),
            timestep,
            self.backbone.null_prompt,
            layers=self._layers,
            until=self._after(self._first),
            # The first trained site's block has run when this stops; its injection has not.
            inject=lambda site, hidden: hidden if site == self._first else inject(site, hidden),
        )
        # A down block's output is its last skip as well; injection will replace both.
        n_skips = len(state.skips) - self._first.startswith("down")
        skips = enumerate(state.skips[unused_skips(unet) : n_skips])
        return {**features, _HIDDEN: state.hidden, **{f"{_SKIP}{i}": skip for i, skip in skips}}

    def _finish(
        self, start: _Start, z0: Tensor, timestep: int, projected: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Features [B, C, h, w] by layer: from the first trained site on, with gradients."""
        unet, inject = self.backbone.unet, adder(projected)
        hidden = inject(self._first, start[_HIDDEN])
        features = {layer: start[layer] for layer in self._layers if layer in start}
        features |= {x: hidden for x in self._layers if LAYER_SITE[x] == self._first}
        # Of the oldest skips, for a block that never runs, only the size is ever looked at.
        stand_in = hidden.new_zeros(()).expand(len(hidden), 1, *z0.shape[-2:])
        skips = [stand_in] * unused_skips(unet)
        skips += [skip for name, skip in start.items() if name.startswith(_SKIP)]
        if self._first.startswith("down"):
            skips.append(hidden)
        state = Prefix(self._after(self._first), hidden, tuple(skips))
        while self._blocks.index(state.site) < self._end:
            run_block = partial(
                advance,
                unet,
                state,
                timestep,
                self.backbone.null_prompt,
                layers=self._layers,
                until=self._after(state.site),
                inject=inject,
            )
            if self.options.checkpointing:
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

    def _after(self, block: str) -> str:
        return self._blocks[self._blocks.index(block) + 1]

    def _layer_shape(self, layer: str) -> tuple[int, int, int]:
        """Channels, height and width of a layer's maps."""
        backbone = self.backbone
        resolution = self._recipe_number("resolution")
        geometry = feature_geometry(
            backbone.unet, backbone.vae, resolution, backbone.clip.tokens, backbone.clip.embedding
        )
        if layer not in geometry.layers:
            raise SourceError(f"no layer {layer}: this UNet has {', '.join(geometry.layers)}")
        return geometry.layers[layer]


_Start = dict[str, Tensor]
"""Where the UNet stands when it first meets a trained site, that site's injection still to come:
`hidden`, `skip.0`, … (those still used, oldest first), and by name the layers already there."""
_HIDDEN = "hidden"
_SKIP = "skip."


class _Memory:
    """Keeps what fits and never lets go: in shuffled epochs every image kept is a hit."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self._starts: dict[tuple[str, int, int], _Start] = {}

    def __contains__(self, key: tuple[str, int, int]) -> bool:
        return key in self._starts

    def __getitem__(self, key: tuple[str, int, int]) -> _Start:
        return self._starts[key]

    def keep(self, key: tuple[str, int, int], start: _Start) -> None:
        """Copy to the CPU, if it fits and is not there already."""
        size = sum(tensor.nbytes for tensor in start.values())
        if key not in self._starts and size <= self._left:
            self._left -= size
            self._starts[key] = {name: t.to("cpu", copy=True) for name, t in start.items()}
