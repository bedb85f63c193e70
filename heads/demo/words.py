"""Figures of a demonstration in words, the same in the terminal and in the report."""

from __future__ import annotations

from cache.units import human_bytes, human_seconds
from heads.demo.records import Planned, Precomputed


def duration(seconds: float) -> str:
    """`0.21 ms` or `120 ms` below a second, then as `human_seconds` has it."""
    if seconds >= 1:
        return human_seconds(seconds)
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def times(ratio: float) -> str:
    """`148 times`, with a decimal below ten."""
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def expected(planned: Planned) -> str:
    """What the plan expected."""
    return (
        f"{planned.n_to_do:,} images to do, {human_bytes(planned.bytes_needed)}, "
        f"about {human_seconds(planned.seconds)} on {planned.device}"
    )


def outcome(run: Precomputed) -> str:
    """What a run added to the store."""
    if not run.n_computed:
        return "0 images computed, nothing left to do"
    n_arrays = len(run.arrays)
    return (
        f"{run.n_computed:,} images computed, {n_arrays} {'array' if n_arrays == 1 else 'arrays'}, "
        f"{human_bytes(run.bytes_written)} written"
    )
