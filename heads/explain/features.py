"""Feature maps themselves: as colours, and by spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence

from cache import FeatureStore
from cache.insight.spectrum import Spectrum
from heads.explain.choosing import evenly, spread
from heads.explain.opened import Explained, ExplainError, read_picture
from heads.pca import colour_maps
from heads.plots import MappedImages, SpectrumMeter
from pipeline.datasets.base import Dataset
from pipeline.extraction.arrays import LATENT

_AT_ONCE = 16
FUSED = "descriptors of the run"


def mapped_images(
    store: FeatureStore, dataset: Dataset | None, ids: Sequence[str], n: int
) -> list[MappedImages]:
    """Maps of `n` pairs of the dataset in colours that sketch and photo share, spread over the
    categories; with `ids` of these images, which then share them; pictures where there is a
    dataset.

    Raises ExplainError where there are no pairs to choose from, StoreError for an unknown image,
    and OSError, DatasetError or ImageError for a picture.
    """
    names = map_arrays(store)
    groups = [tuple(ids)] if ids else _pairs(store, dataset, names, n)
    return [mapped_group(store, dataset, group, names) for group in groups]


def mapped_group(
    store: FeatureStore, dataset: Dataset | None, ids: Sequence[str], names: Sequence[str]
) -> MappedImages:
    """Maps of these images in colours that they share; pictures where there is a dataset.

    Raises StoreError for an unknown image, and OSError, DatasetError or ImageError for a picture.
    """
    maps = {
        name: colour_maps(list(values.float().numpy()))
        for name, values in store.read(ids, names).items()
    }
    pictures = () if dataset is None else tuple(read_picture(dataset, name) for name in ids)
    return MappedImages(tuple(ids), maps, pictures)


def store_spectra(store: FeatureStore, n: int) -> dict[str, Spectrum]:
    """Spectra of a store's maps over `n` of its images, at equal distances in their order.

    Raises ExplainError for a store without maps.
    """
    names = map_arrays(store)
    chosen = evenly(store.readable(names), n)
    meters = {name: SpectrumMeter() for name in names}
    for start in range(0, len(chosen), _AT_ONCE):
        for name, values in store.read(chosen[start : start + _AT_ONCE], names).items():
            meters[name].update(values.float().numpy())
    return {name: meter.result() for name, meter in meters.items()}


def run_spectra(explained: Explained, n: int) -> dict[str, Spectrum]:
    """Spectra of the maps that a run reads, and of its descriptors, over `n` images of its test
    part, at equal distances in their order."""
    source = explained.experiment.source
    names = [name for name, shape in source.shapes.items() if _has_cells(shape)]
    chosen = evenly(explained.experiment.task.parts.test.ids, n)
    meters = {name: SpectrumMeter() for name in (*names, FUSED)}
    for start in range(0, len(chosen), _AT_ONCE):
        ids = chosen[start : start + _AT_ONCE]
        maps = source.maps(ids)
        for name in names:
            meters[name].update(maps[name].detach().cpu().numpy())
        meters[FUSED].update(explained.describe(ids).spatial.cpu().numpy())
    return {name: meter.result() for name, meter in meters.items()}


def map_arrays(store: FeatureStore) -> list[str]:
    """The store's arrays that a head may read and that have cells. Raises ExplainError."""
    names = [
        name
        for name, array in store.arrays.items()
        if _has_cells(array.shape) and name != LATENT and not name.startswith("prefix/")
    ]
    if not names:
        raise ExplainError(f"{store.path}: has no feature maps; precompute some into it")
    return sorted(names, key=lambda name: (name.split("/")[0] != "sd", name))


def _pairs(
    store: FeatureStore, dataset: Dataset | None, names: Sequence[str], n: int
) -> list[tuple[str, ...]]:
    if dataset is None:
        raise ExplainError(
            f"{store.path}: a store knows no pairs; name its configuration with --config, or "
            "images with --image"
        )
    known = set(store.readable(names))
    pairs = [pair for pair in dataset.annotations.pairs if {pair.sketch, pair.photo} <= known]
    if not pairs:
        raise ExplainError(
            f"{store.path}: has no sketch beside its photo by that configuration; name images "
            "with --image"
        )
    return [(pair.sketch, pair.photo) for pair in spread(pairs, lambda pair: pair.category, n)]


def _has_cells(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and min(shape[1:]) > 1
