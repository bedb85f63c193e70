"""Runs of the small world, opened once for the tests of their use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from heads.use import Trained, open_trained

Open = Callable[[str], Trained]


@pytest.fixture(scope="session")
def opened(runs: Callable[[str], Path]) -> Open:
    """A run of a task, opened."""
    return cache(lambda task: open_trained(runs(task)))
