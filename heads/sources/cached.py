"""Feature maps read from stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cache import FeatureStore, Recipe, RecipeMismatch, RemotePath, StoreError
from heads.sources.ahead import ReadAhead
from pipeline.networks.transfer import to_device


class CachedFeatures:
    """Reads features from one store or several of one recipe: an image from whichever has it.

    Args:
        stores: opened stores, the first that can give an image is asked for it.
        arrays: what is read of each image; every store must have them.
        device: where the maps go.
        recipe: what every store must have been made with; None is the first store's.

    Raises:
        RecipeMismatch: a store was made with another recipe; the message names the fields.
        StoreError: a store lacks an array, or two stores mean different images by one id.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        arrays: Sequence[str],
        device: torch.device,
        recipe: Recipe | None = None,
    ) -> None:
        if not stores:
            raise StoreError("no store to read features from; name at least one")
        self.trained: nn.Module | None = None
        self.recipe = recipe or stores[0].recipe
        self.arrays = tuple(arrays)
        self.device = device
        self._stores = tuple(stores)
        self._sha256: dict[str, str] = {}
        self._home: dict[str, FeatureStore] = {}
        for store in stores:
            _check_recipe(store, self.recipe)
            for image in store.images:
                if self._sha256.setdefault(image.id, image.sha256) != image.sha256:
                    raise StoreError(
                        f"{store.path}: {image.id} is another picture than the one of that name "
                        "in a store before it; read these stores apart"
                    )
            for image_id in store.readable(arrays):
                self._home.setdefault(image_id, store)
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: stores[0].arrays[name].shape for name in self.arrays
        }
        self.ids = tuple(self._home)
        # A processor that computes has no time to spare for copies out of the page cache.
        self.reads_ahead = device.type == "cuda" or any(
            isinstance(store.path, RemotePath) for store in stores
        )
        """Whether expected batches are read before they are asked for."""
        self._ahead = ReadAhead(self._read)

    def expect(self, ids: Sequence[str]) -> None:
        """See `FeatureSource.expect`."""
        if self.reads_ahead:
            self._ahead.expect(ids)

    def maps(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """See `FeatureSource.maps`."""
        read = self._ahead.take(ids)
        return {name: to_device(value, self.device).float() for name, value in read.items()}

    def _read(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """As they are stored, on the CPU."""
        pin = self.device.type == "cuda"
        positions: dict[FeatureStore, list[int]] = {}
        for position, image_id in enumerate(ids):
            positions.setdefault(self._store_of(image_id), []).append(position)
        parts = [
            store.read([ids[position] for position in where], self.arrays, pin=pin)
            for store, where in (positions or {self._stores[0]: []}).items()
        ]
        read = parts[0]
        if len(parts) > 1:
            order = torch.tensor([p for where in positions.values() for p in where]).argsort()
            read = {name: torch.cat([part[name] for part in parts])[order] for name in self.arrays}
        return read

    def sha256(self, image_id: str) -> str:
        """Hex digest of the image file's bytes."""
        return self._sha256[image_id]

    def _store_of(self, image_id: str) -> FeatureStore:
        """The store to ask; where none can give the image, one that knows why."""
        found = self._home.get(image_id)
        if found is None:
            found = next((s for s in self._stores if image_id in s), self._stores[0])
        return found


def _check_recipe(store: FeatureStore, asked: Recipe) -> None:
    differences = store.recipe.differences(asked)
    if differences:
        raise RecipeMismatch(
            f"{store.path}: made with another recipe ({'; '.join(differences)}); "
            "precompute a store for this one"
        )
