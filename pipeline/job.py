"""A configuration with its networks loaded: all that is needed to compute shards."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import open_clip
import torch

from cache import ArraySpec, Recipe
from configs import Config
from pipeline.arrays import array_specs, feature_geometry, make_recipe
from pipeline.backbone import load_backbone
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset
from pipeline.extract import Extractor, auto_batch_size
from pipeline.injection import load_injection


@dataclass(frozen=True)
class Job:
    """What one process needs to compute any shard of a store."""

    config: Config
    dataset: Dataset
    extractor: Extractor
    recipe: Recipe
    specs: Sequence[ArraySpec]

    def provenance(self) -> dict[str, Any]:
        """What makes the store but changes no number; it is recorded beside the recipe."""
        return {
            "backbone": self.config.backbone.model_dump(mode="json"),
            "dataset": self.config.dataset.name,
            "device": str(self.extractor.backbone.device),
            "batch_size": self.extractor.batch_size,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "open_clip": open_clip.__version__,
        }


def load_job(config: Config) -> Job:
    """Load the networks and work out recipe and arrays.

    Raises BackboneError, DatasetError or InjectionError.
    """
    dataset = open_configured(config)
    extraction, resolution = config.extraction, config.backbone.resolution
    backbone = load_backbone(config.backbone, extraction.device, extraction.precision)
    backbone.check_timesteps(extraction.timesteps)
    injection = None
    if extraction.injection is not None:
        injection = load_injection(extraction.injection, backbone.clip.width, backbone.channels)
    geometry = feature_geometry(
        backbone.unet, backbone.vae, resolution, backbone.clip.tokens, backbone.clip.embedding
    )
    batch_size = extraction.batch_size
    if batch_size == "auto":
        batch_size = auto_batch_size(backbone.device, resolution)
    return Job(
        config=config,
        dataset=dataset,
        extractor=Extractor(backbone, extraction, injection, batch_size),
        recipe=make_recipe(
            backbone.digests, resolution, extraction, injection.digest() if injection else None
        ),
        specs=array_specs(geometry, extraction),
    )


def open_configured(config: Config) -> Dataset:
    """The dataset a configuration names. Raises DatasetError."""
    dataset = config.dataset
    return open_dataset(dataset.name, dataset.root, dataset.limit, **dataset.options())
