"""Sketch-photo correspondence: the end-point error of a soft-argmax over the photo's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from configs.train import CorrespondenceConfig
from heads.floors import Load, copied_positions, hog_matches
from heads.matching import (
    add_target_noise,
    correlate,
    end_point_error,
    nearest_neighbour,
    sample_descriptors,
    soft_argmax,
    windowed_soft_argmax,
)
from heads.protocols import CorrespondencePart, CorrespondenceProtocol, PointPair, Score
from heads.tasks.base import (
    Describe,
    Fitted,
    Located,
    Task,
    TaskError,
    in_batches,
    permuted,
    unique,
)
from pipeline.networks.transfer import to_device

SQUARE = 1.0
"""Points are fractions of the square's side here."""


@dataclass(frozen=True)
class Correspondence(Task[CorrespondencePart, PointPair]):
    """Finds the photo's points for those of the sketch. Nothing is trained beyond descriptors."""

    name = "correspondence"
    monitor = headline = "pck@10"
    needs_cells = True

    protocol: CorrespondenceProtocol

    def batches(self, generator: torch.Generator) -> list[list[PointPair]]:
        pairs = self.parts.train.pairs
        if not pairs:
            raise TaskError(
                f"correspondence by {self.protocol.name}: no annotated training pairs; give a"
                " dataset that has some, or train.protocol=sketchfusion-release"
            )
        return in_batches(permuted(pairs, generator), self.settings.batch_size)

    def folds(self, n: int, n_images: int) -> list[Self]:
        """The training and the validation pairs themselves, some of each."""
        train, val = (
            CorrespondencePart(tuple(_spread(part.pairs, n_images // 4)))
            for part in (self.parts.train, self.parts.val)
        )
        return [replace(self, parts=replace(self.parts, train=train, val=val))] if val else []

    def images(self, batch: Sequence[PointPair]) -> tuple[str, ...]:
        return unique([i for pair in batch for i in (pair.sketch, pair.photo)])

    def loss(self, batch: Sequence[PointPair], found: Located, layers: nn.Module) -> Tensor:
        settings = self.settings.correspondence
        photos = found.spatial([pair.photo for pair in batch])
        predicted = soft_argmax(self._correlation(batch, found), SQUARE, settings.temperature)
        target, visible = self._padded(batch, "photo")
        target = add_target_noise(target, SQUARE, settings.target_noise)
        target = to_device(target, predicted.device).to(predicted)
        cell = SQUARE / photos.shape[-1]
        return end_point_error(predicted, target, visible, cell)

    def evaluate(
        self,
        part: CorrespondencePart,
        describe: Describe,
        layers: nn.Module | None,
        fitted: Fitted,
    ) -> Score:
        return self.protocol.score(part, self.predict(part.pairs, describe))

    def floors(self, load: Load) -> dict[str, Score]:
        part = self.parts.test
        return {
            "copied position": self.protocol.score(part, copied_positions(part.pairs)),
            "dense HOG": self.protocol.score(part, hog_matches(load, part.pairs)),
        }

    def predict(self, pairs: Sequence[PointPair], describe: Describe) -> list[Tensor]:
        """The photo's points [K, 2] of each pair, in fractions of its width and height."""
        predicted = []
        for batch in in_batches(pairs, self.settings.batch_size):
            ids = self.images(batch)
            correlation = self._correlation(batch, Located.of(ids, describe(ids)))
            matched = best_points(correlation, self.settings.correspondence).cpu().double()
            for pair, points in zip(batch, matched, strict=True):
                own = points[: len(pair.sketch_points)]
                predicted.append(self.frame.to_picture(pair.photo, own))
        return predicted

    def _correlation(self, batch: Sequence[PointPair], found: Located) -> Tensor:
        """Rows [B, K, G, G] of the points only; K is the most points a pair of the batch has."""
        sketches = found.spatial([pair.sketch for pair in batch])
        points, _ = self._padded(batch, "sketch")
        return correlate(
            sample_descriptors(sketches, to_device(points, sketches.device), SQUARE),
            found.spatial([pair.photo for pair in batch]),
        )

    def _padded(self, batch: Sequence[PointPair], side: str) -> tuple[Tensor, Tensor]:
        """Points of the square [B, K, 2] and whether they are visible [B, K], filled up with
        points that are not."""
        n_points = max(len(pair.visible) for pair in batch)
        points = torch.zeros(len(batch), n_points, 2)
        visible = torch.zeros(len(batch), n_points, dtype=torch.bool)
        for row, pair in enumerate(batch):
            own = pair.sketch_points if side == "sketch" else pair.photo_points
            name = pair.sketch if side == "sketch" else pair.photo
            points[row, : len(own)] = self.frame.to_square(name, own).float()
            visible[row, : len(own)] = pair.visible
        return points, visible


def _spread(pairs: Sequence[PointPair], n: int) -> Sequence[PointPair]:
    """At most n of the pairs, evenly spaced."""
    return pairs[:: max(1, -(-len(pairs) // max(n, 1)))]


def best_points(correlation: Tensor, settings: CorrespondenceConfig) -> Tensor:
    """Points [B, K, 2] of the square that the configured matcher reads from [B, K, G, G]."""
    if settings.matcher == "nearest":
        return nearest_neighbour(correlation, SQUARE)
    if settings.matcher == "soft-argmax":
        return soft_argmax(correlation, SQUARE, settings.temperature)
    return windowed_soft_argmax(correlation, SQUARE, settings.temperature, settings.window)
