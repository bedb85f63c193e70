"""The tables of benchmark files as Markdown, for the documents.

sketchfusion bench read --json results/read.json
python benchmarks/tables.py results/read.json ...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import human_time

_OWN = {
    "name",
    "kind",
    "seconds",
    "seconds_spread",
    "rounds",
    "speed_of_limit",
    "speed_of_limit_spread",
    "note",
}
"""Keys of a row that have columns of their own, or none."""


def markdown(table: dict[str, Any]) -> Iterator[str]:
    """One table's lines: what it is, its rows, its targets."""
    rows = table["rows"]
    facts = list(dict.fromkeys(key for row in rows for key in row if key not in _OWN))
    timed = any("seconds" in row for row in rows)
    columns = ["", "", *(["median", "x limit (spread)"] if timed else []), *facts]
    yield f"**{table['title']}**: {table['work']}"
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|" + "---:|" * (len(columns) - 2)
    for row in rows:
        note = f" ({row['note']})" if "note" in row else ""
        cells = [row["name"] + note, row["kind"]]
        if timed:
            cells += [_time(row), _ratio(row)]
        cells += [_fact(row.get(key, "")) for key in facts]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for target in table["targets"]:
        bound = f"{'at most' if target['at_most'] else 'at least'} {target['bound']:g}"
        verdict = "met" if target["met"] else "**missed**"
        yield f"- {target['what']}: {target['found']:.3g} ({bound}): {verdict}"


def _time(row: dict[str, Any]) -> str:
    return human_time(row["seconds"]) if "seconds" in row else "-"


def _ratio(row: dict[str, Any]) -> str:
    if "speed_of_limit" not in row:
        return "-"
    low, high = row["speed_of_limit_spread"]
    return f"{row['speed_of_limit']:.3g} ({low:.3g}-{high:.3g})"


def _fact(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Print all tables of the files named."""
    for name in sys.argv[1:]:
        report = json.loads(Path(name).read_text(encoding="utf-8"))
        for table in report["tables"]:
            print("\n".join([*markdown(table), ""]))


if __name__ == "__main__":
    main()
