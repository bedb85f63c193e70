"""An evaluation as a table for a terminal or a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heads.evaluation.result import Evaluation


def rows_of(evaluation: Evaluation) -> list[tuple[str, dict[str, float]]]:
    """Names and metrics, best known things last: the run, baselines and floors, chance, paper."""
    rows = [(f"this run: {evaluation.name}", dict(evaluation.metrics))]
    rows += [(name, dict(metrics)) for name, metrics in evaluation.baselines.items()]
    rows.append(("chance", dict(evaluation.chance)))
    rows += [(f"paper: {name}", dict(metrics)) for name, metrics in evaluation.paper.items()]
    return rows


def text_table(evaluation: Evaluation) -> str:
    """The table with its protocol above and its notes below; metrics in hundredths."""
    protocol = protocol_in_words(
        evaluation.protocol, evaluation.variants, evaluation.protocol_version
    )
    title = f"{evaluation.task} by {protocol}, {evaluation.split} part, n = {evaluation.n:,}"
    names = list(evaluation.metrics)
    rows = [["", *names]]
    for name, metrics in rows_of(evaluation):
        rows.append([name, *(percent(metrics.get(metric)) for metric in names)])
    lines = [title, *aligned(rows)]
    lines += [f"{key}: {percent(value)}" for key, value in evaluation.beside.items()]
    lines += [f"no {name}: {why}" for name, why in evaluation.missing.items()]
    return "\n".join([*lines, *evaluation.notes])


def protocol_in_words(name: str, variants: Mapping[str, str], version: int = 1) -> str:
    """A protocol's name, its variants, and its version if that is not the first."""
    words = [f"{key} {value}" for key, value in variants.items()]
    if version > 1:
        words.append(f"version {version}")
    return f"{name} ({', '.join(words)})" if words else name


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def percent(value: float | None) -> str:
    """A fraction in hundredths with two decimals; `-` where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"
