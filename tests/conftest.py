"""What all tests share: one thread a process, and a small precomputed world."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from tests.heads.worlds import World, shapes_world

# The last bits of a sum depend on the number of threads; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# A shell has what it starts in the background ignore Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store of the procedural world by tiny networks, and runs trained on it."""
    return shapes_world(tmp_path_factory)
