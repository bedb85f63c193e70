"""The one question a trainer asks: does anything in front of the head learn?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cache import FeatureStore, Recipe
from heads.sources.base import FeatureSource, SourceError
from heads.sources.cached import CachedFeatures
from heads.sources.finetuned import FinetunedFeatures
from heads.sources.live import LiveFeatures, LiveOptions, trained_sites
from pipeline.networks.backbone import Backbone
from pipeline.networks.injection import Injection


def choose_source(
    stores: Sequence[FeatureStore],
    arrays: Sequence[str],
    injection: Injection | str | None,
    load: Callable[[], Backbone],
    device: torch.device,
    recipe: Recipe | None = None,
    live: LiveOptions = LiveOptions(),
    finetune: bool = False,
) -> tuple[FeatureSource, str]:
    """The source that training needs, and one line for the log that says which and why.

    One question decides: does any injection parameter require a gradient? The baseline that
    fine-tunes the UNet itself is asked for by name.

    Args:
        stores: where the images are; all of one recipe.
        arrays: what is wanted of each image.
        injection: what is injected: None for plain SD. Cached features must have been made with
            just this one; for them alone what their recipe records of it will do.
        load: loads the backbone; not called for the cached source.
        device: where cached maps go. Computed ones are on the backbone's device.
        recipe: what the stores must have been made with, injection aside.
        live: how the UNet runs, where it does.
        finetune: the UNet's own parameters learn; there must be no injection.

    Raises:
        RecipeMismatch: a store was made with something else.
        StoreError: a store lacks an array, or two stores mean different images by one id.
        SourceError: see `LiveFeatures` and `FinetunedFeatures`; or there is an injection to
            fine-tune with.
    """
    places = ", ".join(str(store.path) for store in stores)
    if finetune:
        if injection is not None:
            raise SourceError("fine-tuning the UNet goes without an injection; leave one of them")
        return FinetunedFeatures(stores, arrays, load(), recipe, live), (
            f"features: fine-tuned, the UNet on latents of {places}: its own parameters learn"
        )
    trained = trained_sites(injection) if isinstance(injection, Injection) else ()
    if isinstance(injection, Injection) and trained:
        computed = LiveFeatures(stores, arrays, load(), injection, recipe, live)
        return computed, (
            f"features: live, the UNet on latents and CLIP tokens of {places}: "
            f"injection at {', '.join(trained)} requires gradients; {computed.start}"
        )
    if stores:
        recipe = recipe or stores[0].recipe
        if injection is not None or "injection" in recipe.fields:
            # A random injection is named in the recipe, not hashed.
            digest = injection.digest() if isinstance(injection, Injection) else injection
            recipe = recipe.updated({"injection": digest})
    return CachedFeatures(stores, arrays, device, recipe), (
        f"features: cached in {places}: no injection parameter requires a gradient, "
        "so the backbone is not loaded"
    )
