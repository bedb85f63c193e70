"""What a source of feature maps is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from cache import Recipe


class FeatureSource(Protocol):
    """Gives the feature maps of images by their ids."""

    arrays: tuple[str, ...]
    """Names of what `maps` gives."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape per image, by array name."""
    ids: tuple[str, ...]
    """Every image it has, in the order of the stores and their rows."""
    recipe: Recipe
    """What the stores that are read were made with."""

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Float32 [B, C, h, w] (descriptors [B, D]) by array name, on the source's device.

        Raises UnknownImage, NotCommitted, QuarantinedImage or DamagedStore.
        """
        ...
