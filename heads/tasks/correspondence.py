"""Sketch-photo correspondence: the end-point error of a soft-argmax over the photo's cells."""

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
from heads.protocols import CorrespondencePart, CorrespondenceProtocol, PointPair, Score
from heads.released import ReleasedCoordinates, cell_descriptors, flow_error, released_points
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
    """Finds the photo's points for those of the sketch.

    Nothing is trained beyond descriptors, but for the coordinates of `matcher: released`.
    """

    name = "correspondence"
    monitor = "pck@10"

    protocol: CorrespondenceProtocol

    def layers(self, width: int) -> nn.Module:
        """The trained coordinates of the released code's loss, if that is asked for."""
        if self.settings.correspondence.matcher == "released":
            return ReleasedCoordinates(self.settings.grid)
        return nn.Identity()

    def batches(self, generator: torch.Generator) -> list[list[PointPair]]:
        pairs = self.parts.train.pairs
        if not pairs:
            raise TaskError(
                f"correspondence by {self.protocol.name}: no annotated training pairs; give a"
                " dataset that has some, or train.protocol=sketchfusion-release"
            )
        if self.settings.correspondence.shuffle:
            pairs = tuple(permuted(pairs, generator))
        return in_batches(pairs, self.settings.batch_size)

    def images(self, batch: Sequence[PointPair]) -> tuple[str, ...]:
        return unique([i for pair in batch for i in (pair.sketch, pair.photo)])

    def loss(self, batch: Sequence[PointPair], found: Located, layers: nn.Module) -> Tensor:
        correlation = self._correlation(batch, found)
        source, _ = self._padded(batch, "sketch")
        target, visible = self._padded(batch, "photo")
        settings = self.settings.correspondence
        return points_loss(correlation, source, target, visible, settings, layers)

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
            settings = self.settings.correspondence
            matched = best_points(correlation, settings, self.frame.resolution).cpu().double()
            for pair, points in zip(batch, matched, strict=True):
                own = points[: len(pair.sketch_points)]
                predicted.append(self.frame.to_picture(pair.photo, own))
        return predicted

    def _correlation(self, batch: Sequence[PointPair], found: Located) -> Tensor:
        """Rows [B, K, G, G] of the points only; K is the most points a pair of the batch has."""
        sketches = found.spatial([pair.sketch for pair in batch])
        points, _ = self._padded(batch, "sketch")
        return correlate(
            descriptors_at(
                sketches, to_device(points, sketches.device), self.settings.correspondence
            ),
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


def descriptors_at(maps: Tensor, points: Tensor, settings: CorrespondenceConfig) -> Tensor:
    """Descriptors [B, K, P] of maps [B, P, G, G] at points [B, K, 2] of the square."""
    if settings.matcher == "released":
        return cell_descriptors(maps, points, SQUARE)
    return sample_descriptors(maps, points, SQUARE)


def points_loss(
    correlation: Tensor,
    source: Tensor,
    target: Tensor,
    visible: Tensor,
    settings: CorrespondenceConfig,
    layers: nn.Module,
) -> Tensor:
    """Mean end-point error, in cells, of a correlation [B, K, G, G] of points `source` with the
    other picture's cells.

    `target` [B, K, 2] is where the points are there, `visible` [B, K] which of them count; both
    and `source` are on the CPU. `layers` are the task's own.
    """
    grid = correlation.shape[-1]
    target = add_target_noise(target, SQUARE, settings.target_noise)
    target = to_device(target, correlation.device)
    if settings.matcher == "released":
        cells = layers(correlation, settings.temperature)
        return flow_error(cells, to_device(source, cells.device), target, visible, SQUARE, grid)
    predicted = soft_argmax(correlation, SQUARE, settings.temperature)
    return end_point_error(predicted, target.to(predicted), visible, SQUARE / grid)


def best_points(correlation: Tensor, settings: CorrespondenceConfig, pixels: int) -> Tensor:
    """Points [B, K, 2] of the square that the configured matcher reads from [B, K, G, G].

    `pixels` is the side of the square that the networks saw.
    """
    if settings.matcher == "released":
        return released_points(correlation, SQUARE, pixels, settings.temperature, settings.window)
    if settings.matcher == "nearest":
        return nearest_neighbour(correlation, SQUARE)
    if settings.matcher == "soft-argmax":
        return soft_argmax(correlation, SQUARE, settings.temperature)
    return windowed_soft_argmax(correlation, SQUARE, settings.temperature, settings.window)
