"""What the numbers of a store look like: moments, range, principal components, spectrum.

dask.array walks over the images in blocks; every block is read once and becomes a few sums, so
memory does not grow with the store.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.core import flatten

from cache.errors import VERIFY_HINT, StoreError
from cache.exchange.contents import chosen_names
from cache.insight.spectrum import power_spectrum, radial_spectrum
from cache.reading.reader import FeatureStore
from cache.storage.remote import StorePath

N_SHARES = 10
"""Principal components whose shares of the variance are told."""
_BLOCK_BYTES = 8 * 2**20
"""Of a block's values in float64; some copies of them live at a time, in every thread."""
_FAN_IN = 8
"""Sums that are added in one go; so many wait at each level."""


@dataclass(frozen=True)
class ArrayStats:
    """One feature in numbers.

    Cells that hold NaN or infinity in some channel count for `non_finite` alone.
    """

    name: str
    dtype: str
    """As stored; int8 is decoded first."""
    shape: tuple[int, ...]
    """Per image."""
    n_images: int
    """Images that can be read: computed, and not quarantined."""
    mean: float
    deviation: float
    minimum: float
    maximum: float
    of_float16: float
    """Largest magnitude over the largest float16 (65,504): above 1 it would overflow."""
    non_finite: float
    """Share of NaN and infinity: 0 in a sound store."""
    pca_shares: list[float]
    """Shares of the variance of the first principal components, over the feature vectors [C] of
    all cells and images (of descriptors: of all images)."""
    pca_90: int
    """Components that hold 90 % of the variance."""
    spectrum: list[float] | None
    """Share of the variance per frequency cell at 1, 2, ... cycles per image; None for
    descriptors and maps of one cell. See `cache.insight.spectrum`."""
    mean_frequency: float | None
    """Cycles per image, weighted by power."""


def store_stats(path: str | StorePath, arrays: Sequence[str] = ()) -> list[ArrayStats]:
    """Statistics of a store's features, or of those that names or globs fit.

    Left out are images that are not computed yet or quarantined, and features that no image has.
    Runs in threads of this process; `dask.diagnostics.ProgressBar` shows how far it is. Raises
    StoreError as reading does, and where a feature holds nothing but NaN and infinity.
    """
    store = FeatureStore.open(path)
    names = chosen_names(store.arrays, arrays, store.path)
    features = {name: dask_array(store, name) for name in names if store.readable([name])}
    totals = dask.compute(*map(_summed, features.values()), scheduler="threads")
    return [
        _array_stats(store, name, len(feature), sums)
        for (name, feature), sums in zip(features.items(), totals, strict=True)
    ]


def dask_array(store: FeatureStore, name: str) -> da.Array:
    """A feature of all images that can be read, [N, C, H, W] or [N, D], as a dask array.

    Rows are in the order of ``store.readable([name])``; int8 is decoded. Nothing is read yet;
    a block is read whole, and is small. Raises StoreError for an unknown feature.
    """
    ids = store.readable([name])
    spec = store.arrays[name]
    dtype = np.dtype("float16" if spec.dtype == "float16" else "float32")
    image_bytes = math.prod(spec.shape) * np.dtype(np.float64).itemsize

    def block(rows: np.ndarray) -> np.ndarray:
        return store.read([ids[row] for row in rows], [name])[name].numpy()

    rows = da.arange(len(ids), chunks=max(1, _BLOCK_BYTES // image_bytes))
    return rows.map_blocks(
        block,
        new_axis=list(range(1, 1 + len(spec.shape))),
        chunks=(rows.chunks[0], *((size,) for size in spec.shape)),
        meta=np.empty((0,) * (1 + len(spec.shape)), dtype),
    )


def _summed(feature: da.Array) -> da.Array:
    return da.reduction(
        feature,
        chunk=_sums,
        aggregate=_added,
        dtype=object,
        concatenate=False,
        split_every=_FAN_IN,
        meta=np.empty((), object),
    )


def _array_stats(store: FeatureStore, name: str, n_images: int, sums: _Sums) -> ArrayStats:
    if not sums.n_vectors:
        raise StoreError(f"{store.path}: {name} holds no number at all; {VERIFY_HINT}")
    mean = sums.mean.mean()
    variance = (np.diagonal(sums.scatter) / sums.n_vectors + np.square(sums.mean - mean)).mean()
    spread = np.linalg.eigvalsh(sums.scatter)[::-1].clip(0)
    shares = spread / max(spread.sum(), np.finfo(float).tiny)
    spectrum = None if sums.powers is None else radial_spectrum(sums.powers)
    return ArrayStats(
        name=name,
        dtype=store.arrays[name].dtype,
        shape=store.arrays[name].shape,
        n_images=n_images,
        mean=float(mean),
        deviation=math.sqrt(variance),
        minimum=sums.minimum,
        maximum=sums.maximum,
        of_float16=max(abs(sums.minimum), abs(sums.maximum)) / float(np.finfo(np.float16).max),
        non_finite=sums.n_non_finite / sums.n_values,
        pca_shares=shares[:N_SHARES].tolist(),
        pca_90=int((shares.cumsum() < 0.9).sum()) + 1,
        spectrum=None if spectrum is None else spectrum.power.tolist(),
        mean_frequency=None if spectrum is None else spectrum.mean_frequency,
    )


@dataclass(frozen=True)
class _Sums:
    """What is kept of a part of the images; two parts add up to that of both.

    Mean and scatter are kept instead of plain sums, which would lose the variance of numbers
    that are far from zero.
    """

    n_values: int
    n_non_finite: int
    minimum: float
    maximum: float
    n_vectors: int
    """Cells without NaN and infinity; everything below is of them."""
    mean: np.ndarray
    """float64 [C]."""
    scatter: np.ndarray
    """float64 [C, C]: sum of the outer products of their distances from the mean."""
    powers: np.ndarray | None
    """float64 [C, h, w]: power spectra, summed over the maps that are finite everywhere."""

    def __add__(self, other: _Sums) -> _Sums:
        n_vectors = self.n_vectors + other.n_vectors
        weight = other.n_vectors / max(n_vectors, 1)
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.n_vectors * weight)
        powers = self.powers
        if powers is not None and other.powers is not None:
            powers = powers + other.powers
        return _Sums(
            self.n_values + other.n_values,
            self.n_non_finite + other.n_non_finite,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            n_vectors,
            self.mean + step * weight,
            self.scatter + other.scatter + between,
            powers,
        )


def _sums(block: np.ndarray, axis: Any, keepdims: bool) -> _Sums:
    """The sums of a block [B, C, H, W] or [B, D]; dask's other arguments mean nothing here."""
    n_channels = block.shape[1]
    # Once, to the type of the sums: numpy's arithmetic on float16 is several times slower.
    values = np.moveaxis(block, 1, -1).astype(np.float64).reshape(-1, n_channels)
    n_finite = values.size
    maps = block
    if not np.isfinite(values.sum()):
        finite = np.isfinite(values)
        n_finite = int(np.count_nonzero(finite))
        values = values[finite.all(1)]
        maps = block[np.isfinite(block).all(tuple(range(1, block.ndim)))]
    minimum, maximum = values.min(initial=np.inf), values.max(initial=-np.inf)
    mean = values.mean(0) if len(values) else np.zeros(n_channels)
    values -= mean
    powers = None
    if block.ndim == 4 and min(block.shape[2:]) > 1:
        powers = power_spectrum(maps)
    return _Sums(
        n_values=block.size,
        n_non_finite=block.size - n_finite,
        minimum=float(minimum),
        maximum=float(maximum),
        n_vectors=len(values),
        mean=mean,
        scatter=values.T @ values,
        powers=powers,
    )


def _added(parts: Any, axis: Any, keepdims: bool) -> _Sums:
    """The sums of all blocks in dask's nested lists."""
    return reduce(operator.add, flatten([parts]))
