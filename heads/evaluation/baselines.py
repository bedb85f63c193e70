"""What a trained head is measured against: untrained features, and floors that need no network.

A baseline reads the same stores, or others of the same images, and is evaluated by the same task
on the same images. Untrained descriptors are the maps side by side (`heads.probes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cache import FeatureStore
from configs import Config
from configs.train import Family
from heads.aggregation import Descriptors
from heads.frame import Frame
from heads.probes import Concatenation
from heads.protocols import Score
from heads.sources import CachedFeatures
from heads.tasks import Task
from heads.training.reading import GLOBALS, feature_arrays
from pipeline.datasets.base import Dataset

FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "B-CLIP": ("clip",),
    "B-SD": ("sd",),
    "B-SD+CLIP": ("clip", "sd"),
    "B-DINO": ("dino",),
    "B-DINOv2": ("dino",),
}
"""What each baseline of the paper reads."""


@dataclass(frozen=True)
class Baseline:
    """A baseline that some of the stores can give."""

    name: str
    stores: tuple[FeatureStore, ...]
    arrays: tuple[str, ...]


def find_baselines(
    config: Config, stores: Sequence[FeatureStore], images: Sequence[str]
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines that stores give of all these images, and why the others are missing.

    Layers made with an injection are no plain SD, so B-SD needs a store without one. Where two
    stores mean different pictures by one id, the first of them is right.
    """
    found, missing = [], {}
    conflicting = _of_other_pictures(stores)
    for name, families in FAMILIES.items():
        timesteps = config.train.timesteps or config.extraction.timesteps
        layers = config.train.layers or config.extraction.layers
        arrays = feature_arrays(families, timesteps, layers)
        giving = [store for store in stores if _gives(store, name, families, arrays)]
        able = _of_one_recipe([store for store in giving if store not in conflicting])
        complete = [group for group in able if _have_all(group, arrays, images)]
        if complete:
            found.append(Baseline(name, tuple(complete[0]), tuple(arrays)))
        elif able:
            missing[name] = "its store lacks some of the images"
        elif giving:
            missing[name] = "its store has other pictures under the same names"
        else:
            missing[name] = _WHY[families[-1]]
    return found, missing


_WHY: Mapping[Family, str] = {
    "clip": "no store with clip/tokens",
    "sd": "no store of plain SD; give one with --cache",
    "dino": "no store of it; precompute one with backbone dino or dinov2 and give it with --cache",
}


def score_baseline(baseline: Baseline, task: Task[Any, Any], device: torch.device) -> Score:
    """The untrained baseline's score on the test part; thresholds and class means are fitted on
    the training part."""
    globals_of = {
        name: GLOBALS[name]
        for name in baseline.arrays
        if name in GLOBALS
        and not task.compares_cells
        and all(GLOBALS[name] in store.arrays for store in baseline.stores)
    }
    source = CachedFeatures(baseline.stores, [*baseline.arrays, *globals_of.values()], device)
    head = Concatenation(baseline.arrays, globals_of, task.settings.grid)
    # Another network may have seen another square.
    own = replace(task, frame=Frame.of(source.recipe, task.frame.sizes))

    @torch.no_grad()
    def describe(ids: Sequence[str]) -> Descriptors:
        return head(source.maps(ids))

    return own.score(own.parts.test, describe, None)


def score_floors(task: Task[Any, Any], dataset: Dataset) -> dict[str, Score]:
    """Scores on the test part of what needs no network, by name (docs/protocols.md)."""
    return task.floors(lambda image_id: dataset.decode(image_id, dataset.read(image_id)))


def _of_other_pictures(stores: Sequence[FeatureStore]) -> list[FeatureStore]:
    """The stores that mean another picture by some id than a store before them."""
    pictures: dict[str, str] = {}
    others = []
    for store in stores:
        own = {image.id: image.sha256 for image in store.images}
        if any(pictures.get(name, sha256) != sha256 for name, sha256 in own.items()):
            others.append(store)
        else:
            pictures |= own
    return others


def _of_one_recipe(stores: Sequence[FeatureStore]) -> list[list[FeatureStore]]:
    """Stores that can be read together, in groups; not by fingerprint, of which one recipe may
    have several."""
    groups: list[list[FeatureStore]] = []
    for store in stores:
        for group in groups:
            if not group[0].recipe.differences(store.recipe):
                group.append(store)
                break
        else:
            groups.append([store])
    return groups


def _gives(
    store: FeatureStore, name: str, families: Sequence[Family], arrays: Sequence[str]
) -> bool:
    if not all(array in store.arrays for array in arrays):
        return False
    if "sd" in families and store.recipe.fields.get("injection") is not None:
        return False
    if "dino" in families:
        return _dino(store) == name
    return True


def _dino(store: FeatureStore) -> str | None:
    """Which DINO a store of one vision transformer says it is of; None for any other network."""
    backbone = store.provenance.get("backbone")
    if not isinstance(backbone, Mapping):
        return None
    timm = backbone.get("timm")
    model = timm.get("model") if isinstance(timm, Mapping) else None
    # A model of one's own is a path that may say nothing; its configuration has a name too.
    for said in (model, backbone.get("name")):
        versions = re.findall(r"dino(v\d+)?", str(said).lower())
        if versions:
            return f"B-DINO{versions[-1]}"
    return None


def _have_all(stores: Sequence[FeatureStore], arrays: Sequence[str], images: Sequence[str]) -> bool:
    there = {image_id for store in stores for image_id in store.readable(arrays)}
    return there.issuperset(images)
