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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cache import ArraySpec, FeatureStore, Recipe
from cache.format.encoding import as_stored
from heads.aggregation import Descriptors
from heads.frame import Frame
from heads.sources import CachedFeatures
from heads.statistics.choices import choices_document
from heads.tasks import TASKS, Fitted
from heads.training.learner import build_aggregation, describe_maps
from heads.training.reading import configured_arrays
from heads.training.run import Run, RunError
from heads.use.pictures import LoadedPicture, UseError
from pipeline.datasets.base import Domain
from pipeline.extraction.extract import BaseExtractor, Extractor
from pipeline.job import Networks
from pipeline.pictures.images import network_input

N_REMEMBERED = 16
"""Pictures whose descriptors are kept: about 20 MB each at the paper's sizes."""

Log = Callable[[str], None]


class Trained:
    """Describes pictures as a run does; stays loaded, and may be asked from several threads.

    Use `open_trained`, or `open_several`.
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
        shapes = {name: self._specs[name].shape for name in self.arrays}
        self._choices = run.choices()
        if self.config.train.aggregation == "statistics" and self._choices is None:
            raise RunError(
                f"{run.folder}: lacks statistics.json, which says how its head pools; restore it"
            )
        needs_cells = TASKS[self.task].needs_cells
        self.head = build_aggregation(shapes, self.config.train, needs_cells, self._choices)
        self.width = getattr(self.head, "width", self.config.train.width)
        """Channels P of its descriptors."""
        self.restore(self.head, "aggregation")
        if self.config.train.finetune:
            self._restore_unet()
        # What is in front of the head is in the networks now, and may be a whole UNet.
        head = {n: t for n, t in self._checkpoint.tensors.items() if not n.startswith("front.")}
        self._checkpoint = replace(self._checkpoint, tensors=head)
        self._known: OrderedDict[tuple[str, Domain | None], tuple[Tensor, Tensor]] = OrderedDict()
        self._stored: tuple[CachedFeatures, dict[str, str]] | None = None
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
        parts: dict[str, Any] = {
            "weights": self.weights,
            "recipe": self.recipe.fingerprint,
            "arrays": self.arrays,
            "head": [train.aggregation, train.width, train.groups, train.grid],
        }
        if self._choices is not None:
            parts["choices"] = choices_document(self._choices)
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

    def stored(self, store: FeatureStore) -> CachedFeatures:
        """What a store holds of the maps that the head reads.

        Raises RecipeMismatch for a store of another recipe, StoreError for one without the arrays,
        UseError for a fine-tuned run.
        """
        if self.config.train.finetune:
            raise UseError(
                f"{self.run.folder}: its UNet was fine-tuned, so no store holds its features; "
                "give a folder of photos"
            )
        return CachedFeatures([store], self.arrays, self.extractor.device, self.recipe)

    def read_from(self, store: FeatureStore) -> None:
        """From now on take the features of the pictures in a store from there; raises as above."""
        source = self.stored(store)
        ids = {source.sha256(image_id): image_id for image_id in source.ids}
        with self._lock:
            self._stored = source, ids

    def describe(
        self, pictures: Sequence[LoadedPicture], kind: Domain | None = None
    ) -> Descriptors:
        """Descriptors of pictures of one kind; the latest ones are remembered.

        Raises RunError where they are no numbers, ExtractionError where memory does not suffice.
        """
        with self._lock:
            new = {p.sha256: p for p in pictures if (p.sha256, kind) not in self._known}
            if self._stored is not None:
                source, ids = self._stored
                stored = [sha256 for sha256 in new if sha256 in ids]
                if stored:
                    maps = source.maps([ids[sha256] for sha256 in stored])
                    found = describe_maps(self.head, maps, [kind] * len(stored))
                    self._remember(stored, kind, found)
                    new = {sha256: p for sha256, p in new.items() if sha256 not in ids}
            if new:
                squares = np.stack([self._square(picture) for picture in new.values()])
                self._remember(list(new), kind, self.describe_squares(squares, list(new), kind))
            keys = [(picture.sha256, kind) for picture in pictures]
            for key in keys:
                self._known.move_to_end(key)
            rows = [self._known[key] for key in keys]
            while len(self._known) > N_REMEMBERED:
                self._known.popitem(last=False)
        return Descriptors(*map(torch.stack, zip(*rows, strict=True)))

    def describe_squares(
        self, squares: np.ndarray, sha256s: Sequence[str], kind: Domain | None = None
    ) -> Descriptors:
        """Descriptors of uint8 squares [B, C, R, R] of pictures of one kind with these content
        hashes."""
        computed = self.extractor(squares, sha256s, self.arrays)
        maps = {
            name: torch.from_numpy(as_stored(self._specs[name], values, sha256s)).to(
                self.extractor.device
            )
            for name, values in computed.items()
        }
        return describe_maps(self.head, maps, [kind] * len(sha256s))

    def frame(self, **pictures: LoadedPicture) -> Frame:
        """Where the places of pictures are in the squares that the networks see, by keyword."""
        sizes = {name: picture.image.size for name, picture in pictures.items()}
        return Frame.of(self.recipe, sizes)

    def _remember(self, sha256s: Sequence[str], kind: Domain | None, found: Descriptors) -> None:
        keys = [(sha256, kind) for sha256 in sha256s]
        self._known |= zip(keys, zip(found.spatial, found.pooled, strict=True), strict=True)

    def _restore_unet(self) -> None:
        """Put the UNet's own trained weights in place."""
        assert isinstance(self.extractor, Extractor)
        unet, tensors = self.extractor.backbone.unet, self._checkpoint.under("front")
        if unet.load_state_dict(tensors, strict=False).unexpected_keys or not tensors:
            raise RunError(
                f"{self.run.best}: holds no weights of this UNet; restore the run's own files"
            )

    def _square(self, picture: LoadedPicture) -> np.ndarray:
        resolution, extraction = self.config.backbone.resolution, self.config.extraction
        return network_input(picture.image, resolution, extraction.pad, extraction.clip_input)


def check_task(run: Run, task: str | None, needed: str) -> None:
    """Raise UseError where a run was trained for another task than what it is to be used for."""
    if task != needed:
        raise UseError(f"{run.folder}: is a run of {task}; this needs one of {needed}")
