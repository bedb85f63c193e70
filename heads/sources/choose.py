"""The one question a trainer asks: does any injection parameter require a gradient?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cache import FeatureStore, Recipe
from heads.sources.base import FeatureSource
from heads.sources.cached import CachedFeatures
from heads.sources.live import LiveFeatures, LiveOptions, trained_sites
from pipeline.backbone import Backbone
from pipeline.injection import Injection


def choose_source(
    stores: Sequence[FeatureStore],
    arrays: Sequence[str],
    injection: Injection | None,
    load: Callable[[], Backbone],
    device: torch.device,
    recipe: Recipe | None = None,
    live: LiveOptions = LiveOptions(),
) -> tuple[FeatureSource, str]:
    """The source that training needs, and one line for the log that says which and why.

    One question decides: does any injection parameter require a gradient?

    Args:
        stores: where the images are; all of one recipe.
        arrays: what is wanted of each image.
        injection: what is injected: None for plain SD. Cached features must have been made with
            just this one.
        load: loads the backbone; called for the live source only.
        device: where cached maps go. Live ones are on the backbone's device.
        recipe: what the stores must have been made with, injection aside.
        live: how the live source computes.

    Raises:
        RecipeMismatch: a store was made with something else.
        StoreError: a store lacks an array, or two stores mean different images by one id.
        SourceError: see `LiveFeatures`.
    """
    places = ", ".join(str(store.path) for store in stores)
    trained = trained_sites(injection) if injection is not None else ()
    if injection is not None and trained:
        computed = LiveFeatures(stores, arrays, load(), injection, recipe, live)
        return computed, (
            f"features: live, the UNet on latents and CLIP tokens of {places}: "
            f"injection at {', '.join(trained)} requires gradients"
        )
    if stores:
        asked = dict((recipe or stores[0].recipe).fields)
        if injection is not None or "injection" in asked:
            asked["injection"] = None if injection is None else injection.digest()
        recipe = Recipe(asked)
    return CachedFeatures(stores, arrays, device, recipe), (
        f"features: cached in {places}: no injection parameter requires a gradient, "
        "so the backbone is not loaded"
    )
