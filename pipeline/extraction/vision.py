"""The arrays of a timm backbone: a token map and a descriptor, for B-DINO and B-DINOv2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cache import ArraySpec, Recipe
from configs import ExtractionConfig
from pipeline.extraction.arrays import make_recipe, optional_input
from pipeline.extraction.extract import BoundedExtractor, Computing
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.vision import VisionGeometry, VisionTower

DINO_TOKENS = "dino/tokens"
DINO_POOLED = "dino/pooled"


class VisionExtractor(BoundedExtractor):
    """Computes `dino/tokens` and `dino/pooled` of batches of images, in bounded memory.

    Args:
        tower: the frozen transformer.
        batch_size: images in one pass; halved, for good, whenever the device's memory is full.
    """

    def __init__(self, tower: VisionTower, batch_size: int) -> None:
        super().__init__(tower.device, batch_size)
        self.tower = tower

    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """As for every extractor; the content hashes matter only to noise, and there is none."""

        def compute(part: slice) -> dict[str, Tensor]:
            pixels = torch.from_numpy(np.ascontiguousarray(squares[part]))
            tokens, pooled = self.tower.encode(pixels)
            found = {DINO_TOKENS: tokens, DINO_POOLED: pooled}
            return {name: found[name] for name in arrays}

        return self._in_passes(len(squares), compute)


def check_extraction(extraction: ExtractionConfig) -> None:
    """Raise BackboneError if an extraction asks for a UNet, a VAE or CLIP: an injection, a prefix
    or another input for one of them.

    Timesteps, layers, seed and ensemble say nothing about a timm backbone.
    """
    for key in ("injection", "prefix"):
        if getattr(extraction, key) is not None:
            raise BackboneError(
                f"extraction.{key}: a timm backbone has no UNet; set it to null, "
                "or choose a backbone with sd and clip"
            )
    for key in optional_input(extraction):
        raise BackboneError(
            f"extraction.{key}: a timm backbone has neither VAE nor CLIP; leave it out, "
            "or choose a backbone with sd and clip"
        )


def vision_specs(geometry: VisionGeometry, extraction: ExtractionConfig) -> list[ArraySpec]:
    """The arrays of a timm backbone; the descriptor is always float32. Raises as above."""
    check_extraction(extraction)
    return [
        ArraySpec(DINO_TOKENS, geometry.tokens, extraction.store_dtype),
        ArraySpec(DINO_POOLED, (geometry.pooled,), "float32"),
    ]


def vision_recipe(
    digest: str, resolution: int, extraction: ExtractionConfig, aliases: Sequence[str] = ()
) -> Recipe:
    """Everything that changes a number of a timm backbone: nothing of noise is in it.

    `aliases` are digests that older stores may hold in place of `digest`.
    """
    fields = make_recipe({"vision": digest}, resolution, extraction, None).fields
    matters = ("vision", "resolution", "preprocessing", "precision", "store_dtype")
    return Recipe({key: fields[key] for key in matters}, {"vision": aliases})
