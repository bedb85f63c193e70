"""Sketch-photo correspondence: the end-point error of a soft-argmax over the target's cells.

Both directions are trained and counted, sketch to photo and photo to sketch, as in the released
code, whose lists hold every pair both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from heads.protocols import (
    CorrespondencePart,
    CorrespondenceProtocol,
    PointPair,
    PredictedPair,
    Score,
)
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
    """Finds the points of one picture in the other. Nothing is trained beyond descriptors."""

    name = "correspondence"
    monitor = "pck@10"

    protocol: CorrespondenceProtocol

    def batches(self, generator: torch.Generator) -> list[list[PointPair]]:
        pairs = self.parts.train.pairs
        if not pairs:
            raise TaskError(
                f"correspondence by {self.protocol.name}: no annotated training pairs; give a"
                " dataset that has some, or train.protocol=sketchfusion-release"
            )
        return in_batches(permuted(pairs, generator), self.settings.batch_size)

    def images(self, batch: Sequence[PointPair]) -> tuple[str, ...]:
        return unique([i for pair in batch for i in (pair.sketch, pair.photo)])

    def loss(self, batch: Sequence[PointPair], found: Located, layers: nn.Module) -> Tensor:
        settings = self.settings.correspondence
        sketch_points, photo_points, visible = self._padded(batch)
        losses = []
        for correlation, target in zip(
            self._correlations(batch, found, (sketch_points, photo_points)),
            (photo_points, sketch_points),
            strict=True,
        ):
            predicted = soft_argmax(correlation, SQUARE, settings.temperature)
            target = add_target_noise(target, SQUARE, settings.target_noise)
            target = to_device(target, predicted.device).to(predicted)
            cell = SQUARE / correlation.shape[-1]
            losses.append(end_point_error(predicted, target, visible, cell))
        # As many points are visible one way as the other.
        return torch.stack(losses).mean()

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

    def predict(self, pairs: Sequence[PointPair], describe: Describe) -> list[PredictedPair]:
        """What each pair's points are matched with, in fractions of width and height."""
        settings = self.settings.correspondence
        predicted = []
        for batch in in_batches(pairs, self.settings.batch_size):
            ids = self.images(batch)
            points = self._padded(batch)[:2]
            in_photos, in_sketches = (
                best_points(correlation, settings).cpu().double()
                for correlation in self._correlations(batch, Located.of(ids, describe(ids)), points)
            )
            for row, pair in enumerate(batch):
                n = len(pair.visible)
                predicted.append(
                    PredictedPair(
                        photo_points=self.frame.to_picture(pair.photo, in_photos[row, :n]),
                        sketch_points=self.frame.to_picture(pair.sketch, in_sketches[row, :n]),
                    )
                )
        return predicted

    def _correlations(
        self, batch: Sequence[PointPair], found: Located, points: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rows [B, K, G, G] of the points [B, K, 2] of the sketches over the photos' cells, and of
        those of the photos over the sketches' cells."""
        sketches = found.spatial([pair.sketch for pair in batch])
        photos = found.spatial([pair.photo for pair in batch])
        sketch_points, photo_points = (to_device(own, sketches.device) for own in points)
        return (
            correlate(sample_descriptors(sketches, sketch_points, SQUARE), photos),
            correlate(sample_descriptors(photos, photo_points, SQUARE), sketches),
        )

    def _padded(self, batch: Sequence[PointPair]) -> tuple[Tensor, Tensor, Tensor]:
        """Points of the sketches' and of the photos' squares [B, K, 2] and whether they are visible
        [B, K]; K is the most points a pair has, and pairs with fewer are filled up with points that
        are not visible."""
        n_points = max(len(pair.visible) for pair in batch)
        sketch_points = torch.zeros(len(batch), n_points, 2)
        photo_points = torch.zeros(len(batch), n_points, 2)
        visible = torch.zeros(len(batch), n_points, dtype=torch.bool)
        for row, pair in enumerate(batch):
            n = len(pair.visible)
            sketch_points[row, :n] = self.frame.to_square(pair.sketch, pair.sketch_points).float()
            photo_points[row, :n] = self.frame.to_square(pair.photo, pair.photo_points).float()
            visible[row, :n] = pair.visible
        return sketch_points, photo_points, visible


def best_points(correlation: Tensor, settings: CorrespondenceConfig) -> Tensor:
    """Points [B, K, 2] of the square that the configured matcher reads from [B, K, G, G]."""
    if settings.matcher == "nearest":
        return nearest_neighbour(correlation, SQUARE)
    if settings.matcher == "soft-argmax":
        return soft_argmax(correlation, SQUARE, settings.temperature)
    return windowed_soft_argmax(correlation, SQUARE, settings.temperature, settings.window)
