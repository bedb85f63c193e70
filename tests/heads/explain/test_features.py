"""Maps in colours and spectra of a store and of a run."""

from __future__ import annotations

import numpy as np
import pytest

from cache import FeatureStore
from configs import load_config
from heads.explain import ExplainError
from heads.explain.features import FUSED, map_arrays, mapped_images, run_spectra, store_spectra
from heads.pca import colour_maps
from heads.plots import SpectrumMeter
from pipeline.job import open_configured
from tests.heads.explain.conftest import Ask
from tests.heads.worlds import World

ARRAYS = ["sd/t195/s3", "sd/t195/s4", "sd/t195/s5", "clip/tokens"]


@pytest.fixture
def store(world: World) -> FeatureStore:
    return FeatureStore.open(world.store)


def test_pairs_share_their_colours(world: World, store: FeatureStore) -> None:
    dataset = open_configured(load_config(world.config))
    groups = mapped_images(store, dataset, (), 3)
    pairs = {(pair.sketch, pair.photo) for pair in dataset.annotations.pairs}
    assert len(groups) == 3 and all(group.names in pairs for group in groups)
    assert len({group.names[0].split("/")[1] for group in groups}) == 3
    for group in groups:
        assert list(group.maps) == ARRAYS
        assert [picture.name for picture in group.pictures] == list(group.names)
        maps = store.read(group.names, ["clip/tokens"])["clip/tokens"].float().numpy()
        for ours, theirs in zip(
            group.maps["clip/tokens"].maps, colour_maps(list(maps)).maps, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_a_store_alone_shows_the_images_that_are_named(store: FeatureStore) -> None:
    ids = store.ids[5:8]
    (group,) = mapped_images(store, None, ids, 1)
    assert list(group.names) == ids and not group.pictures
    with pytest.raises(ExplainError, match="--config"):
        mapped_images(store, None, (), 1)


def test_spectra_of_a_store_are_of_its_maps(store: FeatureStore) -> None:
    spectra = store_spectra(store, 20)
    assert list(spectra) == ARRAYS == map_arrays(store)
    meter = SpectrumMeter()
    chosen = [store.ids[i * len(store.ids) // 20] for i in range(20)]
    meter.update(store.read(chosen, ["sd/t195/s4"])["sd/t195/s4"].float().numpy())
    np.testing.assert_allclose(spectra["sd/t195/s4"].power, meter.result().power)


def test_spectra_of_a_run_include_what_it_makes_of_the_maps(ask: Ask) -> None:
    explained = ask("correspondence")
    spectra = run_spectra(explained, 12)
    assert set(spectra) == {*ARRAYS, FUSED}
    grid = explained.experiment.config.train.grid
    assert len(spectra[FUSED].frequencies) == grid // 2
