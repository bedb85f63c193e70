"""Runs of all tasks on the small world, trained when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.heads.worlds import World

Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a run of a task; not evaluated, and not to be changed."""
    root = tmp_path_factory.mktemp("runs")

    @cache
    def folder(task: str) -> Path:
        world.train(root / task, f"task={task}")
        return root / task

    return folder


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
