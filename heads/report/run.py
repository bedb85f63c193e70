"""A run's report: RUN/report.html, one page that needs no network and no other file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from heads.evaluation.result import Evaluation
from heads.evaluation.table import percent
from heads.explain import Findings
from heads.report.examples import confusion_section, examples_section, mixing_section
from heads.report.markup import Html, join, tag
from heads.report.page import Section, commands, render_page, tiles
from heads.report.results import COUNTED, TITLES, results_section
from heads.report.statistics import statistics_section
from heads.report.training import (
    machine_section,
    reproduce_section,
    setup_section,
    training_section,
)
from heads.tasks import TASKS
from heads.training.checkpoint import write_text
from heads.training.run import Run


def write_run_report(
    run: Run, evaluation: Evaluation | None = None, findings: Findings | None = None
) -> Path:
    """Write the page and say where. Before an evaluation it has no results. Raises OSError."""
    name = run.folder.absolute().name
    page = render_page(
        f"SketchFusion: {name}",
        _header(run, evaluation),
        [
            *run_sections(run, evaluation, findings),
            reproduce_section(run),
            machine_section(run, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ],
        Html(
            f"Made by <code>sketchfusion {'evaluate' if evaluation else 'train'}</code>. "
            "Everything on this page is in this file."
        ),
    )
    write_text(run.report, page)
    return run.report


def run_sections(
    run: Run, evaluation: Evaluation | None = None, findings: Findings | None = None
) -> list[Section]:
    """What a run's page says of the run itself, for a page of several runs too: results, examples,
    confusion, mixing weights, training, recipe; without what is not known."""
    sections = []
    if evaluation is not None:
        sections.append(results_section(evaluation))
    if findings is not None:
        sections.append(examples_section(findings))
        if findings.confusion is not None:
            sections.append(confusion_section(findings.confusion))
        if findings.mixing:
            sections.append(mixing_section(findings))
    chosen = run.statistics()
    if chosen is not None:
        task = run.config().task
        assert task is not None
        sections.append(statistics_section(chosen, TASKS[task].needs_cells))
    return [*sections, training_section(run), setup_section(run)]


def _header(run: Run, evaluation: Evaluation | None) -> Html:
    config, known = run.config(), run.facts()
    assert config.task is not None
    fingerprints = [store["fingerprint"][:12] for store in known["stores"]]
    lead = (
        f"A head trained on features of the {config.backbone.label} backbone for "
        f"{config.dataset.name}, read from {_stores(fingerprints)}."
    )
    if evaluation is None:
        body = join(
            tag("p", "Not evaluated yet. Results and pictures come with"),
            commands(f"sketchfusion evaluate {run.folder}"),
        )
    else:
        figures = [(percent(value), name) for name, value in evaluation.metrics.items()]
        metric = TASKS[evaluation.task].headline
        others = {
            name: values[metric]
            for name, values in evaluation.baselines.items()
            if metric in values
        }
        if others:
            best = max(others, key=lambda name: others[name])
            figures.append((percent(others[best]), f"{metric} of the best other, {best}"))
        figures.append((f"{evaluation.n:,}", f"{COUNTED[evaluation.task]} of the test part"))
        body = tiles(figures)
    return join(
        tag("p", f"SketchFusion · {config.task.replace('_', ' ')}", class_="overline"),
        tag("h1", TITLES[config.task].capitalize()),
        tag("p", lead, class_="lead"),
        body,
    )


def _stores(fingerprints: list[str]) -> str:
    if len(fingerprints) == 1:
        return f"store {fingerprints[0]}"
    return f"stores {', '.join(fingerprints)}"
