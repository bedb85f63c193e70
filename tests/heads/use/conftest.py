"""Runs of the small world, opened once for the tests of their use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from heads.use import Trained, open_trained
from tests.heads.worlds import World

Open = Callable[[str], Trained]


@pytest.fixture(scope="session")
def opened(runs: Callable[[str], Path]) -> Open:
    """A run of a task, opened."""
    return cache(lambda task: open_trained(runs(task)))


@pytest.fixture(scope="session")
def pictures(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the small world as files, under their ids."""
    from configs import load_config
    from pipeline.job import open_configured

    root = tmp_path_factory.mktemp("pictures")
    dataset = open_configured(load_config(world.config))
    for image_id in dataset.ids:
        path = root / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(image_id))
    return root
