"""Which device a worker takes."""

from __future__ import annotations

import pytest

from pipeline.workers.cluster import device_of_worker


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (0, "cuda:0"),
        (3, "cuda:3"),
        (5, "cuda:1"),
        ("gpu-2", "cuda:2"),
        ("SLURMCluster-7-1", "cuda:1"),
        ("tcp://10.0.0.3:41231", "cuda:0"),
        ("node17", "cuda:0"),
    ],
)
@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_workers_take_devices_in_turn(asked: str, name: object, device: str) -> None:
    assert device_of_worker(asked, name, 4) == device


def test_a_named_device_and_a_machine_without_any_stay_as_they_are() -> None:
    assert device_of_worker("cuda:1", 3, 4) == "cuda:1"
    assert device_of_worker("cpu", 3, 4) == "cpu"
    assert device_of_worker("auto", 3, 0) == "auto"
