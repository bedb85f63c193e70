"""Which arrays an extraction produces, their names, shapes and types; and their recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers import AutoencoderKL, UNet2DConditionModel

from cache import ArraySpec, Recipe
from configs import ExtractionConfig
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.prefix import prefix_shapes
from pipeline.networks.unet import LAYER_SITE, site_channels
from pipeline.pictures.strokes import RENDER_SIDE

CLIP_TOKENS = "clip/tokens"
CLIP_POOLED = "clip/pooled"
LATENT = "vae/latent"

OPTIONAL_INPUT = ("clip_input", "vae_pixels", "latent")
"""Keys of `extraction` that a recipe's `preprocessing` holds only if they are not the default, so
that stores made before the keys existed keep their fingerprints."""


@dataclass(frozen=True)
class Geometry:
    """Shapes per image: latent [4, h, w], token map [D, h, w], embedding E, layers [C, h, w].

    `prefixes` holds, by injection site, the shapes [C, h, w] of the parts of a prefix.
    """

    latent: tuple[int, int, int]
    tokens: tuple[int, int, int]
    embedding: int
    layers: Mapping[str, tuple[int, int, int]]
    prefixes: Mapping[str, Mapping[str, tuple[int, int, int]]]


def layer_array(timestep: int, layer: str) -> str:
    """Name of the array that holds one layer at one timestep."""
    return f"sd/t{timestep}/{layer}"


def prefix_array(timestep: int, site: str, draw: int, part: str) -> str:
    """Name of the array that holds one part of the prefix of one noise draw at a site.

    Array names have no dots: at `down.0` they are `prefix/t195/down0/draw0/hidden` and so on.
    """
    return f"prefix/t{timestep}/{site.replace('.', '')}/draw{draw}/{part}"


def feature_geometry(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    resolution: int,
    tokens: tuple[int, int, int],
    embedding: int,
) -> Geometry:
    """Shapes that follow from the architectures and the side of the square in pixels."""
    side = resolution
    for _ in vae.config.block_out_channels[1:]:
        side //= 2
    levels = [side]
    for _ in unet.config.block_out_channels[1:]:
        levels.append((levels[-1] + 1) // 2)
    channels = site_channels(unet)
    layers = {}
    for layer, site in LAYER_SITE.items():
        if site in channels:
            level = levels[-2 - int(site.removeprefix("up."))]
            layers[layer] = (channels[site], level, level)
    latent = (vae.config.latent_channels, side, side)
    return Geometry(latent, tokens, embedding, layers, prefix_shapes(unet, side))


def array_specs(geometry: Geometry, extraction: ExtractionConfig) -> list[ArraySpec]:
    """The arrays of an extraction; latents and descriptors are always float32.

    Raises BackboneError where the UNet lacks the prefix's site.
    """
    maps = [
        ArraySpec(layer_array(timestep, layer), geometry.layers[layer], extraction.store_dtype)
        for timestep in extraction.timesteps
        for layer in extraction.layers
    ]
    return [
        *maps,
        *_prefix_specs(geometry, extraction),
        ArraySpec(CLIP_TOKENS, geometry.tokens, extraction.store_dtype),
        ArraySpec(CLIP_POOLED, (geometry.embedding,), "float32"),
        ArraySpec(LATENT, geometry.latent, "float32"),
    ]


def wanted_layers(arrays: Sequence[str], timestep: int) -> list[str]:
    """The layers of one timestep among array names."""
    prefix = f"sd/t{timestep}/"
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def wants_prefix(arrays: Sequence[str], timestep: int) -> bool:
    """Whether array names hold a prefix of one timestep."""
    return any(name.startswith(f"prefix/t{timestep}/") for name in arrays)


def _prefix_specs(geometry: Geometry, extraction: ExtractionConfig) -> list[ArraySpec]:
    """A prefix belongs to one noise draw: the mean over an ensemble is nowhere the UNet has been.

    A float32 store keeps it exactly. Otherwise it is float16, in an int8 store too: every later
    block builds on it.
    """
    site = extraction.prefix
    if site is None:
        return []
    if site not in geometry.prefixes:
        known = ", ".join(geometry.prefixes)
        raise BackboneError(f"extraction.prefix: this UNet has no site {site}, only {known}")
    dtype = "float32" if extraction.store_dtype == "float32" else "float16"
    return [
        ArraySpec(prefix_array(timestep, site, draw, part), shape, dtype)
        for timestep in extraction.timesteps
        for draw in range(extraction.ensemble)
        for part, shape in geometry.prefixes[site].items()
    ]


def optional_input(extraction: ExtractionConfig) -> dict[str, str]:
    """Those of `OPTIONAL_INPUT` that are not the default, and their values."""
    return {
        key: value
        for key in OPTIONAL_INPUT
        if (value := getattr(extraction, key)) != ExtractionConfig.model_fields[key].default
    }


def make_recipe(
    digests: Mapping[str, str],
    resolution: int,
    extraction: ExtractionConfig,
    injection_digest: str | None,
    clip_activation: str | None = None,
    aliases: Mapping[str, Sequence[str]] = {},
) -> Recipe:
    """Everything that changes a number, and nothing else.

    Args:
        digests: of the networks, by field.
        clip_activation: of CLIP's blocks; None if there is no CLIP.
        aliases: digests that older stores may hold in place of `digests`, by field.
    """
    activation = {} if clip_activation is None else {"clip_activation": clip_activation}
    return Recipe(
        {
            **digests,
            **activation,
            "injection": injection_digest,
            "resolution": resolution,
            "preprocessing": {
                "pad": extraction.pad,
                "resize": "lanczos",
                "drawing_side": RENDER_SIDE,
                **optional_input(extraction),
            },
            "seed": extraction.seed,
            "ensemble": extraction.ensemble,
            "precision": extraction.precision,
            "store_dtype": extraction.store_dtype,
        },
        # Older stores do not spell out the activation: the digest of CLIP includes it.
        {**aliases, **{name: [None] for name in activation}},
    )
