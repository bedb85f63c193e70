"""The order in which things reach the disk, and what is left when power fails at any point."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, NotAStore, prune_arrays, verify_store
from tests.cache.stores import ARRAYS, LATENT, POOLED, S3, array_contents, assert_holds, write
from tests.faults.disk import Disk


def scenario(path: Path, disk: Disk | None = None) -> None:
    """Create, grow and prune a store; after each step, what is committed was promised."""
    steps = (
        (3, (S3, POOLED), ()),
        (6, (S3, LATENT), ()),
        (7, ARRAYS, (LATENT.name,)),
        (9, (S3, POOLED, LATENT), ()),
    )
    for n_images, arrays, dropped in steps:
        write(path, n_images, arrays, quarantined={1})
        if dropped:
            prune_arrays(path, dropped)
        if disk is not None:
            disk.mark(
                {name: rows.copy() for name, rows in FeatureStore.open(path).committed.items()}
            )
    write(path, 9, ARRAYS, quarantined={1})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """All that the scenario does to a disk that has nothing but its root."""
    disk = Disk(tmp_path_factory.mktemp("disk"))
    with disk.recording():
        scenario(disk.root / "stores/mine", disk)
    return disk


def test_what_is_renamed_or_committed_is_on_the_disk(recorded: Disk) -> None:
    """Content before its name; the data of a shard, names included, before its commit."""
    dirty: set[int] = set()
    unnamed: set[str] = set()
    n_commits = 0
    for event in recorded.events:
        if event.kind == "write":
            dirty.add(event.file)
        elif event.kind == "sync":
            dirty.discard(event.file)
        elif event.kind == "sync folder":
            unnamed = {path for path in unnamed if Path(path).parent.as_posix() != event.path}
        elif event.kind == "rename":
            assert event.file not in dirty, event.path
            if "/commits/" in event.path:
                assert not unnamed, event.path
                n_commits += 1
            unnamed.add(event.path)
    assert n_commits >= 8


def test_power_may_fail_at_any_point(
    recorded: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever had not reached the disk: the store is sound, keeps what it promised, goes on."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    scenario(tmp_path / "whole")
    rng = random.Random(0)
    promised: dict[str, np.ndarray] = {}
    for n_events in range(len(recorded.events) + 1):
        if n_events and recorded.events[n_events - 1].mark is not None:
            promised = recorded.events[n_events - 1].mark
        if rng.random() > 0.1 and n_events < len(recorded.events):
            continue
        root = tmp_path / str(n_events)
        recorded.after_power_loss(n_events, root, rng)
        store = root / "stores/mine"
        check(store, promised_before(recorded, n_events) and promised, f"event {n_events}")
        scenario(store)
        assert array_contents(store) == array_contents(tmp_path / "whole"), f"event {n_events}"


def promised_before(disk: Disk, n_events: int) -> bool:
    """Whether the last promise still stands: the next step may drop an array again."""
    later = (event for event in disk.events[n_events:] if event.mark is not None)
    following = next(later, None)
    last = [event.mark for event in disk.events[:n_events] if event.mark is not None]
    return bool(last) and (following is None or last[-1].keys() <= following.mark.keys())


def check(store: Path, promised: dict[str, np.ndarray] | bool, where: str) -> None:
    try:
        report = verify_store(store)
    except NotAStore:
        assert not promised, where
        return
    assert report.problems == (), where
    opened = FeatureStore.open(store)
    for spec in opened.arrays.values():
        for image_id in opened.readable([spec.name]):
            assert_holds(opened, opened.ids.index(image_id), spec)
    if isinstance(promised, dict):
        for name, rows in promised.items():
            assert opened.committed[name][: len(rows)][rows].all(), (where, name)
