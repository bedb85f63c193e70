"""One world for all fault tests, and commands that can be killed in it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.torture import Commands, World, shared_networks


# Not for the session: other tests must load networks and datasets of their own.
@pytest.fixture(scope="package")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world of benchmarks/torture.py, with the commands to be killed."""
    out = tmp_path_factory.mktemp("torture")
    with shared_networks():
        yield World(out, Commands(out / "log.txt", random.Random(0)))
