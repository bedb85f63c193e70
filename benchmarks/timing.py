"""The harness: contenders take turns; tables hold medians, spread and ratios, JSON everything.

Absolute times belong to a machine and its other guests. Within a round all contenders run one
after the other, in an order that rotates, so what slows one slows its neighbours, and the ratio of
two of them in the same round says more than either's time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from heads.machine import describe_machine

Kind = Literal["ours", "peer", "limit"]
"""What a row is: this project, what one would use instead, or what the machine allows at best."""
Fact = float | int | str


@dataclass(frozen=True)
class Row:
    """One way to do a table's work: seconds of each round, in the same order for every row."""

    name: str
    kind: Kind
    seconds: Sequence[float] = ()
    """Empty where nothing was timed: a peer that is not installed, a figure that is counted."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """Further columns, such as FLOPs or bytes."""
    note: str = ""


@dataclass(frozen=True)
class Target:
    """What was aimed at, and what was found."""

    what: str
    bound: float
    found: float
    at_most: bool = False
    """Whether the figure should stay below the bound rather than reach it."""

    @property
    def met(self) -> bool:
        """Whether the figure is where it should be."""
        return self.found <= self.bound if self.at_most else self.found >= self.bound

    def as_text(self) -> str:
        """One line: what, the figure, the bound, the verdict."""
        aim = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        return f"{self.what}: {self.found:.3g} ({aim}): {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True)
class Table:
    """Rows that do the same work. Exactly one of them is the limit that ratios refer to."""

    title: str
    work: str
    """What the seconds of a row are for."""
    rows: Sequence[Row]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()

    @property
    def limit(self) -> Row:
        """The row that speeds are compared with."""
        return next(row for row in self.rows if row.kind == "limit")

    def speed(self, name: str, beside: str | None = None) -> float:
        """How fast a row is beside another (default: the limit): median over the rounds."""
        return statistics.median(self.speeds(name, beside))

    def speeds(self, name: str, beside: str | None = None) -> list[float]:
        """The same for each round."""
        other = self.limit if beside is None else self._row(beside)
        return [b / a for a, b in zip(self._row(name).seconds, other.seconds, strict=True)]

    def _row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def as_json(self) -> dict[str, Any]:
        """Everything, with each row's rounds."""
        return {
            "title": self.title,
            "work": self.work,
            "rows": [self._row_json(row) for row in self.rows],
            "targets": [
                {"what": t.what, "bound": t.bound, "at_most": t.at_most}
                | {"found": t.found, "met": t.met}
                for t in self.targets
            ],
            "notes": list(self.notes),
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        document: dict[str, Any] = {"name": row.name, "kind": row.kind, **row.facts}
        if row.seconds:
            document |= {
                "seconds": statistics.median(row.seconds),
                "seconds_spread": spread(row.seconds),
                "rounds": list(row.seconds),
            }
            if self.limit.seconds:
                ratios = self.speeds(row.name)
                document |= {
                    "speed_of_limit": statistics.median(ratios),
                    "speed_of_limit_spread": spread(ratios),
                }
        return document | ({"note": row.note} if row.note else {})

    def as_text(self) -> str:
        """The table for a terminal."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.facts))
        timed = any(row.seconds for row in self.rows)
        head = ["", "", *(["median", "spread", "x limit", "spread"] if timed else []), *names]
        lines = [head]
        for row in self.rows:
            cells = [row.name, row.kind]
            if timed:
                cells += self._times(row)
            cells += [_fact(row.facts.get(name, "")) for name in names]
            lines.append([*cells, row.note] if row.note else cells)
        text = [f"{self.title} ({self.work})", *_aligned(lines)]
        text += [f"  {note}" for note in self.notes]
        text += [f"  target: {target.as_text()}" for target in self.targets]
        return "\n".join(text)

    def _times(self, row: Row) -> list[str]:
        if not row.seconds:
            return ["-", "", "", ""]
        cells = [
            human_time(statistics.median(row.seconds)),
            "-".join(human_time(value) for value in spread(row.seconds)),
        ]
        if not self.limit.seconds:
            return [*cells, "", ""]
        ratios = self.speeds(row.name)
        low, high = spread(ratios)
        return [*cells, f"{statistics.median(ratios):.3g}", f"{low:.3g}-{high:.3g}"]


@dataclass(frozen=True)
class Report:
    """All tables of one benchmark, with its settings."""

    name: str
    settings: Mapping[str, Fact]
    tables: Sequence[Table]

    def as_json(self) -> dict[str, Any]:
        """Name, settings, machine and tables."""
        return {
            "benchmark": self.name,
            "settings": dict(self.settings),
            "machine": describe_machine(),
            "tables": [table.as_json() for table in self.tables],
        }

    def as_text(self) -> str:
        """The tables for a terminal."""
        return "\n\n".join(table.as_text() for table in self.tables)

    def write(self, file: Path) -> None:
        """Write the JSON."""
        file.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


Contender = Callable[[int], object]
"""Does the work of one round, whose number it is told."""


def take_turns(
    contenders: Mapping[str, Contender],
    rounds: int,
    warm_up: int = 1,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds by contender and round, after rounds that only warm up.

    Args:
        before: called with a contender's name before each of its turns, outside the time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            before(name)
            start = time.perf_counter()
            contenders[name](turn)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Iterable[float]) -> tuple[float, float]:
    """The middle half of the values; of fewer than four, the lowest and the highest."""
    ordered = sorted(values)
    if len(ordered) < 4:
        return ordered[0], ordered[-1]
    low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, high


def human_time(seconds: float) -> str:
    """Three digits, from microseconds to seconds."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def _fact(value: Fact) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: words to the left, figures to the right."""
    width = [max((len(line[i]) for line in lines if i < len(line)), default=0) for i in range(20)]
    return [
        "  ".join(
            cell.ljust(width[i]) if i < 2 else cell.rjust(width[i]) for i, cell in enumerate(line)
        ).rstrip()
        for line in lines
    ]
