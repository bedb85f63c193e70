"""Sketch-photo correspondence: the end-point error of a soft-argmax over the target's cells.

Both directions are trained and counted, sketch to photo and photo to sketch, as in the released
code, whose lists hold every pair both ways.
"""

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
from heads.protocols import (
    CorrespondencePart,
    CorrespondenceProtocol,
    PointPair,
    PredictedPair,
    Score,
)
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
    """Finds the points of one picture in the other.

    Nothing is trained beyond descriptors, except the coordinates of `matcher: released`.
    """

    name = "correspondence"
    monitor = headline = "pck@10"
    needs_cells = True

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
        sketch_points, photo_points, visible = self._padded(batch)
        correlations = self._correlations(batch, found, (sketch_points, photo_points))
        ways = ((sketch_points, photo_points), (photo_points, sketch_points))
        losses = [
            points_loss(correlation, source, target, visible, settings, layers)
            for correlation, (source, target) in zip(correlations, ways, strict=True)
        ]
        # As many points are visible one way as the other.
        return torch.stack(losses).mean()

    def weight(self, batch: Sequence[PointPair]) -> float:
        """Number of visible points."""
        return float(sum(int(pair.visible.sum()) for pair in batch))

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
                best_points(correlation, settings, self.frame.resolution).cpu().double()
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
        settings = self.settings.correspondence
        return (
            correlate(descriptors_at(sketches, sketch_points, settings), photos),
            correlate(descriptors_at(photos, photo_points, settings), sketches),
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


def _spread(pairs: Sequence[PointPair], n: int) -> Sequence[PointPair]:
    """At most n of the pairs, evenly spaced."""
    return pairs[:: max(1, -(-len(pairs) // max(n, 1)))]


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
