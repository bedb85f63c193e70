"""Retrieval that cannot learn says so; it is not just a loss of zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.heads.worlds import World

BASE = ("dataset.size=96", "train.epochs=1")


@pytest.mark.parametrize("task", ["retrieval", "fine_grained"])
def test_batches_of_one(world: World, tmp_path: Path, task: str) -> None:
    said = world.train(tmp_path / "one", *BASE, f"task={task}", "train.batch_size=1").stderr
    assert "nothing is learnt; set train.batch_size to 2 or more" in said
    said = world.train(tmp_path / "two", *BASE, f"task={task}", "train.batch_size=2").stderr
    assert "nothing is learnt" not in said


def test_one_category(world: World, tmp_path: Path) -> None:
    """All but one of the 32 categories are held out."""
    items = (*BASE, "task=retrieval")
    said = world.train(tmp_path / "one", *items, "train.protocol=held-out-31").stderr
    assert "all training pairs have the same category" in said
    said = world.train(tmp_path / "two", *items, "train.protocol=held-out-30").stderr
    assert "nothing is learnt" not in said
