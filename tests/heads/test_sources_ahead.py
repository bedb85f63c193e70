"""Batches read ahead are those that would have been read, and errors come where they belong."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import fsspec
import pytest

from cache import FeatureStore, QuarantinedImage
from heads.sources import CachedFeatures
from tests.heads.source_world import ARRAYS, CPU, World, assert_close, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


class _Reads:
    """Which batches were read from a store, and in which threads."""

    def __init__(self, source: CachedFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[tuple[str, ...]] = []
        self.threads: set[int] = set()
        read = FeatureStore.read

        def recorded(
            this: FeatureStore, ids: Sequence[str], *args: object, **how: object
        ) -> object:
            self.batches.append(tuple(ids))
            self.threads.add(threading.get_ident())
            return read(this, ids, *args, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(FeatureStore, "read", recorded)
        source.reads_ahead = True


def test_expected_batches_are_read_once_and_are_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CachedFeatures([world.plain], ARRAYS, CPU)
    ids = source.ids
    batches = [ids[:2], ids[2:4], (ids[0], ids[4]), ids[:2]]
    expected = [source.maps(batch) for batch in batches]
    reads = _Reads(source, monkeypatch)
    for batch, following, maps in zip(batches, [*batches[1:], None], expected, strict=True):
        if following is not None:
            source.expect(following)
        assert_close(source.maps(batch), maps, 0)
    assert reads.batches.count(ids[:2]) == 2 and len(reads.batches) == 4
    assert len(reads.threads) == 2 and threading.get_ident() in reads.threads


def test_what_is_expected_and_never_asked_for_is_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CachedFeatures([world.plain], ARRAYS, CPU)
    reads = _Reads(source, monkeypatch)
    for image_id in source.ids:
        source.expect([image_id])
    wanted = source.maps(source.ids[:1])
    assert len(source._ahead._expected) == 2
    assert_close(wanted, source.maps(source.ids[:1]), 0)
    assert reads.batches.count(source.ids[:1]) >= 2  # Read anew, and right.


def test_an_error_in_an_expected_batch_is_raised_where_it_is_asked_for(world: World) -> None:
    source = CachedFeatures([world.plain], ARRAYS, CPU)
    source.reads_ahead = True
    source.expect([source.ids[0], "broken.png"])
    assert source.maps(source.ids[:1])
    with pytest.raises(QuarantinedImage, match=r"broken\.png"):
        source.maps([source.ids[0], "broken.png"])


def test_only_where_something_else_computes_or_reading_is_slow(world: World) -> None:
    source = CachedFeatures([world.plain], ARRAYS, CPU)
    assert not source.reads_ahead
    source.expect(source.ids)
    assert source._ahead._thread is None
    fsspec.filesystem("memory").put(str(world.plain.path), "/ahead", recursive=True)
    expected = source.maps(source.ids)
    source = CachedFeatures([FeatureStore.open("memory://ahead")], ARRAYS, CPU)
    assert source.reads_ahead
    source.expect(source.ids)
    assert_close(source.maps(source.ids), expected, 0)
