"""Recognition: a classifier on the pooled descriptor, trained with cross-entropy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.train import RecognitionConfig
from heads.floors import Load, global_hog, nearest_centroid
from heads.protocols import RecognitionPart, RecognitionProtocol, Score
from heads.protocols.partition import shuffled
from heads.tasks.base import (
    Describe,
    Fitted,
    Located,
    Task,
    TaskError,
    in_batches,
    permuted,
    pooled_descriptors,
)
from pipeline.networks.transfer import to_device

_TRAIN = "train"
"""Descriptors of the training images, where there is no classifier."""
CLASSIFIED_AT_ONCE = 1024


class Classifier(nn.Module):
    """Class scores [B, C] of descriptors [B, P]: linear, or with one hidden layer.

    Descriptors come standardised to it: pooled ones are all alike but for small differences.
    """

    def __init__(self, width: int, n_classes: int, hidden: int | None = None) -> None:
        super().__init__()
        # Unit vectors that are nearly alike: their entries vary far less than the usual eps.
        self.standardise = nn.BatchNorm1d(width, eps=1e-10, affine=False)
        self.layers: nn.Module = (
            nn.Linear(width, n_classes)
            if hidden is None
            else nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))
        )

    def forward(self, descriptors: Tensor) -> Tensor:
        if len(descriptors) == 1:
            # One image has no spread: what is known of earlier ones must do.
            known = self.standardise
            standard = F.batch_norm(
                descriptors, known.running_mean, known.running_var, eps=known.eps
            )
        else:
            standard = self.standardise(descriptors)
        scores: Tensor = self.layers(standard)
        return scores.float()


def build_classifier(settings: RecognitionConfig, width: int, n_classes: int) -> Classifier:
    """A new classifier of descriptors [B, width]."""
    hidden = settings.hidden if settings.classifier == "mlp" else None
    return Classifier(width, n_classes, hidden)


@dataclass(frozen=True)
class Recognition(Task[RecognitionPart, str]):
    """Examples are image ids. Without a classifier, the class with the nearest mean is taken."""

    name = "recognition"
    monitor = headline = "acc@1"

    protocol: RecognitionProtocol

    def layers(self, width: int) -> nn.Module:
        return build_classifier(self.settings.recognition, width, len(self.parts.test.classes))

    def batches(self, generator: torch.Generator) -> list[list[str]]:
        if not self.parts.train.ids:
            raise TaskError(f"recognition by {self.protocol.name}: no training images")
        return in_batches(permuted(self.parts.train.ids, generator), self.settings.batch_size)

    def folds(self, n: int, n_images: int) -> list[Self]:
        """Each validates on images that the others train on, some of every class."""
        members: dict[str, list[str]] = defaultdict(list)
        for part in (self.parts.train, self.parts.val):
            for image_id, category in zip(part.ids, part.categories, strict=True):
                members[category].append(image_id)
        most = max(2, n_images // max(1, len(members)))
        chosen = {
            category: shuffled(ids, self.settings.seed)[:most] for category, ids in members.items()
        }
        n = min(n, *map(len, chosen.values())) if chosen else 0
        if n < 2:
            return []

        folds = []
        for fold in range(n):
            rest = [share for share in range(n) if share != fold]
            classes = self.parts.train.classes
            train, val = (_part_of(chosen, classes, shares, n) for shares in (rest, [fold]))
            folds.append(replace(self, parts=replace(self.parts, train=train, val=val)))
        return folds

    def images(self, batch: Sequence[str]) -> tuple[str, ...]:
        return tuple(batch)

    def loss(self, batch: Sequence[str], found: Located, layers: nn.Module) -> Tensor:
        scores = layers(found.pooled(batch))
        return F.cross_entropy(
            scores,
            to_device(self._labels(batch), scores.device),
            label_smoothing=self.settings.recognition.label_smoothing,
        )

    @classmethod
    def is_fitted(cls, fitted: Fitted) -> bool:
        return bool(fitted.classes)

    def fit(self, describe: Describe, layers: nn.Module | None) -> Fitted:
        if layers is not None:
            return Fitted(classes=self.parts.train.classes)
        return Fitted(tensors={_TRAIN: pooled_descriptors(describe, self.parts.train.ids)})

    def evaluate(
        self, part: RecognitionPart, describe: Describe, layers: nn.Module | None, fitted: Fitted
    ) -> Score:
        descriptors = pooled_descriptors(describe, part.ids)
        return self.protocol.score(part, self.scores(descriptors, layers, fitted))

    def floors(self, load: Load) -> dict[str, Score]:
        train, test = self.parts.train, self.parts.test
        scores = nearest_centroid(
            global_hog(load, train.ids),
            train.labels,
            global_hog(load, test.ids),
            len(train.classes),
        )
        return {"global HOG": self.protocol.score(test, scores)}

    def scores(self, descriptors: Tensor, layers: nn.Module | None, fitted: Fitted) -> Tensor:
        """Class scores [N, C] of pooled descriptors [N, P], on the CPU."""
        if layers is None:
            train = self.parts.train
            return nearest_centroid(
                fitted.tensors[_TRAIN], train.labels, descriptors, len(train.classes)
            )
        device = next(layers.parameters()).device
        with torch.no_grad():
            return torch.cat(
                [layers(part.to(device)).cpu() for part in descriptors.split(CLASSIFIED_AT_ONCE)]
            )

    def _labels(self, ids: Sequence[str]) -> Tensor:
        return torch.tensor([self._label_of[image_id] for image_id in ids])

    @cached_property
    def _label_of(self) -> dict[str, int]:
        part = self.parts.train
        return dict(zip(part.ids, part.labels.tolist(), strict=True))


def _part_of(
    members: Mapping[str, Sequence[str]], classes: tuple[str, ...], shares: Collection[int], n: int
) -> RecognitionPart:
    """The images of every class whose place, modulo n, is among the shares."""
    kept = [
        (image_id, category)
        for category, ids in members.items()
        for place, image_id in enumerate(ids)
        if place % n in shares
    ]
    ids, categories = zip(*kept, strict=True)
    return RecognitionPart(ids, categories, classes)
