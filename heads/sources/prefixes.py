"""Where the UNet may start instead of at its latents: prefixes from stores, or from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cache import FeatureStore
from heads.sources.cached import CachedFeatures
from pipeline.extraction.arrays import layer_array, prefix_array
from pipeline.networks.transfer import to_device

Start = dict[str, Tensor]
"""Where the UNet stands when it first meets a trained site, that site's injection still to come:
the parts of `pipeline.networks.prefix.pack`, and by name the layers already there (float32)."""


class StoredPrefixes:
    """Prefixes at one site, of those images and timesteps for which a store has them.

    A prefix is used only if the store's injection is, before the site, the one that is asked for.
    Parts come in the precision they were computed in, rounded as they are stored; layers before
    the site are the store's own.

    Args:
        stores: of one recipe.
        site: the first trained site.
        parts: names of the parts of a prefix there.
        layers: layers before the site that are wanted too.
        timesteps: what may be asked for.
        n_draws: noise draws of the recipe.
        before: digests, as `pipeline.networks.prefix.site_digests` gives them, of the sites
            injected before this one.
        possible: every site that lies before this one.
        device, dtype: where the parts go, and as what.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        site: str,
        parts: Sequence[str],
        layers: Sequence[str],
        timesteps: Sequence[int],
        n_draws: int,
        before: Mapping[str, str],
        possible: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._parts = tuple(parts)
        self._layers = tuple(layers)
        self._site = site
        self._dtype = dtype
        self._sources: dict[tuple[int, int], CachedFeatures] = {}
        self._ids: dict[int, frozenset[str]] = {}
        self._problem = f"no prefix at {site} is stored (extraction.prefix={site} adds it)"
        for timestep in timesteps:
            having = [store for store in stores if self._has(store, timestep, n_draws)]
            fitting = [store for store in having if _injected(store, possible) == before]
            if having and not fitting:
                self._problem = f"the stored prefix at {site} has another injection before it"
            if not fitting:
                continue
            for draw in range(n_draws):
                names = list(self._names(timestep, draw))
                self._sources[timestep, draw] = CachedFeatures(fitting, names, device)
            self._ids[timestep] = frozenset.intersection(
                *(frozenset(self._sources[timestep, draw].ids) for draw in range(n_draws))
            )

    def __contains__(self, key: tuple[str, int, int]) -> bool:
        image_id, timestep, _ = key
        return image_id in self._ids.get(timestep, ())

    def expect(self, ids: Sequence[str]) -> None:
        """Begin to read the starts of those images that are here."""
        for (timestep, _), source in self._sources.items():
            here = [image_id for image_id in ids if image_id in self._ids[timestep]]
            if here:
                source.expect(here)

    def read(self, ids: Sequence[str], timestep: int, draw: int) -> Start:
        """The starts [B, ...] of images that are here."""
        names = self._names(timestep, draw)
        found = self._sources[timestep, draw].maps(ids)
        start = {part: found[name] for name, part in names.items()}
        return start | {part: start[part].to(self._dtype) for part in self._parts}

    def describe(self, ids: Sequence[str], timesteps: Sequence[int]) -> str:
        """Where the UNet starts for these images and timesteps, in words for the log."""
        keys = [(image_id, timestep, 0) for image_id in ids for timestep in timesteps]
        n_stored = sum(key in self for key in keys)
        if not n_stored:
            return f"it starts at the latents: {self._problem}"
        share = f" for {n_stored:,} of {len(keys):,} pairs of image and timestep"
        share = share if n_stored < len(keys) else ""
        return f"it starts at the stored prefix at {self._site}{share}"

    def _names(self, timestep: int, draw: int) -> dict[str, str]:
        """What a start consists of, by array name."""
        parts = {prefix_array(timestep, self._site, draw, part): part for part in self._parts}
        return parts | {layer_array(timestep, layer): layer for layer in self._layers}

    def _has(self, store: FeatureStore, timestep: int, n_draws: int) -> bool:
        return all(
            name in store.arrays for draw in range(n_draws) for name in self._names(timestep, draw)
        )


class Memory:
    """Keeps what fits and never lets go: in shuffled epochs every image kept is a hit."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self._starts: dict[tuple[str, int, int], Start] = {}

    def __contains__(self, key: tuple[str, int, int]) -> bool:
        return key in self._starts

    def read(self, keys: Sequence[tuple[str, int, int]], device: torch.device) -> Start:
        """The starts [B, ...] of keys that are here."""
        starts = [self._starts[key] for key in keys]
        return {name: to_device(torch.cat([s[name] for s in starts]), device) for name in starts[0]}

    def keep(self, keys: Sequence[tuple[str, int, int]], batch: Start) -> None:
        """Copy to the CPU what fits and is not there already."""
        size = sum(tensor[:1].nbytes for tensor in batch.values())
        new = {key: row for row, key in enumerate(keys) if key not in self._starts}
        fitting = list(new)[: self._left // size]
        if not fitting:
            return
        self._left -= len(fitting) * size
        # Whole first: a GPU is waited for once, and not for every image.
        here = {name: tensor.cpu() for name, tensor in batch.items()}
        for key in fitting:
            row = slice(new[key], new[key] + 1)
            self._starts[key] = {name: tensor[row].clone() for name, tensor in here.items()}


def _injected(store: FeatureStore, sites: Sequence[str]) -> dict[str, str] | None:
    """Digests of the weights that a store was made with at these sites, None if unknown."""
    if not sites or store.recipe.fields.get("injection") is None:
        return {}
    known = store.provenance.get("injection")
    if not isinstance(known, dict):
        return None
    return {site: str(known[site]) for site in sites if site in known}
