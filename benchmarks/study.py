"""The paper's claims on the procedural world, one question at a time, over several seeds.

    python benchmarks/study.py QUESTION... --out DIR [--seeds 11 12 13] [--tasks retrieval ...]

A question is one of injection, noise, sites, layers, timesteps, ensemble, features, dtypes and
order, or `all`. Each prints one Markdown table a task: mean and spread (half the range) over the
seeds, in hundredths. Every seed is a world of its own and the seed of its training. Stores are
shared by all questions, and so are runs that two of them ask for. Run again, it goes on where it
stopped and trains only what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.tasks import note, table
from configs import Config, load_config
from heads.evaluation.evaluate import present_version, reopen, score_run
from heads.tasks import TASKS
from heads.training.cycle import train_cycle
from heads.training.run import Run
from heads.training.train import train
from pipeline.networks.backbone import load_backbone
from pipeline.networks.injection import Injection
from pipeline.networks.unet import site_channels
from pipeline.precompute import precompute

EPOCHS = 4
"""Live epochs of a cycle, and as many on its new cache."""
SIZE = 1200
"""Images of a world, where a question does not say otherwise."""
TIMESTEPS = (50, 100, 195, 300, 400)
ONLY_SD = "train.features=[sd]"
RANDOM = "random"
"""In place of an injection file: convolutions as they are initialised, never trained."""


@dataclass(frozen=True)
class Variant:
    """One row: settings, and in which order head and injection are trained."""

    name: str
    settings: tuple[str, ...] = ()
    injection: str | None = None
    """Of the first store: None is plain SD."""
    sites: str | None = None
    """What is trained live, with the head, for EPOCHS; None trains the head on a cache."""
    warm: int = 0
    """Epochs on the plain cache that the head has had before it goes live."""
    cached: int = EPOCHS
    """Epochs of the head on the new cache, after it was live."""

    @property
    def slug(self) -> str:
        """A folder's name by what is computed, so that two questions share one run."""
        order = f"{self.sites}-{self.warm}-{self.cached}" if self.sites else "cached"
        settings = [line.removeprefix("train.") for line in sorted(self.settings)]
        text = "_".join([self.injection or "plain", order, *settings])
        return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in text)


@dataclass(frozen=True)
class Question:
    """A table: what is varied, and by which tasks it is measured."""

    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    size: int = SIZE
    """Images of a world."""


@dataclass(frozen=True)
class World:
    """The images of a seed, which is that of training too."""

    seed: int
    size: int

    @property
    def name(self) -> str:
        """What its folders are called."""
        return f"{self.size}-{self.seed}"

    @property
    def settings(self) -> list[str]:
        """For a configuration."""
        return [
            f"dataset.size={self.size}",
            f"dataset.seed={self.seed}",
            f"train.seed={self.seed}",
        ]


def _on_cache(name: str, *settings: str, injection: str | None = None) -> Variant:
    """As many epochs as a cycle has in all, on one cache."""
    return Variant(name, (*settings, f"train.epochs={2 * EPOCHS}"), injection)


def _cycle(name: str, sites: str, *settings: str, warm: int = 0, cached: int = EPOCHS) -> Variant:
    """Live for EPOCHS (or twice that, where nothing comes before or after), then on the cache."""
    live = EPOCHS if warm or cached else 2 * EPOCHS
    return Variant(name, (*settings, f"train.epochs={live}"), None, sites, warm, cached)


_NONE = _on_cache("none", ONLY_SD)
_ALL = _cycle("trained, all seven sites", "all", ONLY_SD)
_LAYERS = ("s3", "s4", "s5", "[s3,s4]", "[s4,s5]", "[s3,s4,s5]")
_BOTH = ("correspondence", "retrieval")
_DENSE_TOO = (*_BOTH, "segmentation")

QUESTIONS = {
    "injection": Question(
        _BOTH,
        (
            _NONE,
            _on_cache("random, as in the released code", ONLY_SD, injection=RANDOM),
            _ALL,
            _on_cache("none, CLIP aggregated beside SD"),
            _cycle("trained, CLIP aggregated beside SD", "all"),
        ),
        size=2 * SIZE,
    ),
    "noise": Question(
        ("correspondence",),
        (
            _NONE,
            _ALL,
            *(
                row
                for at in ("extraction.timesteps=[400]", "extraction.timesteps=[700]")
                for row in (
                    _on_cache(f"none, {at.removeprefix('extraction.')}", ONLY_SD, at),
                    _cycle(f"trained, {at.removeprefix('extraction.')}", "all", ONLY_SD, at),
                )
            ),
        ),
    ),
    "sites": Question(
        ("retrieval",),
        (
            _NONE,
            _cycle("down.0 to down.3", "down", ONLY_SD),
            _cycle("up.0 to up.2", "up", ONLY_SD),
            _cycle("down.3 alone", "[down.3]", ONLY_SD),
            _cycle("up.2 alone", "[up.2]", ONLY_SD),
            _ALL,
        ),
    ),
    "layers": Question(
        _DENSE_TOO,
        tuple(Variant(name.strip("[]"), (ONLY_SD, f"train.layers={name}")) for name in _LAYERS),
    ),
    "timesteps": Question(
        _DENSE_TOO,
        (
            *(Variant(f"t = {t}", (ONLY_SD, f"train.timesteps={t}")) for t in TIMESTEPS),
            Variant("all five", (ONLY_SD, f"train.timesteps={list(TIMESTEPS)}")),
        ),
    ),
    "ensemble": Question(
        _BOTH,
        tuple(Variant(f"{n} draws", (ONLY_SD, f"extraction.ensemble={n}")) for n in (1, 4, 16)),
    ),
    "features": Question(
        tuple(TASKS),
        (
            _on_cache("CLIP", "train.features=[clip]"),
            _on_cache("SD", ONLY_SD),
            _on_cache("SD+CLIP", "train.features=[sd,clip]"),
            _cycle("ours: SD with trained injection", "all", ONLY_SD),
        ),
    ),
    "dtypes": Question(
        tuple(TASKS),
        tuple(
            Variant(name, (f"extraction.store_dtype={name}",))
            for name in ("float32", "float16", "int8")
        ),
    ),
    "order": Question(
        ("retrieval",),
        (
            _cycle(f"{2 * EPOCHS} epochs live", "all", ONLY_SD, cached=0),
            _cycle(
                f"{EPOCHS} on the plain cache, {EPOCHS} live", "all", ONLY_SD, warm=EPOCHS, cached=0
            ),
            _cycle(f"{EPOCHS} live, {EPOCHS} on the new cache", "all", ONLY_SD),
        ),
    ),
}


def main() -> None:
    """Precompute, train and score whatever is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="+", choices=[*QUESTIONS, "all"], metavar="QUESTION")
    parser.add_argument("--out", type=Path, required=True, help="folder of stores and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    arguments = parser.parse_args()
    for name in QUESTIONS if "all" in arguments.questions else arguments.questions:
        question = QUESTIONS[name]
        for task in question.tasks:
            if task in arguments.tasks:
                found = {
                    variant.name: [
                        score(task, variant, World(seed, question.size), arguments.out)
                        for seed in arguments.seeds
                    ]
                    for variant in question.variants
                }
                print(markdown(name, task, found), flush=True)


def score(task: str, variant: Variant, world: World, out: Path) -> dict[str, float]:
    """The metrics of one row in one world, on its test part; trained if it is not there yet."""
    run = Run(out / "runs" / world.name / f"{task}-{variant.slug}")
    scored = run.folder / "study.json"
    found = _kept(run, scored)
    if found is None:
        note(f"world {world.name}, {task}: {variant.name}")
        config = configuration(task, variant, world, out)
        store = first_store(config, variant, world, out)
        if config.train.cycle.epochs:
            train_cycle(config, [store], run.folder, resume=True)
        else:
            initial = warmed(task, variant, world, store, run) if variant.warm else None
            train(config, [store], run.folder, resume=True, initial=initial)
        found = test_metrics(run)
        kept = {"protocol_version": present_version(run), "metrics": found}
        scored.write_text(json.dumps(kept))
    return found


def _kept(run: Run, scored: Path) -> dict[str, float] | None:
    """The metrics that were kept of a row, if they count as its protocol does now."""
    if not scored.is_file():
        return None
    document = json.loads(scored.read_text())
    # Without a version it holds the metrics alone, of the first.
    current = document.get("protocol_version", 1) == present_version(run)
    return document.get("metrics", document) if current else None


def test_metrics(run: Run) -> dict[str, float]:
    """The run's own, without baselines."""
    return dict(score_run(run, reopen(run, lambda line: None)).metrics)


def configuration(task: str, variant: Variant, world: World, out: Path) -> Config:
    """The preset of the task with the row's settings."""
    settings = [*world.settings, *variant.settings]
    if variant.injection == RANDOM:
        settings.append(f"extraction.injection={random_injection(world.seed, out)}")
    if any(line.startswith("train.timesteps") for line in variant.settings):
        settings.append(f"extraction.timesteps={list(TIMESTEPS)}")
    if variant.sites:
        settings += [
            f"train.injection.sites={variant.sites}",
            f"train.cycle.epochs={variant.cached}",
        ]
    return load_config(f"shapes-paper/{task}", settings)


def warmed(task: str, variant: Variant, world: World, store: Path, run: Run) -> Path:
    """A run that trained the head on the plain cache for the row's `warm` epochs."""
    folder = run.folder.with_name(f"{run.folder.name}-before")
    settings = [*world.settings, ONLY_SD, f"train.epochs={variant.warm}"]
    train(load_config(f"shapes-paper/{task}", settings), [store], folder, resume=True)
    return folder


def first_store(config: Config, variant: Variant, world: World, out: Path) -> Path:
    """The store that the row's training begins with; what is there is not computed again."""
    extraction = config.extraction
    parts = (world.name, extraction.store_dtype, extraction.ensemble, variant.injection or "plain")
    store = out / "stores" / "-".join(str(part) for part in parts)
    precompute(config, store)
    return store


def random_injection(seed: int, out: Path) -> Path:
    """A file of convolutions at all sites, initialised as torch does and never trained."""
    path = out / "stores" / f"random-{seed}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        backbone = load_backbone(load_config("shapes-paper/retrieval").backbone, "cpu", "float32")
        torch.manual_seed(seed)
        Injection(backbone.clip.width, site_channels(backbone.unet)).save(path)
    return path


def markdown(question: str, task: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table of means and half ranges, in hundredths."""
    metrics = list(next(iter(found.values()))[0])
    return table(f"**{question}**, {task}", metrics, list(found.items()))


if __name__ == "__main__":
    main()
