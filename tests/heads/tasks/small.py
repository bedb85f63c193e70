"""Small parts and made-up descriptors for the tests of the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configs import TrainConfig
from heads.aggregation import Descriptors
from heads.frame import Frame
from heads.protocols import SearchPart
from heads.tasks import Located

RESOLUTION = 48


def frame_of(sizes: dict[str, tuple[int, int]], pad: str = "edge") -> Frame:
    return Frame(sizes, RESOLUTION, pad)


def settings(task: str, **keys: Any) -> TrainConfig:
    """Defaults but for `batch_size` and the keys of the task's own section."""
    own = {key: keys.pop(key) for key in ("batch_size", "seed") if key in keys}
    return TrainConfig.model_validate({**own, task: keys})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class MadeUp:
    """Unit descriptors of images by id; notes which were asked for."""

    def __init__(self, ids: Iterable[str], width: int = 6, grid: int = 4, seed: int = 0) -> None:
        chance = generator(seed)
        self.spatial: dict[str, Tensor] = {}
        self.pooled: dict[str, Tensor] = {}
        self.asked: list[str] = []
        for name in dict.fromkeys(ids):
            cells = torch.randn(width, grid, grid, generator=chance)
            self.spatial[name] = F.normalize(cells, dim=0)
            self.pooled[name] = F.normalize(cells.mean((1, 2)), dim=0)

    def __call__(self, ids: Sequence[str]) -> Descriptors:
        self.asked += ids
        return Descriptors(
            torch.stack([self.spatial[name] for name in ids]),
            torch.stack([self.pooled[name] for name in ids]),
        )

    def all_the_same(self, value: float) -> MadeUp:
        """Every entry of every descriptor becomes `value`, not normalised."""
        for known in (self.spatial, self.pooled):
            for name in known:
                known[name] = torch.full_like(known[name], value)
        return self

    def located(self, ids: Sequence[str]) -> tuple[Located, Descriptors]:
        """As a training step has them: leaves that gradients arrive at."""
        found = Descriptors(*(part.clone().requires_grad_() for part in self(ids)[:2]))
        return Located.of(ids, found), found


def search_part(
    sketches: dict[str, tuple[str, str | None]], photos: dict[str, str], kind: Any = SearchPart
) -> Any:
    """A part of sketches (category and own photo) and photos (category)."""
    return kind(
        tuple(sketches),
        tuple(category for category, _ in sketches.values()),
        tuple(source for _, source in sketches.values()),
        tuple(photos),
        tuple(photos.values()),
    )
