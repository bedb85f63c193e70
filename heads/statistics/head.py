"""The statistics head: frozen parts, standardised on training images, and a correction of them.

Every array is a part of its own: its vectors are centred, whitened where that was chosen, and
scaled to the part's weight; the parts stand side by side. Untrained, the head is just that, so it
starts at what its parts know. A linear map that starts at zero is trained on top.

    map       x = pool(map)              [D]     statistics of the channels over the cells
    global    x = embedding              [D]
    part      p = weight * unit((x - centre[kind]) W)
    maps      z = (p_1, p_2, ...),       u = |z| unit(z + A z)         A = 0 at first
    pooled        unit(g_1, ..., u)      g: the parts of global descriptors, which stay frozen

Where a task compares cells (correspondence, segmentation), x is the map's vector in a cell,
resized to the grid, and centre and W are those of cells; the pooled descriptor is then the mean
of the cells, which makes it one of the same space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.aggregation import Descriptors, resize
from heads.statistics.choices import ChoiceError, Choices, PartChoice
from heads.statistics.moments import KINDS, Moments, kind_rows, whitening
from heads.statistics.pooling import ScaleMeter, channel_statistics, pooled, pooled_width
from pipeline.datasets.base import Domain


class Batch(NamedTuple):
    """Maps [B, C, h, w] and global descriptors [B, D] by array name, and the pictures' kinds."""

    maps: Mapping[str, Tensor]
    kinds: Sequence[Domain | None]


class Part(nn.Module):
    """One array's vectors, centred by kind, whitened and scaled to a weight.

    Its buffers are fitted, not trained, and saved with the head: `centre` [3, D] has a row for
    each of `KINDS`, `whiten` is [D, D], `scale` [C] are the deviations of a map's channels. What
    is not needed is empty.

    Args:
        width: D.
        choice: its weight, and whether it is whitened.
        n_scales: channels C whose statistics are pooled; 0 if nothing is.
    """

    centre: Tensor
    whiten: Tensor
    scale: Tensor

    def __init__(self, width: int, choice: PartChoice, n_scales: int = 0) -> None:
        super().__init__()
        self.choice = choice
        self.register_buffer("centre", torch.zeros(len(KINDS), width))
        whitens = choice.shrinkage is not None
        self.register_buffer("whiten", torch.eye(width) if whitens else torch.empty(0))
        self.register_buffer("scale", torch.ones(n_scales))

    @property
    def width(self) -> int:
        """D."""
        return self.centre.shape[1]

    def pool(self, maps: Tensor) -> Tensor:
        """Vectors [B, D] of maps [B, C, h, w]."""
        return pooled(channel_statistics(maps, self.scale), self.choice.pooling)

    def standardise(self, vectors: Tensor, kinds: Tensor) -> Tensor:
        """Vectors [B, D] or [B, N, D], centred and whitened.

        `kinds` are rows of `KINDS`, int64 [B].
        """
        centre = self.centre[kinds]
        values = vectors.float() - (centre if vectors.ndim == 2 else centre[:, None])
        return values @ self.whiten if len(self.whiten) else values

    def forward(self, vectors: Tensor, kinds: Tensor) -> Tensor:
        """The part [B, D] of vectors [B, D]."""
        return self.choice.weight * F.normalize(self.standardise(vectors, kinds), dim=1)

    def fit(self, moments: Moments) -> None:
        """Take centre and whitening from the training images' moments."""
        self.centre.copy_(moments.centres(self.choice.centring))
        if self.choice.shrinkage is not None:
            covariance = moments.covariance(self.choice.centring)
            self.whiten.copy_(whitening(covariance, self.choice.shrinkage))


class StatisticsHead(nn.Module):
    """Frozen parts side by side, and a correction that starts at zero. See the module's text.

    Args:
        shapes: shape per image by array name: [C, h, w] of a map, [D] of a global descriptor.
        choices: how each array becomes a part. Arrays of weight 0 are not used.
        grid: cells G per side of the descriptor map.
        dropout: share of the correction's input that is dropped while training.
        cells: whether cells are described, for tasks that compare them; otherwise images.

    Raises:
        ChoiceError: an array without a choice, or none that has a weight.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        choices: Choices,
        grid: int,
        dropout: float = 0.0,
        cells: bool = False,
    ) -> None:
        super().__init__()
        missing = shapes.keys() - choices.keys()
        if missing:
            raise ChoiceError(f"statistics head: nothing is chosen for {min(missing)}")
        self.choices = {name: choices[name] for name in shapes}
        self.grid, self.cells = grid, cells
        used = {name: len(shape) for name, shape in shapes.items() if choices[name].weight > 0}
        self.maps = tuple(name for name, rank in used.items() if rank == 3)
        # A global descriptor is the same in every cell, and so tells no cell from another.
        self.globals = () if cells else tuple(name for name, rank in used.items() if rank == 1)
        self.arrays = (*self.maps, *self.globals)
        if not self.arrays:
            raise ChoiceError(
                "statistics head: no " + ("map" if cells else "array") + " that it reads has a "
                "weight; add one to train.features, or set train.statistics.weights"
            )
        self.parts = nn.ModuleDict()
        for name in self.arrays:
            n_channels, choice = shapes[name][0], choices[name]
            pools = name in self.maps and not cells
            width = pooled_width(n_channels, choice.pooling) if pools else n_channels
            self.parts[name] = Part(width, choice, n_channels if pools else 0)
        self.corrected = self.maps or self.globals
        width = sum(self._part(name).width for name in self.corrected)
        self.dropout = nn.Dropout(dropout)
        self.correction = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.correction.weight)
        self.width = sum(self._part(name).width for name in self.arrays)
        """Channels P of the pooled descriptor."""

    def forward(
        self, maps: Mapping[str, Tensor], kinds: Sequence[Domain | None] | None = None
    ) -> Descriptors:
        """Descriptors of maps [B, C, h, w] and global descriptors [B, D] by array name.

        While training, a head that describes images leaves the cells out: one cell stands for
        all of them.

        Args:
            kinds: of each image, sketch or photo; None where that is not known.
        """
        first = maps[self.arrays[0]]
        rows = kind_rows([None] * len(first) if kinds is None else kinds).to(first.device)
        if self.cells:
            return self._describe_cells(maps, rows)
        parts = {
            name: part(part.pool(maps[name]) if name in self.maps else maps[name], rows)
            for name in self.arrays
            for part in [self._part(name)]
        }
        corrected = self._correct(torch.cat([parts[name] for name in self.corrected], dim=1))
        frozen = [parts[name] for name in self.arrays if name not in self.corrected]
        whole = F.normalize(torch.cat([*frozen, corrected], dim=1), dim=1)
        if self.training or not self.maps:
            spatial = whole[:, :, None, None]
            if not self.training:
                spatial = spatial.expand(-1, -1, self.grid, self.grid)
        else:
            spatial = self._plain_cells(maps)
        return Descriptors(spatial, whole, F.normalize(corrected, dim=1))

    def _describe_cells(self, maps: Mapping[str, Tensor], rows: Tensor) -> Descriptors:
        standard = []
        for name in self.maps:
            part, layer_map = self._part(name), maps[name]
            cells = part.standardise(layer_map.flatten(2).transpose(1, 2), rows)
            # Centring and whitening commute with the resizing, and are less work before it.
            resized = resize(cells.transpose(1, 2).unflatten(2, layer_map.shape[2:]), self.grid)
            standard.append(part.choice.weight * F.normalize(resized, dim=1))
        cells = self._correct(torch.cat(standard, dim=1).flatten(2).transpose(1, 2))
        spatial = F.normalize(cells, dim=2).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return Descriptors(spatial, F.normalize(cells.mean(1), dim=1))

    def _plain_cells(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors of the maps side by side: nothing was learnt about an image's cells."""
        cells = [
            self._part(name).choice.weight
            * F.normalize(resize(maps[name].float(), self.grid), dim=1)
            for name in self.maps
        ]
        return F.normalize(torch.cat(cells, dim=1), dim=1)

    def _correct(self, vectors: Tensor) -> Tensor:
        """z + A z, as long as z was."""
        moved = (vectors + self.correction(self.dropout(vectors))).float()
        return F.normalize(moved, dim=-1) * vectors.norm(dim=-1, keepdim=True)

    @contextmanager
    def uncorrected(self) -> Iterator[None]:
        """Inside, the head is what it was before training: its parts side by side."""
        trained = self.correction.weight.data
        self.correction.weight.data = torch.zeros_like(trained)
        try:
            yield
        finally:
            self.correction.weight.data = trained

    @torch.no_grad()
    def fit(self, everything: Iterable[Batch], sample: Callable[[], Iterable[Batch]]) -> None:
        """Fit scales, centres and whitening to training images.

        Args:
            everything: the maps of all of them, read once; not read by a head of cells, of which
                a few images have enough.
            sample: gives the maps of some of them, from the beginning whenever it is called.
        """
        if not self.cells and self.maps:
            self._fit_scales(sample())
        moments: dict[str, Moments] = {}
        for batch in sample() if self.cells else everything:
            kinds = kind_rows(batch.kinds)
            for name in self.arrays:
                values, part = batch.maps[name], self._part(name)
                if self.cells:
                    n_cells = values[0, 0].numel()
                    vectors = values.flatten(2).transpose(1, 2).flatten(0, 1)
                    rows = kinds.repeat_interleave(n_cells)
                else:
                    vectors = part.pool(values) if name in self.maps else values
                    rows = kinds
                own = moments.setdefault(name, Moments(part.width, vectors.device))
                own.update(vectors, rows)
        for name, own in moments.items():
            self._part(name).fit(own)

    def _fit_scales(self, batches: Iterable[Batch]) -> None:
        meters: dict[str, ScaleMeter] = {}
        for batch in batches:
            for name in self.maps:
                meters.setdefault(name, ScaleMeter()).update(batch.maps[name])
        for name, meter in meters.items():
            self._part(name).scale.copy_(meter.result())

    def _part(self, name: str) -> Part:
        part = self.parts[name]
        assert isinstance(part, Part)
        return part
