"""Stored latents instead of pictures, for work that needs neither VAE nor CLIP again."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from cache import DamagedStore, FeatureStore, ShardTask, StorePath
from pipeline.extraction.arrays import CLIP_POOLED, CLIP_TOKENS, LATENT
from pipeline.inputs.loader import RowBatch


@dataclass(frozen=True)
class LatentBatch:
    """Latents float32 [B, 4, h, w] of `rows`, as `SquareBatch` is for pixels."""

    key: int
    rows: list[int]
    latents: Tensor
    unreadable: dict[int, str]
    seconds: float


def store_of_latents(path: StorePath, tasks: Sequence[ShardTask]) -> FeatureStore | None:
    """The store, if every task only adds plain SD layers to images whose latents are in it.

    It is opened only where the tasks leave that possible: a large store takes a second to open.
    """
    needs_pixels = {LATENT, CLIP_TOKENS, CLIP_POOLED}
    if any(needs_pixels & set(task.arrays) for task in tasks):
        return None
    try:
        store = FeatureStore.open(path)
        committed = store.committed.get(LATENT)
    except DamagedStore:
        return None  # It is being repaired.
    suffices = committed is not None and all(
        committed[task.rows.start : task.rows.stop].all() for task in tasks
    )
    return store if suffices else None


def load_latents(store: FeatureStore, batches: Iterable[RowBatch]) -> Generator[LatentBatch]:
    """Stored latents in batches; an image that is quarantined stays so, for the same reason."""
    quarantined = store.quarantined
    for batch in batches:
        start = time.perf_counter()
        unreadable = {
            row: quarantined[store.ids[row]] for row in batch.rows if store.ids[row] in quarantined
        }
        rows = [row for row in batch.rows if row not in unreadable]
        latents = store.read([store.ids[row] for row in rows], [LATENT], check=True)[LATENT]
        seconds = time.perf_counter() - start
        yield LatentBatch(batch.key, rows, latents, unreadable, seconds)
