"""The user's own pictures in a demonstration: their features, and which of them are alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cache import FeatureStore
from configs import Config
from configs.schema import DatasetConfig
from heads.demo.records import OwnPictures
from heads.explain.choosing import evenly
from heads.explain.features import mapped_group
from heads.plots.records import Ranking
from heads.use.gallery import is_photo
from heads.use.opening import open_trained
from heads.use.pictures import UseError, load_picture
from heads.use.retrieve import open_gallery
from pipeline.compute import Listener
from pipeline.job import open_configured
from pipeline.precompute import precompute

N_MAPPED = 6
"""Pictures whose feature maps are shown."""
N_QUERIES = 6
N_HITS = 6


def own_config(demo: Config, folder: Path) -> Config:
    """The demonstration's configuration with a folder of pictures in place of its world.

    Raises DatasetError where the folder is not there.
    """
    dataset = DatasetConfig(name="folder", root=folder)
    config = demo.model_copy(update={"dataset": dataset})
    open_configured(config)
    return config


def show_own(
    config: Config, store_path: Path, run: Path, arrays: Sequence[str], images: Listener
) -> OwnPictures:
    """Precompute a folder of pictures as the demonstration's were, and look at them.

    Sketches (below a folder called `sketch`) look for photos; where there are none, some of the
    pictures look for others.

    Args:
        config: from `own_config`.
        store_path: where their features go.
        run: the run whose head says what is alike.
        arrays: maps that are shown.
        images: told about the progress of the precompute.

    Raises:
        UseError: none of the pictures can be read. Otherwise as `precompute`.
    """
    folder = config.dataset.root
    assert folder is not None
    started = time.perf_counter()
    report = precompute(config, store_path, listener=images)
    seconds = time.perf_counter() - started
    store, dataset = FeatureStore.open(store_path), open_configured(config)
    there = set(store.readable(arrays))
    ids = [image_id for image_id in dataset.ids if image_id in there]
    if not ids:
        raise UseError(f"{folder}: none of its pictures could be read; give another folder")
    return OwnPictures(
        folder=folder.as_posix(),
        n_pictures=len(ids),
        quarantined=report.quarantined,
        seconds=seconds,
        mapped=mapped_group(store, dataset, evenly(ids, N_MAPPED), arrays),
        rankings=_alike(run, store_path, folder, ids),
    )


def _alike(run: Path, store_path: Path, folder: Path, ids: Sequence[str]) -> tuple[Ranking, ...]:
    """Queries with what is most like them; none where there are no two pictures to compare."""
    photos = [image_id for image_id in ids if is_photo(image_id)]
    sketches = [image_id for image_id in ids if not is_photo(image_id)]
    if not photos or (not sketches and len(photos) == 1):
        return ()
    gallery = open_gallery(open_trained(run), store_path)
    results = []
    for image_id in evenly(sketches or photos, N_QUERIES):
        query = load_picture(folder / image_id)
        found = [photo for photo in gallery.search(query, N_HITS + 1) if photo.id != image_id]
        results.append((query, found[:N_HITS]))
    return tuple(gallery.rankings(results, folder))
