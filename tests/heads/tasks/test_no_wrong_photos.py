"""Retrieval that could never learn is an error, not a loss of zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.heads.worlds import World, complaint, ok

BASE = ("dataset.size=96", "train.epochs=1")


@pytest.mark.parametrize("task", ["retrieval", "fine_grained"])
def test_batches_of_one(world: World, tmp_path: Path, task: str) -> None:
    line = complaint(*world.command(tmp_path, *BASE, f"task={task}", "train.batch_size=1"))
    assert "no wrong photo to learn from; set train.batch_size to 2 or more" in line
    assert list(tmp_path.iterdir()) == []
    ok(*world.command(tmp_path / "two", *BASE, f"task={task}", "train.batch_size=2"))


def test_one_category(world: World, tmp_path: Path) -> None:
    """All but one of the 32 categories are held out."""
    protocol = ("task=retrieval", "train.protocol=held-out-31")
    line = complaint(*world.command(tmp_path, *BASE, *protocol))
    assert "all training pairs have the same category" in line
    assert list(tmp_path.iterdir()) == []
    ok(*world.command(tmp_path / "two", *BASE, "task=retrieval", "train.protocol=held-out-30"))
