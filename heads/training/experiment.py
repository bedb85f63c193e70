"""From a configuration to everything that training and evaluation need, opened and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cache import FeatureStore, StoreError, StorePath
from configs import Config
from configs.train import InjectionTraining
from heads.frame import Frame
from heads.protocols import Parts, Protocol, find_protocol
from heads.protocols.base import Images
from heads.protocols.defaults import default_protocol
from heads.sources import FeatureSource, LiveOptions, choose_source
from heads.sources.computed import refuse_sampled_latents
from heads.statistics.choices import Choices
from heads.tasks import TASKS, Task, TaskError
from heads.training.learner import Learner
from heads.training.reading import check_pictures, configured_arrays, image_sizes, open_stores
from pipeline.datasets.base import Annotations, Dataset, Domain
from pipeline.job import open_configured
from pipeline.networks.backbone import Backbone, load_backbone
from pipeline.networks.injection import Injection, configured_injection, recorded_injection
from pipeline.networks.unet import site_channels

Log = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """A task on the images of some stores, and what learns it."""

    config: Config
    dataset: Dataset
    stores: tuple[FeatureStore, ...]
    source: FeatureSource
    task: Task[Any, Any]
    learner: Learner
    images: Images
    """The images that can be read, and their sizes."""
    device: torch.device


def open_experiment(
    config: Config,
    caches: Sequence[str | StorePath],
    device: torch.device,
    log: Log,
    images: Sequence[str] | None = None,
    choices: Choices | None = None,
) -> Experiment:
    """Open dataset, stores, source and task; a new head with the weights of `train.seed`.

    Args:
        caches: stores to read; none leaves it to the configuration.
        device: where the head is, and cached maps go.
        log: told in one line which source is used and why, and what the protocol left out.
        images: the only images to use, as a run knew them; None is all that can be read.
        choices: what a run's statistics head chose; None begins with plain parts.

    Raises:
        DatasetError, StoreError, ProtocolError, TaskError, BackboneError, InjectionError,
        SourceError: each with one line.
    """
    if config.task is None:
        raise TaskError(f"{config.name}: no task; set task to one of {', '.join(TASKS)}")
    dataset = open_configured(config)
    arrays = configured_arrays(config)
    stores = open_stores(config, caches, dataset.ids, needed_arrays(config, arrays))
    check_pictures(dataset, stores)
    source, line = open_source(config, stores, arrays, device)
    log(line)
    if trains_backbone(config) and _loses_gradients(config):
        log(
            "extraction.precision=float16: small gradients are lost in the UNet; set "
            "extraction.precision=bfloat16, or train.precision=fp16, which scales them"
        )
    known = set(source.ids)
    wanted = dataset.ids if images is None else images
    lost = [] if images is None else [image_id for image_id in images if image_id not in known]
    if lost:
        raise StoreError(
            f"{stores[0].path}: lacks {len(lost)} images that the run was trained with, first "
            f"{lost[0]}; give the stores it was trained on"
        )
    sizes = image_sizes(stores, [image_id for image_id in wanted if image_id in known])
    protocol, parts = apply_protocol(config, dataset, sizes)
    for note in parts.notes:
        log(f"{protocol.name}: {note}")
    frame = Frame.of(stores[0].recipe, sizes)
    task = TASKS[config.task](protocol, parts, frame, config.train)
    learner = Learner(task, source, config.train, image_kinds(dataset.annotations), choices)
    return Experiment(config, dataset, tuple(stores), source, task, learner, sizes, device)


def apply_protocol(
    config: Config, dataset: Dataset, images: Images
) -> tuple[Protocol[Any], Parts[Any]]:
    """The configured protocol, and its parts among the images. Raises ProtocolError."""
    assert config.task is not None
    name = config.train.protocol or default_protocol(config.task, dataset, images)
    protocol = find_protocol(config.task, name, **config.train.variants)
    return protocol, protocol.apply(dataset.annotations, images)


def image_kinds(annotations: Annotations) -> dict[str, Domain | None]:
    """Sketch or photo, by image id, as far as labels and pairs tell."""
    kinds: dict[str, Domain | None] = {}
    for pair in annotations.pairs:
        kinds |= {pair.sketch: "sketch", pair.photo: "photo"}
    kinds |= {name: label.domain for name, label in annotations.labels.items() if label.domain}
    return kinds


def needed_arrays(config: Config, arrays: Sequence[str]) -> list[str]:
    """What a store must hold: the arrays themselves, or what they are computed from."""
    if trains_backbone(config):
        return [name for name in arrays if not name.startswith("sd/")]
    return list(arrays)


def _loses_gradients(config: Config) -> bool:
    return config.extraction.precision == "float16" and config.train.precision != "fp16"


def trains_backbone(config: Config) -> bool:
    """Whether anything in front of the features learns, so that they must be computed live."""
    return config.train.finetune or bool(config.train.injection.sites)


def open_source(
    config: Config, stores: Sequence[FeatureStore], arrays: Sequence[str], device: torch.device
) -> tuple[FeatureSource, str]:
    """The source a configuration needs, and one line that says which and why."""
    train, loaded = config.train, _Loaded(config, device)
    if train.finetune and train.injection.sites:
        raise TaskError("train.finetune and train.injection.sites: train one or the other")
    if trains_backbone(config):
        refuse_sampled_latents(stores)  # Before the backbone is loaded.
    injection: Injection | str | None = None
    if train.injection.sites:
        injection = start_injection(config, loaded())
    elif not train.finetune:
        # What the stores must have been made with; the backbone is not needed to tell.
        injection = recorded_injection(config.extraction)
    return choose_source(
        stores,
        arrays,
        injection,
        loaded,
        device,
        live=live_options(train.injection),
        finetune=train.finetune,
    )


def live_options(settings: InjectionTraining) -> LiveOptions:
    """How the live source computes."""
    return LiveOptions(
        fresh_noise=settings.noise == "fresh",
        checkpointing=settings.checkpointing,
        prefix_bytes=settings.prefix_memory,
    )


def start_injection(config: Config, backbone: Backbone) -> Injection:
    """The injection that training starts from; only the sites that are trained require gradients.

    Sites that `extraction.injection` holds start from there, and stay frozen where they are not
    trained; other trained sites start as `train.injection.init` says.
    """
    settings = config.train.injection
    channels = site_channels(backbone.unet)
    strangers = [site for site in settings.sites if site not in channels]
    if strangers:
        raise TaskError(
            f"train.injection.sites: this UNet has no {strangers[0]}; its sites are "
            f"{', '.join(channels)}"
        )
    stored = configured_injection(config.extraction, backbone.clip.width, channels)
    there = () if stored is None else stored.sites
    sites = {site: n for site, n in channels.items() if site in settings.sites or site in there}
    torch.manual_seed(config.train.seed)
    injection = Injection(backbone.clip.width, sites)
    with torch.no_grad():
        for site in sites:
            for name, parameter in injection[site].named_parameters():
                if stored is not None and site in there:
                    parameter.copy_(dict(stored[site].named_parameters())[name])
                elif settings.init == "zero":
                    parameter.zero_()
                parameter.requires_grad_(site in settings.sites)
    return injection


class _Loaded:
    """Loads the backbone when it is first asked for, once."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._backbone: Backbone | None = None

    def __call__(self) -> Backbone:
        if self._backbone is None:
            config = self._config
            self._backbone = load_backbone(
                config.backbone, str(self._device), config.extraction.precision
            )
        return self._backbone
