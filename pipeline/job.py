"""A configuration with its networks loaded: all that is needed to compute shards."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import open_clip
import timm
import torch

from cache import ArraySpec, Recipe
from configs import Config
from configs.base import RANDOM
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset
from pipeline.datasets.union import UnionDataset
from pipeline.extraction.arrays import array_specs, feature_geometry, make_recipe
from pipeline.extraction.extract import BaseExtractor, Extractor, auto_batch_size
from pipeline.extraction.vision import (
    VisionExtractor,
    check_extraction,
    vision_recipe,
    vision_specs,
)
from pipeline.machine import processor_name
from pipeline.networks.backbone import load_backbone
from pipeline.networks.injection import configured_injection
from pipeline.networks.prefix import site_digests
from pipeline.networks.tuning import tune
from pipeline.networks.vision import load_vision


@dataclass(frozen=True)
class Networks:
    """What computes the features of any picture as a configuration says."""

    config: Config
    extractor: BaseExtractor
    recipe: Recipe
    specs: Sequence[ArraySpec]
    injection_sites: Mapping[str, str]
    """SHA-256 of each injected site's weights, as they are in the file."""


@dataclass(frozen=True)
class Job(Networks):
    """What one process needs to compute any shard of a store."""

    dataset: Dataset

    def provenance(self) -> dict[str, Any]:
        """What makes the store but changes no number; it is recorded beside the recipe."""
        return {
            "backbone": self.config.backbone.model_dump(mode="json"),
            "dataset": self.config.dataset.name,
            "injection": dict(self.injection_sites),
            "aliases": dict(self.recipe.aliases),
            **self.machine(),
        }

    def machine(self) -> dict[str, Any]:
        """What computes in this process; it is recorded in the commit of each shard."""
        device = self.extractor.device
        is_cuda = device.type == "cuda"
        return {
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if is_cuda else processor_name(),
            "batch_size": self.extractor.batch_size,
            "compile": self.config.extraction.compile,
            "channels_last": self.config.extraction.channels_last,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "open_clip": open_clip.__version__,
            "timm": timm.__version__,
        }


def load_job(config: Config) -> Job:
    """Load the networks and open the dataset.

    Raises BackboneError, DatasetError or InjectionError.
    """
    dataset = open_configured(config)  # Before weights are downloaded.
    return Job(**vars(load_networks(config)), dataset=dataset)


def load_networks(config: Config) -> Networks:
    """Load the networks and work out recipe and arrays. Raises BackboneError or InjectionError."""
    return (_load_sd if config.backbone.timm is None else _load_vision)(config)


def _load_sd(config: Config) -> Networks:
    extraction, resolution = config.extraction, config.backbone.resolution
    backbone = load_backbone(config.backbone, extraction.device, extraction.precision)
    backbone = replace(backbone, vae_pixels=extraction.vae_pixels)
    tune(backbone, extraction)
    backbone.check_timesteps(extraction.timesteps)
    injection = configured_injection(extraction, backbone.clip.width, backbone.channels)
    # Of the weights in the file: the extractor takes them to its own precision.
    injection_digest = injection.digest() if injection else None
    if extraction.injection == RANDOM:
        injection_digest = RANDOM  # It follows from other fields of the recipe.
    injection_sites = site_digests(injection)
    geometry = feature_geometry(
        backbone.unet, backbone.vae, resolution, backbone.clip.tokens, backbone.clip.embedding
    )
    return Networks(
        config=config,
        extractor=Extractor(backbone, extraction, injection, _batch_size(config, backbone.device)),
        recipe=make_recipe(
            backbone.digests,
            resolution,
            extraction,
            injection_digest,
            backbone.clip.activation,
            backbone.aliases,
        ),
        specs=array_specs(geometry, extraction),
        injection_sites=injection_sites,
    )


def _load_vision(config: Config) -> Networks:
    extraction, resolution = config.extraction, config.backbone.resolution
    check_extraction(extraction)  # before anything is downloaded
    tower = load_vision(config.backbone, extraction.device, extraction.precision)
    tune(tower, extraction)
    return Networks(
        config=config,
        extractor=VisionExtractor(tower, _batch_size(config, tower.device)),
        recipe=vision_recipe(tower.digest, resolution, extraction, tower.aliases),
        specs=vision_specs(tower.geometry, extraction),
        injection_sites={},
    )


def _batch_size(config: Config, device: torch.device) -> int:
    size = config.extraction.batch_size
    return auto_batch_size(device, config.backbone.resolution) if size == "auto" else size


def open_configured(config: Config) -> Dataset:
    """The dataset a configuration names, or several as one. Raises DatasetError."""
    first, *further = (
        open_dataset(part.name, part.root, part.limit, **part.options())
        for part in (config.dataset, *config.dataset.also)
    )
    return UnionDataset([first, *further]) if further else first
