"""What a source of feature maps is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from cache import Recipe


class SourceError(ValueError):
    """Computed features that cannot be what was asked for."""


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
    trained: nn.Module | None
    """What learns in front of the head, the injection or the UNet: the maps are differentiable
    in those of its parameters that require a gradient. None where the maps are constant."""

    def expect(self, ids: Sequence[str]) -> None:
        """Say what `maps` will be asked for soon: it may begin to read, and raises nothing."""
        ...

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Float32 [B, C, h, w] (descriptors [B, D]) by array name, on the source's device.

        Raises UnknownImage, NotCommitted, QuarantinedImage or DamagedStore.
        """
        ...
