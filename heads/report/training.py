"""How a run was trained: its curve, its settings, the stores it read, and how to do it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from cache import RemotePath, StorePath, store_path
from cache.units import human_seconds
from heads.plots import curves_figure
from heads.report.markup import Html, join, tag
from heads.report.page import Section, commands, facts
from heads.report.plots import drawing
from heads.training.checkpoint import load_facts
from heads.training.run import Run


def training_section(run: Run) -> Section:
    """The learning curve, and how far training came."""
    curve = run.curve()
    state = load_facts(run.last) if run.last.is_file() else {}
    known: list[tuple[str, object]] = []
    if state:
        end = "" if state["finished"] else ", not finished"
        known.append(("epochs", f"{state['epoch']:,} of {run.config().train.epochs:,}{end}"))
        known.append(("steps", f"{state['step']:,}"))
        known.append(("time", human_seconds(state["seconds"])))
    if state.get("best") is not None:
        best = f"{100 * state['best']:.2f} in epoch {state['best_epoch']}"
        known.append(("best on the validation part", best))
    figure = (
        drawing(
            curves_figure({run.folder.name: curve}),
            "learning curve",
            "Loss of single steps, and results on the validation part. The weights with the best "
            "of these are kept and evaluated.",
        )
        if curve
        else tag("p", "Nothing was logged.")
    )
    return Section("Training", join(figure, facts(known)))


def setup_section(run: Run) -> Section:
    """What the run was asked and what it read: fingerprints, recipe, weights, configuration."""
    stores: list[dict[str, Any]] = run.facts()["stores"]
    parts: list[Html] = [
        tag(
            "p",
            "A store's recipe is everything that changes a number in it; the fingerprint is the "
            "recipe's hash. A run reads only stores of its own recipe.",
        )
    ]
    for store in stores:
        rows: list[tuple[str, object]] = [
            ("store", _mono(_typed(store_path(store["path"])))),
            ("fingerprint", _mono(store["fingerprint"])),
        ]
        rows += [
            (name, _mono(value if isinstance(value, str) else json.dumps(value)))
            for name, value in sorted(store["recipe"].items())
        ]
        parts.append(facts(rows))
    if run.best.is_file():
        parts.append(facts([("weights (SHA-256)", _mono(run.weights_digest()))]))
    parts.append(
        tag(
            "details",
            tag("summary", "The whole configuration"),
            commands(run.config_path.read_text(encoding="utf-8").rstrip()),
        )
    )
    return Section("Recipe and configuration", join(*parts))


def reproduce_section(run: Run) -> Section:
    """The commands that make the stores, the run and this page again."""
    stores = run.store_paths()
    config = _quoted(run.config_path)
    again = _quoted(run.folder.with_name(f"{run.folder.name}-again"))
    live = Run(run.folder / "live")
    lines = []
    if live.exists:
        # The last of three steps, whose first two the same command does.
        stores = live.store_paths()
        config = _quoted(live.config_path)
    lines += [f"sketchfusion precompute {config} --out {_quoted(store)}" for store in stores[:1]]
    caches = "".join(f" --cache {_quoted(store)}" for store in stores)
    cycle = f" --set train.cycle.epochs={run.config().train.epochs}" if live.exists else ""
    lines.append(f"sketchfusion train {config}{caches}{cycle} --out {again}")
    lines.append(f"sketchfusion evaluate {again}")
    seed = run.config().train.seed
    text = (
        "The configuration in the run's folder is complete. On the same machine and versions the "
        f"same seed ({seed}) gives the same weights; elsewhere sums differ in their last digits."
    )
    if len(stores) > 1:
        text += (
            f" The run read {len(stores)} stores; the first command makes one of all the images "
            "that this configuration names."
        )
    return Section("Do it again", join(tag("p", text), commands(*lines)))


def machine_section(run: Run, date: str) -> Section:
    """What it was trained on."""
    known = run.facts().get("machine", {})
    rows = [("date of this page", date), *known.items()]
    return Section("Machine and versions", join(tag("p", "Of the training."), facts(rows)))


def _typed(path: StorePath) -> str:
    """A path as one would type it here."""
    if isinstance(path, RemotePath):
        return str(path)
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _quoted(path: StorePath) -> str:
    return shlex.quote(_typed(path))


def _mono(text: str) -> Html:
    return tag("span", text, class_="mono")
