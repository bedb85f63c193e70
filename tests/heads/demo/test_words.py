"""Figures in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heads.demo.records import Precomputed
from heads.demo.words import duration, outcome, times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000731, "0.0731 ms"), (0.0314, "31.4 ms"), (0.73, "730 ms"), (75, "1 min 15 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ratios() -> None:
    assert times(3.14159) == "3.1 times"
    assert times(1234.5) == "1,234 times"


def test_the_outcome_of_a_run() -> None:
    run = Precomputed("First run", 96, ("a", "b"), 3.0, 2.0, 0.5, 1.2, 0.3, 3 * 2**20)
    assert outcome(run) == "96 images computed, 2 arrays, 3 MiB written"
    assert run.images_per_second == 48
    assert "1 array," in outcome(replace(run, arrays=("a",)))
    nothing = replace(run, n_computed=0, arrays=(), bytes_written=0)
    assert outcome(nothing) == "0 images computed, nothing left to do"
    assert nothing.images_per_second == 0
