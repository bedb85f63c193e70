"""Descriptors of a gallery's photos, kept in the run's folder by the photos' content.

RUN/galleries/{name}.safetensors holds them, its .json says of which place and which run's weights.
Content and weights decide what is used, so nothing stale ever is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from cache import StorePath
from heads.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from heads.use.trained import Log, Trained

FOLDER = "galleries"


class KeptDescriptors:
    """Pooled descriptors by the hex SHA-256 of the photo's file."""

    def __init__(self, trained: Trained, place: StorePath, log: Log) -> None:
        where = str(place.resolve())
        name = hashlib.sha256(where.encode()).hexdigest()[:16]
        self._path = trained.run.folder / FOLDER / f"{name}.safetensors"
        self._facts = {"gallery": where, "fingerprint": trained.fingerprint}
        self._log = log
        self._rows: dict[str, Tensor] = {}
        self._load()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._rows

    def add(self, sha256s: Sequence[str], pooled: Tensor) -> None:
        """Remember descriptors [B, P]."""
        self._rows |= zip(sha256s, pooled, strict=True)

    def rows(self, sha256s: Sequence[str]) -> Tensor:
        """Descriptors float32 [N, P] of photos that are here."""
        return torch.stack([self._rows[sha256] for sha256 in sha256s])

    def save(self, sha256s: Collection[str]) -> None:
        """Write those of these photos that are here; where it cannot be done, say so."""
        there = [sha256 for sha256 in dict.fromkeys(sha256s) if sha256 in self._rows]
        if not there:
            return
        tensors = {
            "descriptors": self.rows(there),
            "sha256": torch.tensor([list(bytes.fromhex(s)) for s in there], dtype=torch.uint8),
        }
        try:
            self._path.parent.mkdir(exist_ok=True)
            save_checkpoint(self._path, Checkpoint(tensors, self._facts))
        except OSError as error:
            self._log(
                f"{self._path}: cannot be written ({error.strerror}); the next time "
                "the gallery's descriptors are computed anew"
            )

    def _load(self) -> None:
        try:
            checkpoint = load_checkpoint(self._path)
            known = checkpoint.tensors["sha256"], checkpoint.tensors["descriptors"]
        except (CheckpointError, KeyError):
            return  # Nothing is kept, or it was damaged: it is computed.
        if checkpoint.facts == self._facts:
            shas, descriptors = known
            names = (bytes(row).hex() for row in shas.numpy())
            self._rows = dict(zip(names, descriptors, strict=True))
