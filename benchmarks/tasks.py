"""All five heads on the procedural world, over several seeds, beside baselines, floors and chance.

    python benchmarks/tasks.py --out DIR [--seeds 11 12 13] [--tasks retrieval ...] [--set a.b=c]

Every seed is a world of its own and the seed of its training; the store of a world is computed once
and all heads read it. Prints one Markdown table a task: mean and spread (half the range) over the
seeds, and what the head is ahead by, with a 95 % interval over the categories of all worlds
(`heads.evaluation.uncertainty`). Run again, it goes on where it stopped and trains only what is
missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import load_config
from heads.evaluation.alone import alone_configs
from heads.evaluation.evaluate import evaluate, is_evaluated
from heads.evaluation.table import interval_in_words
from heads.evaluation.uncertainty import Sums, differences
from heads.tasks import TASKS
from heads.training.run import Run
from heads.training.train import train
from pipeline.precompute import precompute


def main() -> None:
    """Precompute, train and evaluate whatever is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of stores and runs")
    parser.add_argument("--suite", default="shapes", help="presets <suite>/<task>")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    for task in arguments.tasks:
        results = [
            evaluated(arguments.suite, arguments.overrides, task, seed, arguments.out)
            for seed in arguments.seeds
        ]
        print(markdown(task, results), flush=True)


def evaluated(
    suite: str, overrides: Sequence[str], task: str, seed: int, out: Path
) -> dict[str, Any]:
    """One head's evaluation in one world, as `evaluate --json` gives it."""
    seeds = [f"dataset.seed={seed}", f"train.seed={seed}"]
    config = load_config(f"{suite}/{task}", [*overrides, *seeds])
    store = out / f"store-{config.dataset.size}-{seed}"
    precompute(config, store, log=note)
    run = Run(out / f"{task}-{seed}")
    if not is_evaluated(run):
        beside = []
        for name, alone in alone_configs(config).items():
            beside.append(out / f"{task}-{seed}-{name}")
            train(alone, [store], beside[-1], resume=True, log=note)
        train(config, [store], run.folder, resume=True, log=note)
        evaluate(run.folder, beside=beside, log=note)
    found: dict[str, Any] = json.loads(run.evaluation.read_text())
    return found


def markdown(task: str, results: Sequence[dict[str, Any]]) -> str:
    """A table of means and half ranges, in hundredths."""
    first = results[0]
    metrics = list(first["metrics"])
    rows = [(first["name"], [found["metrics"] for found in results])]
    rows += [(name, [found["baselines"][name] for found in results]) for name in first["baselines"]]
    rows.append(("chance", [found["chance"] for found in results]))
    title = f"**{task}** by `{first['protocol']}`, n = "
    lines = [table(title + ", ".join(f"{found['n']:,}" for found in results), metrics, rows)]
    ahead = [f"| {name} | {' | '.join(cells)} |" for name, cells in pooled(task, results).items()]
    if ahead:
        header = f"| {TASKS[task].headline}: {first['name']} minus | | 95 % interval | |"
        lines += [header, "|---|---:|---:|---|", *ahead, ""]
    ranks = {name: [f["mean_ranks"][name] for f in results] for name in first.get("mean_ranks", {})}
    if ranks:
        means = [f"{name} {statistics.mean(values):.2f}" for name, values in ranks.items()]
        lines += [f"Mean rank of the right photo: {', '.join(means)}.", ""]
    return "\n".join(lines)


def pooled(task: str, results: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """By baseline, the difference of the headline metric over all worlds in words.

    A category of several worlds is drawn in all of them at once. Empty for results over a single
    category, and for those of a version that kept none by category.
    """

    def over_worlds(names: Sequence[str]) -> Sums | None:
        sums = [Sums.of_row(found, name) for found, name in zip(results, names, strict=True)]
        known = [one for one in sums if one is not None]
        return Sums.pooled(known) if len(known) == len(results) else None

    column = list(results[0]["metrics"]).index(TASKS[task].headline)
    ours = over_worlds([found["name"] for found in results])
    rows = {}
    for name in results[0]["baselines"]:
        theirs = over_worlds([name] * len(results))
        if ours is not None and theirs is not None:
            found = differences(ours, theirs)[column]
            rows[name] = interval_in_words(found.difference, found.low, found.high)
    return rows


def table(
    title: str, metrics: Sequence[str], rows: Sequence[tuple[str, Sequence[Mapping[str, float]]]]
) -> str:
    """A title, and for each name the mean and half range of its scores, in hundredths."""
    lines = [title, "", "| | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    for name, scores in rows:
        cells = [cell([score[metric] for score in scores if metric in score]) for metric in metrics]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def cell(values: Sequence[float]) -> str:
    """Mean and half range."""
    if not values:
        return "-"
    spread = (max(values) - min(values)) / 2
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def note(line: str) -> None:
    """Progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
