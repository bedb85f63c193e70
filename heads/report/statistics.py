"""How a statistics head reads the features: what it chose, and what it chose from."""

from __future__ import annotations

from heads.evaluation.table import percent
from heads.report.markup import Html, join, tag
from heads.report.page import Section, table
from heads.statistics.choices import Choices, describe_choice
from heads.statistics.search import SearchResult

N_SHOWN = 40
"""Trials in the table, the best ones."""


def statistics_section(found: SearchResult, cells: bool) -> Section:
    """The choices, and the descriptors that were compared.

    Args:
        cells: whether the task describes cells, whose maps are not pooled.
    """
    body: list[Html] = [
        tag(
            "p",
            "Each array becomes a part of the descriptor: pooled over its cells, centred and "
            "whitened by training images, scaled to its weight. The parts were compared "
            f"untrained, before anything was learnt: {found.measure}.",
        ),
        table(("array", "part"), [(n, _part(n, found.choices, cells)) for n in found.choices]),
    ]
    if found.trials:
        best = sorted(found.trials, key=lambda trial: -trial.score)[:N_SHOWN]
        rows = [
            (
                "; ".join(f"{n}: {_part(n, trial.choices, cells)}" for n in trial.arrays),
                percent(trial.score),
            )
            for trial in best
        ]
        summary = f"The best {len(best)} of {len(found.trials)} untrained descriptors"
        body.append(
            tag(
                "details",
                tag("summary", summary),
                table(("descriptor", "score"), rows, numbers=(1,)),
            )
        )
    return Section("How the head reads the features", join(*body))


def _part(name: str, choices: Choices, cells: bool) -> str:
    return describe_choice(choices[name], not (cells or name.endswith("pooled")))
