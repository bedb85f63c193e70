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
