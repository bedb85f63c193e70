"""When a shard takes too long, what that means, and the table of what each worker did."""

from __future__ import annotations

import pytest

from pipeline.workers.watch import FLOOR, SLOWER, ShardWatch, Shares, share_table


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def overdue(watch: ShardWatch) -> list[tuple[int, str, float]]:
    return [(running.number, running.worker, limit) for running, limit in watch.overdue()]


def test_before_a_shard_has_finished_nothing_is_overdue(clock: Clock) -> None:
    watch = ShardWatch(None, clock)
    watch.started(0, "a")
    clock.now = 1e6
    assert overdue(watch) == []


def test_the_limit_is_a_multiple_of_the_slowest(clock: Clock) -> None:
    watch = ShardWatch(None, clock)
    for number, seconds in enumerate((400, 300)):
        watch.started(number, "a")
        clock.now += seconds
        watch.finished(number, True)
    watch.started(2, "b")
    clock.now += SLOWER * 400
    assert overdue(watch) == []
    clock.now += 1
    assert overdue(watch) == [(2, "b", SLOWER * 400)]


def test_short_shards_have_the_floor(clock: Clock) -> None:
    watch = ShardWatch(None, clock)
    watch.started(0, "a")
    clock.now += 0.1
    watch.finished(0, True)
    watch.started(1, "a")
    clock.now += FLOOR
    assert overdue(watch) == []
    clock.now += 1
    assert overdue(watch) == [(1, "a", FLOOR)]


def test_a_limit_of_ones_own_counts_from_the_first_shard(clock: Clock) -> None:
    watch = ShardWatch(30, clock)
    watch.started(0, "a")
    clock.now = 31
    assert overdue(watch) == [(0, "a", 30)]


def test_a_shard_that_was_given_up_has_twice_the_time(clock: Clock) -> None:
    watch = ShardWatch(30, clock)
    watch.started(0, "a")
    clock.now = 31
    assert watch.given_up(0)
    assert watch.idle
    watch.started(0, "b")
    clock.now += 59
    assert overdue(watch) == []
    clock.now += 2
    assert overdue(watch) == [(0, "b", 60)]
    assert watch.given_up(0)
    assert not watch.given_up(0)  # The third time it is not the workers.


def test_a_guessed_limit_doubles_for_ever(clock: Clock) -> None:
    watch = ShardWatch(None, clock)
    watch.started(0, "a")
    clock.now = 1
    watch.finished(0, True)
    for tries in range(6):
        watch.started(1, "a")
        clock.now += FLOOR * 2**tries
        assert overdue(watch) == []
        clock.now += 1
        assert overdue(watch) == [(1, "a", FLOOR * 2**tries)]
        assert watch.given_up(1)


def test_what_others_had_committed_measures_nothing(clock: Clock) -> None:
    watch = ShardWatch(None, clock)
    watch.started(0, "a")
    clock.now = 0.1
    watch.finished(0, False)
    watch.started(1, "a")
    clock.now += 1e6
    assert overdue(watch) == []


def test_a_shard_begun_again_is_the_new_workers(clock: Clock) -> None:
    watch = ShardWatch(30, clock)
    watch.started(0, "a")
    clock.now = 20
    watch.started(0, "b")
    clock.now = 40
    assert overdue(watch) == []
    watch.only_on({"a", "c"})
    clock.now = 100
    assert overdue(watch) == []
    watch.finished(0, True)
    assert watch.idle


def test_shares_add_up_and_stand_in_a_table() -> None:
    shares = Shares()
    shares.add("gpu-1", "node2", 64, 20.0)
    shares.add("gpu-0", "node1", 64, 10.0)
    shares.add("gpu-0", "node1", 36, 10.0)
    assert [(s.worker, s.shards, s.images, s.images_per_second) for s in shares.all()] == [
        ("gpu-0", 2, 100, 5.0),
        ("gpu-1", 1, 64, 3.2),
    ]
    assert share_table(shares.all()) == [
        "worker  host   shards  images  images/s",
        "gpu-0   node1       2     100         5",
        "gpu-1   node2       1      64       3.2",
    ]
