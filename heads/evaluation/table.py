"""An evaluation as a table for a terminal or a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heads.evaluation.result import Evaluation

NOT_DISTINGUISHABLE = "not distinguishable"


def rows_of(evaluation: Evaluation) -> list[tuple[str, dict[str, float]]]:
    """Names and metrics, best known things last: the run, baselines and floors, chance, paper."""
    rows = [(f"this run: {evaluation.name}", dict(evaluation.metrics))]
    rows += [(name, dict(metrics)) for name, metrics in evaluation.baselines.items()]
    rows.append(("chance", dict(evaluation.chance)))
    rows += [(f"paper: {name}", dict(metrics)) for name, metrics in evaluation.paper.items()]
    return rows


def cells_of(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """The rows with their metrics in hundredths, and `±` a standard error where one is known."""
    names, rows = list(evaluation.metrics), rows_of(evaluation)
    known = [evaluation.errors, *map(evaluation.baseline_errors.get, evaluation.baselines)]
    errors = [*known, *[None] * (len(rows) - len(known))]
    return [
        (row, [with_error(metrics.get(name), (error or {}).get(name)) for name in names])
        for (row, metrics), error in zip(rows, errors, strict=True)
    ]


def text_table(evaluation: Evaluation) -> str:
    """The table with its protocol above, differences and notes below; metrics in hundredths."""
    protocol = protocol_in_words(
        evaluation.protocol, evaluation.variants, evaluation.protocol_version
    )
    title = f"{evaluation.task} by {protocol}, {evaluation.split} part, n = {evaluation.n:,}"
    names = list(evaluation.metrics)
    rows = [["", *names]]
    # What has no error is in line with what has one.
    space = " " * len(with_error(None, 0.0)[1:]) if evaluation.errors else ""
    for name, cells in cells_of(evaluation):
        rows.append([name, *(cell if "±" in cell else cell + space for cell in cells)])
    lines = [title, *aligned(rows), *_difference_lines(evaluation)]
    lines += beside_lines(evaluation)
    lines += [f"no {name}: {why}" for name, why in evaluation.missing.items()]
    return "\n".join([*lines, *evaluation.notes])


def difference_in_words(evaluation: Evaluation, baseline: str) -> list[str]:
    """This run minus a baseline by the headline metric, its interval, and whether that holds 0:
    three cells, in hundredths; empty if nothing is known."""
    found = evaluation.differences.get(baseline, {}).get(evaluation.headline)
    if found is None:
        return ["", "", ""]
    return interval_in_words(found["difference"], found["low"], found["high"])


def interval_in_words(difference: float, low: float, high: float) -> list[str]:
    """A difference of fractions, its interval, and whether that holds 0: three cells."""
    interval = f"{signed(low)} to {signed(high)}"
    return [signed(difference), interval, NOT_DISTINGUISHABLE if low <= 0 <= high else ""]


def error_note(evaluation: Evaluation) -> str:
    """What `±` and intervals are and how they were found; empty if there are none."""
    if not evaluation.errors:
        return ""
    return (
        f"±: standard error; intervals: 95 %, paired; bootstrap over {evaluation.resampled}"
        " (docs/protocols.md)"
    )


def beside_lines(evaluation: Evaluation) -> list[str]:
    """What is counted another way, a line each."""
    lines = [f"{key}: {percent(value)}" for key, value in evaluation.beside.items()]
    if evaluation.mean_ranks:
        ranks = [f"{name} {rank:.2f}" for name, rank in evaluation.mean_ranks.items()]
        lines.append(f"mean rank of the right photo (1 is best): {', '.join(ranks)}")
    return lines


def _difference_lines(evaluation: Evaluation) -> list[str]:
    """This run minus each baseline by the headline metric, as a table of its own."""
    if not evaluation.differences:
        return [note] if (note := error_note(evaluation)) else []
    rows = [
        [f"  {name}", *difference_in_words(evaluation, name)] for name in evaluation.differences
    ]
    return [
        error_note(evaluation),
        f"{evaluation.headline}: this run minus",
        *aligned(rows),
    ]


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


def with_error(value: float | None, error: float | None) -> str:
    """`50.00 ± 1.25` for fractions; without an error the value alone."""
    return percent(value) if error is None else f"{percent(value)} ± {percent(error)}"


def signed(value: float) -> str:
    """A difference of fractions in hundredths, such as `+1.25`; `0.00` has no sign."""
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def percent(value: float | None) -> str:
    """A fraction in hundredths with two decimals; `-` where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"
