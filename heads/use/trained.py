"""A run's head with its best weights, and the networks that give it the features of any picture.

Features are computed by the run's own recipe and rounded as a store would hold them, so a picture
has the descriptor here that it had in evaluation.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cache import ArraySpec, Recipe
from cache.encoding import as_stored
from configs import Config
from heads.aggregation import Descriptors
from heads.frame import Frame
from heads.tasks import Fitted
from heads.training.experiment import trains_backbone
from heads.training.learner import build_aggregation, describe_maps
from heads.training.reading import configured_arrays
from heads.training.run import Run, RunError, open_run
from heads.use.pictures import LoadedPicture, UseError
from pipeline.extract import BaseExtractor, Extractor
from pipeline.images import letterbox
from pipeline.job import Networks, load_networks

N_REMEMBERED = 16
"""Pictures whose descriptors are kept: about 20 MB each at the paper's sizes."""

Log = Callable[[str], None]


class Trained:
    """Describes pictures as a run does; stays loaded, and may be asked from several threads.

    Use `open_trained`.
    """

    def __init__(self, run: Run, networks: Networks) -> None:
        self.run = run
        self.weights = run.weights_digest()
        """Hex SHA-256 of the file with the head's weights."""
        self._checkpoint = run.best_checkpoint()
        self.config = networks.config
        """The run's, with the device and the injection that are used here."""
        self.arrays = tuple(configured_arrays(networks.config))
        """Names of the maps that the head reads."""
        self.recipe: Recipe = networks.recipe
        """How their features are computed: a store of this recipe holds the same."""
        self.extractor: BaseExtractor = networks.extractor
        self._specs: dict[str, ArraySpec] = {spec.name: spec for spec in networks.specs}
        channels = {name: self._specs[name].shape[0] for name in self.arrays}
        self.head = build_aggregation(channels, self.config.train)
        self.restore(self.head, "aggregation")
        if self.config.train.finetune:
            self._restore_unet()
        # What is in front of the head is in the networks now, and may be a whole UNet.
        head = {n: t for n, t in self._checkpoint.tensors.items() if not n.startswith("front.")}
        self._checkpoint = replace(self._checkpoint, tensors=head)
        self._known: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def task(self) -> str:
        """The task that the run was trained for."""
        assert self.config.task is not None
        return self.config.task

    @property
    def has_cells(self) -> bool:
        """Whether the cells of a picture differ: not so where all that is read describes it as a
        whole."""
        return any(len(self._specs[name].shape) == 3 for name in self.arrays)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that a descriptor depends on beside the picture."""
        train = self.config.train
        parts = {
            "weights": self.weights,
            "recipe": self.recipe.fingerprint,
            "arrays": self.arrays,
            "head": [train.aggregation, train.width, train.groups, train.grid],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def fitted(self) -> Fitted:
        """What evaluation took from training images. Raises RunError where the run lacks it."""
        return self.run.read_fitted(self.weights)

    def restore(self, module: nn.Module, part: str) -> None:
        """Give a module the trained weights of a part of the head, frozen, on the device.

        Raises RunError where they do not fit.
        """
        try:
            module.load_state_dict(self._checkpoint.under(part))
        except RuntimeError:
            raise RunError(
                f"{self.run.best}: holds the weights of another head than "
                f"{self.run.config_path.name} describes; restore the run's own files"
            ) from None
        module.eval().requires_grad_(False).to(self.extractor.device)

    def describe(self, pictures: Sequence[LoadedPicture]) -> Descriptors:
        """Descriptors of pictures; the latest ones are remembered.

        Raises RunError where they are no numbers, ExtractionError where memory does not suffice.
        """
        with self._lock:
            new = {p.sha256: p for p in pictures if p.sha256 not in self._known}
            if new:
                squares = np.stack([self._square(picture) for picture in new.values()])
                found = self.describe_squares(squares, list(new))
                self._known |= zip(new, zip(*found, strict=True), strict=True)
            for picture in pictures:
                self._known.move_to_end(picture.sha256)
            rows = [self._known[picture.sha256] for picture in pictures]
            while len(self._known) > N_REMEMBERED:
                self._known.popitem(last=False)
        return Descriptors(*map(torch.stack, zip(*rows, strict=True)))

    def describe_squares(self, squares: np.ndarray, sha256s: Sequence[str]) -> Descriptors:
        """Descriptors of uint8 squares [B, 3, R, R] of pictures with these content hashes."""
        computed = self.extractor(squares, sha256s, self.arrays)
        maps = {
            name: torch.from_numpy(as_stored(self._specs[name], values, sha256s)).to(
                self.extractor.device
            )
            for name, values in computed.items()
        }
        return describe_maps(self.head, maps)

    def frame(self, **pictures: LoadedPicture) -> Frame:
        """Where the places of pictures are in the squares that the networks see, by keyword."""
        sizes = {name: picture.image.size for name, picture in pictures.items()}
        return Frame.of(self.recipe, sizes)

    def _restore_unet(self) -> None:
        """Put the UNet's own trained weights in place."""
        assert isinstance(self.extractor, Extractor)
        unet, tensors = self.extractor.backbone.unet, self._checkpoint.under("front")
        if unet.load_state_dict(tensors, strict=False).unexpected_keys or not tensors:
            raise RunError(
                f"{self.run.best}: holds no weights of this UNet; restore the run's own files"
            )

    def _square(self, picture: LoadedPicture) -> np.ndarray:
        resolution, pad = self.config.backbone.resolution, self.config.extraction.pad
        return letterbox(picture.image, resolution, pad).transpose(2, 0, 1)


def open_trained(
    folder: str | Path, log: Log = lambda line: None, task: str | None = None
) -> Trained:
    """Load a run's head with its best weights, and the backbone.

    Needs the run's folder and the backbone's weights: not the dataset, no store. With `task` a run
    of another one is refused before anything is loaded.

    Raises:
        UseError: a run of another task.
        RunError: no run, no weights, or other networks than it was trained on.
        CheckpointError: damaged weights.
        BackboneError, InjectionError: a network that cannot be loaded.
    """
    run = open_run(Path(folder))
    if not run.best.is_file():
        raise RunError(f"{run.folder}: has no trained weights yet; train it with --resume")
    config = run.config()
    if task is not None:
        check_task(run, config.task, task)
    log(f"loading backbone {config.backbone.label}")
    networks = load_networks(_for_use(config, run))
    _check_recipe(run, networks.recipe, learns_in_front=trains_backbone(config))
    return Trained(run, networks)


def check_task(run: Run, task: str | None, needed: str) -> None:
    """Raise UseError where a run was trained for another task than what it is to be used for."""
    if task != needed:
        raise UseError(f"{run.folder}: is a run of {task}; this needs one of {needed}")


def _for_use(config: Config, run: Run) -> Config:
    """The configuration whose networks give what the run's head was trained on."""
    update: dict[str, object] = {"prefix": None, "device": config.train.device}
    if config.train.injection.sites:
        if not run.injection.is_file():
            raise RunError(
                f"{run.injection}: is written when training ends; train the run with --resume"
            )
        update["injection"] = run.injection
    elif config.train.finetune:
        update["injection"] = None
    extraction = config.extraction.model_copy(update=update)
    return config.model_copy(update={"extraction": extraction})


def _check_recipe(run: Run, recipe: Recipe, learns_in_front: bool) -> None:
    """Raise RunError unless these networks are those that the run was trained on."""
    fields = dict(run.facts()["stores"][0]["recipe"])
    if learns_in_front:
        # What was injected into the store's layers did not matter.
        fields["injection"] = recipe.fields.get("injection")
    differences = Recipe(fields).differences(recipe)
    if differences:
        raise RunError(
            f"{run.folder}: its backbone is not the one it was trained on "
            f"({'; '.join(differences)}); restore those weights, or train a new run"
        )
