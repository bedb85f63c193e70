"""Which arrays a head reads, and which stores fit a configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache import FeatureStore, Recipe, RecipeMismatch, StoreError, StorePath, list_stores
from configs import Config
from configs.train import Family
from heads.protocols.base import Images
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.extraction.arrays import (
    CLIP_POOLED,
    CLIP_TOKENS,
    OPTIONAL_INPUT,
    layer_array,
    optional_input,
)
from pipeline.extraction.vision import DINO_POOLED, DINO_TOKENS
from pipeline.networks.injection import recorded_injection

STORES = Path("stores")
"""Where stores are looked for that nobody named."""

GLOBALS = {CLIP_TOKENS: CLIP_POOLED, DINO_TOKENS: DINO_POOLED}
"""Token maps whose network has a global descriptor of its own."""

N_CHECKED = 8
"""Pictures of each store that are compared with the dataset's; reading all would take longer than
a training."""


def feature_arrays(
    families: Sequence[Family], timesteps: Sequence[int], layers: Sequence[str]
) -> list[str]:
    """Names of the maps of some families."""
    maps = {
        "sd": [layer_array(timestep, layer) for timestep in timesteps for layer in layers],
        "clip": [CLIP_TOKENS],
        "clip_pooled": [CLIP_POOLED],
        "dino": [DINO_TOKENS],
        "dino_pooled": [DINO_POOLED],
    }
    return [name for family in families for name in maps[family]]


def configured_arrays(config: Config) -> list[str]:
    """Names of the maps that `train.features`, `layers` and `timesteps` choose.

    Raises StoreError for a layer or timestep that the extraction does not have.
    """
    train, extraction = config.train, config.extraction
    for key in ("timesteps", "layers"):
        chosen, there = getattr(train, key), getattr(extraction, key)
        strangers = set(chosen or ()) - set(there)
        if strangers:
            raise StoreError(
                f"train.{key}: {min(strangers)} is not among extraction.{key} "
                f"({', '.join(map(str, there))})"
            )
    return feature_arrays(
        train.features, train.timesteps or extraction.timesteps, train.layers or extraction.layers
    )


def open_stores(
    config: Config, caches: Sequence[str | StorePath], ids: Sequence[str], arrays: Sequence[str]
) -> list[FeatureStore]:
    """The stores to read: those given, else `train.caches`, else what fits under stores/.

    Args:
        ids: the dataset's images, some of which a store found must have.
        arrays: what every store must hold.

    Raises:
        RecipeMismatch: a store was not made as the configuration says; the fields are named.
        StoreError: none fits, or several that differ.
    """
    named = list(caches) or list(config.train.caches)
    if not named:
        return _find(config, ids, arrays)
    stores = [FeatureStore.open(path) for path in named]
    for store in stores:
        differences = _differences(store, config)
        if differences:
            raise RecipeMismatch(
                f"{store.path}: not made as the configuration says ({'; '.join(differences)}); "
                "set these keys, or precompute another store"
            )
        missing = [name for name in arrays if name not in store.arrays]
        if missing:
            raise StoreError(
                f"{store.path}: has no {', '.join(missing)} (it holds {', '.join(store.arrays)}); "
                "precompute them into it, or choose others by extraction.timesteps, "
                "extraction.layers or train.features"
            )
    return stores


def image_sizes(stores: Sequence[FeatureStore], ids: Sequence[str]) -> Images:
    """Width and height in pixels of images, by id."""
    sizes = {
        record.id: (record.width, record.height)
        for store in stores
        for record in store.images
        if record.width and record.height
    }
    return {image_id: sizes[image_id] for image_id in ids if image_id in sizes}


def check_pictures(dataset: Dataset, stores: Sequence[FeatureStore]) -> None:
    """Raise StoreError where a store's pictures are others than the dataset's of those names.

    Looks at some of them. Those that cannot be read any more are not needed and pass.
    """
    ids = set(dataset.ids)
    for store in stores:
        # One that could not be read may be whole by now; the store has nothing of it.
        known = ids - store.quarantined.keys()
        shared = [image for image in store.images if image.id in known]
        for image in shared[:: max(1, len(shared) // N_CHECKED)]:
            try:
                found = hashlib.sha256(dataset.read(image.id)).hexdigest()
            except (OSError, DatasetError):
                continue
            if found != image.sha256:
                raise _other_picture(store, image.id, "of that name in the dataset")


def check_same_pictures(stores: Sequence[FeatureStore]) -> None:
    """Raise StoreError where stores, of whatever recipes, mean different pictures by one id."""
    known: dict[str, str] = {}
    for store in stores:
        for image in store.images:
            if known.setdefault(image.id, image.sha256) != image.sha256:
                raise _other_picture(store, image.id, "of that name in a store before it")


def _other_picture(store: FeatureStore, image_id: str, than: str) -> StoreError:
    return StoreError(
        f"{store.path}: {image_id} is another picture than the one {than}; name a store of these "
        "pictures"
    )


def _find(config: Config, ids: Sequence[str], arrays: Sequence[str]) -> list[FeatureStore]:
    """The one store under stores/ that fits."""
    known = set(ids)
    found = []
    for entry in list_stores(STORES).stores if STORES.is_dir() else ():
        store = FeatureStore.open(entry.path)
        fits = (
            not _differences(store, config)
            and all(name in store.arrays for name in arrays)
            and not known.isdisjoint(store.ids)
        )
        if fits:
            found.append(store)
    if not found:
        raise StoreError(
            f"no store under {STORES}/ has {', '.join(arrays)} of these images as the "
            "configuration says; run `sketchfusion precompute` on it first, or name a store "
            "with --cache"
        )
    if len(found) > 1:
        paths = ", ".join(str(store.path) for store in found)
        raise StoreError(f"several stores fit ({paths}); choose with --cache")
    return found


def _differences(store: FeatureStore, config: Config) -> list[str]:
    """Fields in which a store was not made as the configuration says.

    Digests are not compared: a cached store is read without the networks, and live training
    compares them itself.
    """
    extraction, fields = config.extraction, store.recipe.fields
    live = bool(config.train.injection.sites) or config.train.finetune
    asked: dict[str, Any] = {
        "resolution": config.backbone.resolution,
        "seed": extraction.seed,
        "ensemble": extraction.ensemble,
        "precision": extraction.precision,
        "store_dtype": extraction.store_dtype,
    }
    if not live:
        # Live training starts from latents, whatever was injected into the store's layers.
        asked["injection"] = recorded_injection(extraction)
    asked = {name: value for name, value in asked.items() if name in fields}
    preprocessing = fields.get("preprocessing")
    if isinstance(preprocessing, dict) and "pad" in preprocessing:
        common = {k: value for k, value in preprocessing.items() if k not in OPTIONAL_INPUT}
        asked["preprocessing"] = {**common, "pad": extraction.pad, **optional_input(extraction)}
    differences = Recipe({name: fields[name] for name in asked}).differences(Recipe(asked))
    return differences if live else differences + _other_networks(store, config)


def _other_networks(store: FeatureStore, config: Config) -> list[str]:
    """Networks that the store says it was made with and the configuration names otherwise."""
    made, asked = store.provenance.get("backbone"), config.backbone.model_dump(mode="json")
    if not isinstance(made, Mapping):
        return []
    random = made.get("weights") == asked["weights"] == "random"
    found = []
    for dotted in _ARCHITECTURES if random else (*_ARCHITECTURES, *_WEIGHTS):
        ours, theirs = _at(made, dotted), _at(asked, dotted)
        if not _same_source(ours, theirs):
            found.append(f"backbone.{dotted}: store has {ours}, requested {theirs}")
    return found


_ARCHITECTURES = ("weights", "sd.source", "clip.model", "timm.model")
_WEIGHTS = ("sd.revision", "clip.pretrained", "timm.pretrained")
"""What says nothing of random weights."""


def _at(document: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _same_source(ours: Any, theirs: Any) -> bool:
    """Equal, or paths of which one is the end of the other."""
    if not (isinstance(ours, str) and isinstance(theirs, str)):
        return bool(ours == theirs)
    short, long = sorted((Path(ours).parts, Path(theirs).parts), key=len)
    return long[len(long) - len(short) :] == short
