"""Training the injection live: stored prefixes by site set, noise draws, memory with checkpointing.

    python benchmarks/live.py [CONFIG] [--images 48] [--rounds 5] [--json FILE]

For each set of trained sites a step that starts at the stored prefix, beside one that starts at
the latents; the limit has the prefix in memory. Bytes and operations at the paper's sizes are
counted on its architecture without numbers.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import bench
from benchmarks.counting import Blueprint, PeakMemory, blueprint, flops, layer_maps, on_meta
from benchmarks.timing import Fact, Kind, Report, Row, Table, take_turns
from benchmarks.train import PAPER, opened
from cache import FeatureStore
from configs import load_config
from heads.training.experiment import Experiment
from pipeline.networks.prefix import prefix_shapes
from pipeline.precompute import precompute

SITE_SETS = {"all": "down.0", "down.2 and later": "down.2", "up": "up.0", "up.2": "up.2"}
"""Sets of trained sites and the first of each."""
SITES = ("down.0", "down.1", "down.2", "down.3", "up.0", "up.1", "up.2")
MEMORY = 2**33
DRAWS = (1, 4)


def measure(
    name: str, overrides: Sequence[str], n_images: int, rounds: int, folder: Path | None = None
) -> Report:
    """All tables; `name` and `overrides` choose a correspondence configuration."""
    chosen = ["train.features=[sd]", "train.device=cpu", "extraction.device=cpu"]
    chosen += [f"dataset.size={n_images}", "train.injection.init=random", *overrides]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tables = [
            *(_sites(name, chosen, label, Path(place), rounds) for label in SITE_SETS),
            _draws(name, chosen, Path(place), rounds),
            _checkpointing(name, chosen, Path(place), rounds),
        ]
    settings = {"images": n_images, "rounds": rounds}
    return Report("live", settings, [*tables, _paper()])


def _store(name: str, chosen: Sequence[str], folder: Path, draws: int, prefix: str | None) -> Path:
    """A store with so many draws, and with or without prefixes at a site."""
    path = folder / f"{draws}-{prefix or 'plain'}"
    asked = [f"extraction.ensemble={draws}"]
    if prefix is not None:
        asked.append(f"extraction.prefix={prefix}")
    precompute(load_config(name, [*chosen, *asked]), path)
    return path


def _trained(first: str) -> str:
    return f"train.injection.sites=[{', '.join(SITES[SITES.index(first) :])}]"


def _prefix_bytes(store: Path) -> int:
    """Bytes of prefixes an image."""
    arrays = FeatureStore.open(store).arrays
    return sum(
        array.record_bytes
        for name, spec in arrays.items()
        if name.startswith("prefix/")
        for array in spec.zarr_arrays
    )


def _steps(
    experiments: dict[str, tuple[Kind, Experiment, dict[str, Fact]]], rounds: int
) -> list[Row]:
    """A row an experiment: seconds of a step over the same examples, forward and backward."""
    first = next(iter(experiments.values()))[1]
    batch = first.task.batches(torch.Generator().manual_seed(0))[0]

    def step(experiment: Experiment) -> None:
        experiment.learner.zero_grad(set_to_none=True)
        experiment.learner(batch).backward()

    seconds = take_turns(
        {name: lambda turn, e=e: step(e) for name, (_, e, _) in experiments.items()},  # type: ignore[misc]
        rounds,
    )
    return [Row(name, kind, seconds[name], facts) for name, (kind, _, facts) in experiments.items()]


def _sites(name: str, chosen: Sequence[str], label: str, folder: Path, rounds: int) -> Table:
    first = SITE_SETS[label]
    plain, stored = (_store(name, chosen, folder, 1, prefix) for prefix in (None, first))
    live = [*chosen, _trained(first)]
    config = load_config(name, live)
    kept = load_config(name, [*live, f"train.injection.prefix_memory={MEMORY}"])
    n_bytes = _prefix_bytes(stored)
    rows = _steps(
        {
            "from the stored prefix": ("ours", opened(config, stored), {"KiB": n_bytes / 1024}),
            "from the latents": ("peer", opened(config, plain), {"KiB": 0.0}),
            "prefix in memory": ("limit", opened(kept, plain), {"KiB": 2 * n_bytes / 1024}),
        },
        rounds,
    )
    table = Table(f"a live step, trained: {label}", _work(config), rows)
    gain = table.speed("from the stored prefix", "from the latents")
    notes = [f"the stored prefix makes a step {gain:.2f} times as fast; KiB are an image's"]
    return replace(table, notes=notes)


def _draws(name: str, chosen: Sequence[str], folder: Path, rounds: int) -> Table:
    live = [*chosen, _trained("up.0")]
    found: dict[str, tuple[Kind, Experiment, dict[str, Fact]]] = {}
    for draws in DRAWS:
        stored = _store(name, chosen, folder, draws, "up.0")
        config = load_config(name, [*live, f"extraction.ensemble={draws}"])
        facts: dict[str, Fact] = {"KiB": _prefix_bytes(stored) / 1024}
        found[f"stored noise, draws: {draws}"] = ("ours", opened(config, stored), facts)
    one = folder / "1-up.0"
    fresh = load_config(name, [*live, "train.injection.noise=fresh"])
    kept = load_config(name, [*live, f"train.injection.prefix_memory={MEMORY}"])
    found["fresh noise, one draw"] = ("peer", opened(fresh, one), {"KiB": 0.0})
    plain = folder / "1-plain"
    found["one draw, prefix in memory"] = ("limit", opened(kept, plain), {})
    work = _work(fresh)
    return Table("a live step by noise draws, trained: up", work, _steps(found, rounds))


def _checkpointing(name: str, chosen: Sequence[str], folder: Path, rounds: int) -> Table:
    plain = folder / "1-plain"
    live = [*chosen, _trained("down.0")]
    configs: dict[str, Any] = {
        "checkpointing": load_config(name, [*live, "train.injection.checkpointing=true"]),
        "everything kept": load_config(name, live),
        "head alone": load_config(name, chosen),
    }
    kinds: tuple[Kind, ...] = ("ours", "peer", "limit")
    found: dict[str, tuple[Kind, Experiment, dict[str, Fact]]] = {}
    for kind, (label, config) in zip(kinds, configs.items(), strict=True):
        experiment = opened(config, plain)
        batch = experiment.task.batches(torch.Generator().manual_seed(0))[0]
        with PeakMemory() as memory:
            experiment.learner(batch).backward()
        found[label] = (kind, experiment, {"peak MiB": memory.peak / 2**20})
    rows = _steps(found, rounds)
    return Table("memory of a live step, trained: all", _work(configs["checkpointing"]), rows)


def _work(config: Any) -> str:
    return f"{config.backbone.label}, {config.train.batch_size} pairs, forward and backward"


def _paper() -> Table:
    """Operations, memory and prefix bytes at the paper's sizes, a pair, one draw."""
    name, width, grid = PAPER
    plan = blueprint(load_config("demo", [f"backbone={name}"]).backbone, width, grid)
    shapes = prefix_shapes(plan.backbone.unet, plan.side)

    def starts(first: str) -> list[Any]:
        tokens = plan.tokens(1)
        return [plan.start(plan.latents(1), tokens, first) for _ in range(2)]

    def rest(first: str, finish: Any) -> tuple[float, float]:
        """TFLOP and peak GiB of what follows the prefix."""
        tokens, found = plan.tokens(1), starts(first)

        def run() -> None:
            maps = [finish(*start, tokens, first) for start in found]
            plan.loss(*(plan.network(one).spatial for one in maps)).backward()  # type: ignore[no-untyped-call]

        with PeakMemory() as memory:
            operations = flops(run)
        return operations / 1e12, memory.peak / 2**30

    rows = []
    with on_meta():
        for label, first in SITE_SETS.items():
            cells = sum(math.prod(shape) for shape in shapes[first].values())
            kept, peak = rest(first, plan.finish)
            recomputed, less = rest(first, plan.finish_checkpointed)
            before = flops(lambda first=first: starts(first)) / 1e12  # type: ignore[misc]
            whole = before + kept
            facts: dict[str, Fact] = {
                "TFLOP from latents": whole,
                "from prefix": kept,
                "saved": f"{100 * before / whole:.0f} %",
                "prefix MiB an image": 2 * cells / 2**20,
                "peak GiB": peak,
                "checkpointed GiB": less,
                "its TFLOP": recomputed,
            }
            rows.append(Row(f"trained: {label}", "ours", facts=facts))
        head = flops(lambda: _head(plan)) / 1e12
    rows.append(Row("head alone", "limit", facts={"TFLOP from latents": head}))
    full = next(row for row in rows if row.name == "trained: all")
    rows.insert(
        -1, Row("from the latents, all kept", "peer", facts=dict(list(full.facts.items())[:1]))
    )
    notes = ["memory is of tensors made in a step, weights not counted"]
    work = f"a pair, one draw, {name}, head {width} x {grid} x {grid}"
    return Table("live training at the paper's sizes, counted", work, rows, notes=notes)


def _head(plan: Blueprint) -> None:
    spatial = [plan.network(layer_maps(plan)).spatial for _ in range(2)]
    plan.loss(*spatial).backward()


if __name__ == "__main__":
    bench(["live", *sys.argv[1:]])
