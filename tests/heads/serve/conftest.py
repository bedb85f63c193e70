"""Four runs of the small world, served together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from heads.serve import Service, open_service
from tests.heads.worlds import World

TASKS = ("retrieval", "recognition", "segmentation", "correspondence")


@pytest.fixture(scope="session")
def service(runs: Callable[[str], Path]) -> Service:
    """All four; the gallery is the searching run's own store."""
    return open_service([runs(task) for task in TASKS], None, None)


@pytest.fixture(scope="session")
def sketch(world: World, pictures: Path) -> bytes:
    """An image file of a sketch."""
    return sorted(pictures.rglob("sketch/*/*.png"))[5].read_bytes()
