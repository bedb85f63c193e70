"""Choosing how a head pools, centres, whitens and weighs, on the user's own training images.

Which pooling keeps what a layer knows differs from network to network, so nothing is assumed:
untrained descriptors are compared by the task's own metric, on folds of the training and the
validation part. Each array is settled alone first, then the weights against each other. The test
part is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.train import Pooling, StatisticsConfig
from heads.aggregation import Descriptors, resize
from heads.sources import FeatureSource
from heads.statistics.choices import (
    DEFAULT_SHRINKAGE,
    PartChoice,
    choices_document,
    parse_choices,
)
from heads.statistics.moments import CENTRINGS, Centring, Moments, kind_rows
from heads.statistics.pooling import POOLINGS, ScaleMeter, channel_statistics, pooled
from heads.tasks import Task
from heads.tasks.base import in_batches
from pipeline.datasets.base import Domain

N_FOLDS = 4
SHRINKAGES = (0.1, 1.0)
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Lengths of a part, beside 1 for the part that is best alone."""
N_SWEEPS = 2
"""How often every weight is looked at."""
CELL_SHARE = 16
"""Maps are so much larger than vectors that a search over cells takes as many fewer images."""
_AT_ONCE = 16

Kinds = Mapping[str, Domain | None]


@dataclass(frozen=True)
class Trial:
    """One untrained descriptor that was looked at."""

    arrays: tuple[str, ...]
    """Those in it."""
    choices: Mapping[str, PartChoice]
    score: float
    """Mean over folds of what the task compares by, a fraction of 1."""


@dataclass(frozen=True)
class SearchResult:
    """What a head chose, and everything it chose from."""

    choices: Mapping[str, PartChoice]
    trials: tuple[Trial, ...]
    """Empty if there was nothing to choose, or nothing to choose by."""
    measure: str
    """By what, and on what, in words."""

    def as_json(self) -> dict[str, Any]:
        """One plain object, for the run's folder."""
        return {
            "chosen": choices_document(self.choices),
            "measure": self.measure,
            "trials": [
                {
                    "arrays": list(trial.arrays),
                    "choices": choices_document(trial.choices),
                    "score": trial.score,
                }
                for trial in self.trials
            ],
        }

    @classmethod
    def parse(cls, document: Any) -> SearchResult:
        """What `as_json` gave. Raises ChoiceError, KeyError, TypeError or ValueError."""
        trials = [
            Trial(
                tuple(map(str, entry["arrays"])),
                parse_choices(entry["choices"]),
                float(entry["score"]),
            )
            for entry in document["trials"]
        ]
        return cls(parse_choices(document["chosen"]), tuple(trials), str(document["measure"]))


def choose(
    source: FeatureSource, task: Task[Any, Any], kinds: Kinds, settings: StatisticsConfig
) -> SearchResult:
    """Choose what `settings` leaves open, by untrained descriptors of training images.

    The same source, task and settings give the same choices. Takes seconds from a cache: at most
    `settings.n_images` images are read.
    """
    fixed = default_choices(source.shapes, task, settings)
    options = {
        name: _options(fixed[name], len(shape) == 3, task.needs_cells, settings)
        for name, shape in source.shapes.items()
        if fixed[name].weight > 0
    }
    if settings.weights is not None and all(len(some) == 1 for some in options.values()):
        return SearchResult(fixed, (), "nothing was left open")
    n_images = settings.n_images // (CELL_SHARE if task.needs_cells else 1)
    folds = task.folds(N_FOLDS, n_images)
    if not folds:
        return SearchResult(fixed, (), "defaults: untrained descriptors tell nothing here")
    describer = (_Cells if task.needs_cells else _Images)(source, folds, kinds)
    compared = _Comparison(folds, describer)
    chosen = dict(fixed)
    alone: dict[str, float] = {}
    for name, candidates in options.items():
        if task.needs_cells and len(source.shapes[name]) == 1:
            continue
        for candidate in candidates:
            score = compared({name: replace(candidate, weight=1.0)})
            if name not in alone or score > alone[name]:
                alone[name] = score
                chosen[name] = replace(candidate, weight=fixed[name].weight)
    if settings.weights is None:
        chosen |= _weighed({name: chosen[name] for name in alone}, alone, compared)
    n = sum(len(fold.parts.val) for fold in folds)
    measure = (
        f"{task.rating_name} of {n:,} on {len(folds)} "
        f"{'folds' if len(folds) > 1 else 'fold'} of the training and validation part"
    )
    return SearchResult(chosen, tuple(compared.trials), measure)


def default_choices(
    shapes: Mapping[str, tuple[int, ...]], task: Task[Any, Any], settings: StatisticsConfig
) -> dict[str, PartChoice]:
    """What a head is made of before anything is chosen: the configured, and else plain parts.

    Where a task compares whole images with cells, each part is centred and whitened: a layer's
    common offset would otherwise outweigh what differs from cell to cell.
    """
    standard = task.compares_cells
    shrinkage = settings.shrinkage
    if settings.whitening is False or (
        settings.whitening is None and shrinkage is None and not standard
    ):
        shrinkage = None
    elif shrinkage is None:
        shrinkage = DEFAULT_SHRINKAGE
    plain = PartChoice(
        centring=settings.centring or ("common" if standard else "none"),
        shrinkage=shrinkage,
        pooling=settings.pooling or "mean",
    )
    weights = settings.weights or {}
    return {
        name: replace(plain, weight=float(weights.get(name, weights.get(_family(name), 1.0))))
        for name in shapes
    }


def _family(array: str) -> str:
    """The name in `train.features` of an array: sd, clip, clip_pooled, dino or dino_pooled."""
    first, _, rest = array.partition("/")
    return f"{first}_pooled" if rest == "pooled" else first


def _options(
    fixed: PartChoice, is_map: bool, cells: bool, settings: StatisticsConfig
) -> list[PartChoice]:
    """What one array may be, plainest first: of equal scores the first is taken."""
    poolings: Sequence[Pooling] = (fixed.pooling,)
    if is_map and not cells and settings.pooling is None:
        poolings = POOLINGS
    centrings: Sequence[Centring] = CENTRINGS if settings.centring is None else (settings.centring,)
    shrinkages: Sequence[float | None]
    if settings.shrinkage is not None:
        shrinkages = (settings.shrinkage,)
    elif settings.whitening is None:
        shrinkages = (None, *SHRINKAGES)
    else:
        shrinkages = SHRINKAGES if settings.whitening else (None,)
    return [
        replace(fixed, pooling=pooling, centring=centring, shrinkage=shrinkage)
        for pooling, centring, shrinkage in product(poolings, centrings, shrinkages)
        # Whitening takes a covariance, which is about a centre.
        if shrinkage is None or centring != "none" or settings.centring == "none"
    ]


def _weighed(
    parts: Mapping[str, PartChoice], alone: Mapping[str, float], compared: _Comparison
) -> dict[str, PartChoice]:
    """The parts with the weights that are best together, the best alone having 1."""
    ordered = sorted(parts, key=lambda name: -alone[name])
    chosen = {name: replace(parts[name], weight=0.0) for name in parts}
    chosen[ordered[0]] = replace(parts[ordered[0]], weight=1.0)
    best = alone[ordered[0]]
    for _ in range(N_SWEEPS):
        for name in ordered[1:]:
            for weight in WEIGHTS:
                candidate = {**chosen, name: replace(chosen[name], weight=weight)}
                score = compared(candidate)
                if score > best:
                    best, chosen = score, candidate
    return chosen


class _Comparison:
    """Scores untrained descriptors, and keeps what came of each."""

    def __init__(self, folds: Sequence[Task[Any, Any]], describer: _Describer) -> None:
        self._folds = folds
        self._describer = describer
        self._known: dict[tuple[tuple[str, PartChoice], ...], float] = {}
        self.trials: list[Trial] = []

    def __call__(self, choices: Mapping[str, PartChoice]) -> float:
        """Mean over the folds."""
        used = {name: choice for name, choice in choices.items() if choice.weight > 0}
        key = tuple(used.items())
        if key not in self._known:
            scores = []
            for number, task in enumerate(self._folds):
                describe = self._describer.describe(number, used)
                scores.append(task.rating(task.score(task.parts.val, describe, None)))
            self._known[key] = mean(scores)
            self.trials.append(Trial(tuple(used), used, self._known[key]))
        return self._known[key]


class _Describer:
    """What the folds' images are read into, once, and what is fitted on each fold.

    Subclasses say what the vectors of an array are, and how parts make a descriptor.
    """

    def __init__(
        self, source: FeatureSource, folds: Sequence[Task[Any, Any]], kinds: Kinds
    ) -> None:
        self.ids = list(
            dict.fromkeys(
                image_id
                for task in folds
                for part in (task.parts.train, task.parts.val)
                for image_id in part.ids
            )
        )
        self.row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        self.kinds = kind_rows([kinds.get(image_id) for image_id in self.ids])
        self.train = [
            torch.tensor(
                [self.row_of[image_id] for image_id in dict.fromkeys(task.parts.train.ids)]
            )
            for task in folds
        ]
        self.shapes = source.shapes
        self._moments: dict[tuple[int, str, Pooling], Moments] = {}
        self._fitted: dict[tuple[int, str, PartChoice], tuple[Tensor, Tensor | None]] = {}
        self.load(source)

    def load(self, source: FeatureSource) -> None:
        """Read what is needed of the images."""
        raise NotImplementedError

    def describe(
        self, fold: int, choices: Mapping[str, PartChoice]
    ) -> Callable[[Sequence[str]], Descriptors]:
        """Untrained descriptors of images, fitted on a fold's training part."""
        raise NotImplementedError

    def vectors(self, name: str, pooling: Pooling, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [N, D] of some images, and their kinds [N]."""
        raise NotImplementedError

    def fitted(self, fold: int, name: str, choice: PartChoice) -> tuple[Tensor, Tensor | None]:
        """Centres [3, D] and, if it whitens, the lower Cholesky factor of the shrunk covariance.

        The inverse of any root of it whitens; cosines do not see which.
        """
        key = (fold, name, replace(choice, weight=1.0))
        if key not in self._fitted:
            moments = self._moments_of(fold, name, choice.pooling)
            root = None
            if choice.shrinkage is not None:
                covariance = moments.covariance(choice.centring)
                floor = choice.shrinkage * covariance.diagonal().mean()
                shrunk = covariance + floor.clamp(min=1e-12) * torch.eye(len(covariance))
                root = torch.linalg.cholesky(shrunk)
            self._fitted[key] = moments.centres(choice.centring), root
        return self._fitted[key]

    def standardise(
        self, fold: int, name: str, choice: PartChoice, vectors: Tensor, kinds: Tensor
    ) -> Tensor:
        """Vectors [N, D] centred and whitened, float32."""
        centres, root = self.fitted(fold, name, choice)
        values = vectors.double() - centres[kinds]
        if root is not None:
            values = torch.linalg.solve_triangular(root, values.T, upper=False).T
        return values.float()

    def _moments_of(self, fold: int, name: str, pooling: Pooling) -> Moments:
        key = (fold, name, pooling)
        if key not in self._moments:
            vectors, kinds = self.vectors(name, pooling, self.train[fold])
            self._moments[key] = Moments(vectors.shape[1])
            self._moments[key].update(vectors, kinds)
        return self._moments[key]


class _Images(_Describer):
    """Pooled descriptors; of maps only statistics are kept."""

    @torch.no_grad()
    def load(self, source: FeatureSource) -> None:
        maps = [name for name, shape in self.shapes.items() if len(shape) == 3]
        meters = {name: ScaleMeter() for name in maps}
        # The scales need no more than a few images, and are no choice between candidates.
        for batch in in_batches(self.ids[:: max(1, len(self.ids) // 256)], _AT_ONCE):
            read = source.maps(batch)
            for name in maps:
                meters[name].update(read[name])
        scales = {name: meter.result() for name, meter in meters.items()}
        kept: dict[str, list[Tensor]] = {name: [] for name in self.shapes}
        for batch in in_batches(self.ids, _AT_ONCE):
            read = source.maps(batch)
            for name, values in read.items():
                if name in scales:
                    values = channel_statistics(values, scales[name])
                kept[name].append(values.cpu())
        self._values = {name: torch.cat(parts) for name, parts in kept.items()}

    def vectors(self, name: str, pooling: Pooling, rows: Tensor) -> tuple[Tensor, Tensor]:
        values = self._values[name][rows]
        return (pooled(values, pooling) if values.ndim == 3 else values), self.kinds[rows]

    def describe(
        self, fold: int, choices: Mapping[str, PartChoice]
    ) -> Callable[[Sequence[str]], Descriptors]:
        everything = torch.arange(len(self.ids))
        parts = []
        for name, choice in choices.items():
            vectors, kinds = self.vectors(name, choice.pooling, everything)
            standard = self.standardise(fold, name, choice, vectors, kinds)
            parts.append(choice.weight * F.normalize(standard, dim=1))
        whole = F.normalize(torch.cat(parts, dim=1), dim=1)

        def describe(ids: Sequence[str]) -> Descriptors:
            found = whole[[self.row_of[image_id] for image_id in ids]]
            return Descriptors(found[:, :, None, None], found)

        return describe


class _Cells(_Describer):
    """Descriptors of cells; the maps themselves are kept, at their own size."""

    @torch.no_grad()
    def load(self, source: FeatureSource) -> None:
        kept: dict[str, list[Tensor]] = {n: [] for n, s in self.shapes.items() if len(s) == 3}
        for batch in in_batches(self.ids, _AT_ONCE):
            read = source.maps(batch)
            for name, parts in kept.items():
                parts.append(read[name].cpu())
        self._maps = {name: torch.cat(parts) for name, parts in kept.items()}
        self.grid = max(max(shape[1:]) for shape in self.shapes.values() if len(shape) == 3)

    def vectors(self, name: str, pooling: Pooling, rows: Tensor) -> tuple[Tensor, Tensor]:
        cells = self._maps[name][rows].flatten(2).transpose(1, 2)
        return cells.flatten(0, 1), self.kinds[rows].repeat_interleave(cells.shape[1])

    def describe(
        self, fold: int, choices: Mapping[str, PartChoice]
    ) -> Callable[[Sequence[str]], Descriptors]:
        def describe(ids: Sequence[str]) -> Descriptors:
            rows = torch.tensor([self.row_of[image_id] for image_id in ids])
            parts = []
            for name, choice in choices.items():
                cells, kinds = self.vectors(name, choice.pooling, rows)
                standard = self.standardise(fold, name, choice, cells, kinds)
                height, width = self._maps[name].shape[2:]
                layer_map = standard.view(len(rows), height, width, -1).permute(0, 3, 1, 2)
                parts.append(choice.weight * F.normalize(resize(layer_map, self.grid), dim=1))
            spatial = F.normalize(torch.cat(parts, dim=1), dim=1)
            return Descriptors(spatial, F.normalize(spatial.mean((2, 3)), dim=1))

        return describe
