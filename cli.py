"""The `sketchfusion` command: parse, call one function, print.

Results go to standard output, progress and notes to standard error. Every command exits with 0
only on success; bad input ends in one line that says what is wrong and what to do.
"""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from benchmarks.command import bench
from heads.commands.completion import completion
from heads.commands.console import Commands, Terminated, note
from heads.commands.exchange import cache_export, cache_import, cache_stats
from heads.commands.options import (
    STORE,
    LocalPath,
    cache_option,
    config_argument,
    examples,
    json_option,
    set_option,
)
from heads.commands.plots import plot
from heads.commands.serve import serve
from heads.commands.store import cache
from heads.commands.use import classify, match, retrieve, segment

if TYPE_CHECKING:
    from cache import StorePath
    from pipeline.precompute import Part


def _parse_part(ctx: click.Context, param: click.Parameter, value: str) -> Part:
    from pipeline.precompute import Part

    index, slash, count = value.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"{value!r}: write K/N with 1 <= K <= N, for instance 1/4")
    return Part(int(index), int(count))


part_option = click.option(
    "--part", default="1/1", metavar="K/N", callback=_parse_part, help="Do only part K of N."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sketchfusion")
def main() -> None:
    """Features of sketches and photos from frozen Stable Diffusion + CLIP, computed once.

    Stage 1 (precompute) writes multi-layer feature maps of every image to a sharded Zarr store.
    Everything after that reads the store.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


@examples(
    "sketchfusion plan demo",
    "sketchfusion plan my.yaml --set extraction.ensemble=8 --json",
)
@main.command()
@config_argument()
@click.option("--out", type=STORE, metavar="STORE", help="The store, if it is known.")
@set_option
@part_option
@json_option
def plan(
    config: str, out: StorePath | None, overrides: tuple[str, ...], part: Part, as_json: bool
) -> None:
    """Say what a precompute will take: images, bytes, operations, time.

    CONFIG is a YAML file or the name of a preset. Exits with 1 if the disk is too small.
    """
    from configs import load_config
    from pipeline.plan import make_plan

    made = make_plan(load_config(config, overrides), out, part)
    click.echo(json.dumps(made.as_json(), indent=2) if as_json else made.as_text())
    if made.shortage is not None:
        raise click.ClickException(
            f"{made.shortage}; choose another disk with --out, fewer layers or timesteps, "
            "or --set extraction.store_dtype=int8"
        )


@examples(
    "sketchfusion precompute demo --out stores/demo",
    "sketchfusion precompute my.yaml --set dataset.root=~/pictures",
    "sketchfusion precompute my.yaml --out /scratch/features --part $SLURM_ARRAY_TASK_ID/32",
    "sketchfusion precompute my.yaml --out /scratch/features --scheduler tcp://head:8786",
    "sketchfusion precompute my.yaml --out s3://bucket/features",
)
@main.command()
@config_argument()
@click.option(
    "--out", type=STORE, metavar="STORE", help="The store: a folder, or s3://BUCKET/NAME."
)
@set_option
@part_option
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Start N worker processes.")
@click.option("--scheduler", metavar="ADDR", help="Use the workers of a dask scheduler.")
@click.option(
    "--shard-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give a shard that takes longer to another worker. Default: 5 times the slowest so far, "
    "at least 10 minutes.",
)
@json_option
def precompute(
    config: str,
    out: StorePath | None,
    overrides: tuple[str, ...],
    part: Part,
    workers: int | None,
    scheduler: str | None,
    shard_limit: float | None,
    as_json: bool,
) -> None:
    """Stage 1: compute the features of every image into a store.

    CONFIG is a YAML file or the name of a preset. Run the same command again after any
    interruption: finished shards are skipped. New images, timesteps and layers join the store.
    """
    from configs import load_config
    from pipeline.bar import ImageBar
    from pipeline.precompute import precompute as run

    if workers and scheduler:
        raise click.UsageError("--workers starts processes here; with --scheduler leave it out")
    cluster = None
    if workers or scheduler:
        from pipeline.workers.cluster import Cluster

        cluster = Cluster(scheduler, workers or 1, shard_limit)
    elif shard_limit:
        raise click.UsageError("--shard-limit is for --workers and --scheduler")
    with ImageBar() as bar:
        report = run(load_config(config, overrides), out, part, cluster, bar.update, note)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2, default=str))
    else:
        click.echo(report.as_text())


@examples(
    "sketchfusion train my.yaml --set task=retrieval --out runs/retrieval",
    "sketchfusion train my.yaml --cache stores/a --cache stores/b --out runs/both",
    "sketchfusion train my.yaml --set train.injection.sites=all --out runs/live",
    "sketchfusion train my.yaml --out runs/retrieval --resume",
)
@main.command()
@config_argument()
@cache_option
@click.option("--out", type=LocalPath(), help="Folder of the run.")
@set_option
@click.option("--resume", is_flag=True, help="Go on with the run where it stopped.")
@json_option
def train(
    config: str,
    caches: tuple[StorePath, ...],
    out: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Stage 2: train one task's head on the features of one store or several.

    CONFIG is a YAML file or the name of a preset, with a task. Nothing is computed again, unless
    the injection is trained (train.injection.sites) or the UNet (train.finetune): then the UNet
    runs live. With train.cycle.epochs the injection is trained first, a store precomputed with
    it, and the head then goes on from that store.
    """
    from configs import load_config
    from heads.training.bar import StepBar
    from heads.training.cycle import train_cycle
    from heads.training.train import train as run
    from pipeline.bar import ImageBar

    loaded = load_config(config, overrides)
    out = out or Path("runs") / f"{loaded.name}-{loaded.task}"
    with ImageBar() as images, StepBar() as steps:
        if loaded.train.cycle.epochs:
            report = train_cycle(loaded, caches, out, resume, steps.update, images.update, note)
        else:
            report = run(loaded, caches, out, resume, steps.update, note)
    click.echo(
        json.dumps(dataclasses.asdict(report), indent=2, default=str)
        if as_json
        else report.as_text()
    )


@examples(
    "sketchfusion evaluate runs/retrieval",
    "sketchfusion evaluate runs/retrieval --json",
    "sketchfusion evaluate runs/ours --cache stores/dinov2 --beside runs/finetuned",
)
@main.command()
@click.argument("run", type=LocalPath())
@cache_option
@click.option(
    "--beside",
    multiple=True,
    type=LocalPath(),
    metavar="RUN",
    help="Another run for the table; may be repeated.",
)
@click.option("--no-floors", is_flag=True, help="Leave out the scores that need no network.")
@json_option
def evaluate(
    run: Path,
    caches: tuple[StorePath, ...],
    beside: tuple[Path, ...],
    no_floors: bool,
    as_json: bool,
) -> None:
    """Evaluate RUN on its test part, beside baselines, floors, chance and the paper.

    Untrained baselines are read from the run's own stores where these can give them; --cache
    adds further ones, such as plain SD beside an injected store, or DINO.
    """
    from heads.evaluation.evaluate import evaluate as score
    from heads.evaluation.table import text_table

    evaluation = score(run, caches, beside, not no_floors, note)
    click.echo(json.dumps(evaluation.as_json(), indent=2) if as_json else text_table(evaluation))


@examples(
    "sketchfusion demo",
    "sketchfusion demo --out /tmp/demo --images ~/pictures",
    "sketchfusion demo --set dataset.size=2400 --out /tmp/larger",
)
@main.command()
@click.option(
    "--out",
    type=LocalPath(),
    default="demo",
    show_default=True,
    metavar="DIR",
    help="Folder of the stores, runs and report.",
)
@click.option(
    "--images",
    "pictures",
    type=LocalPath(),
    metavar="DIR",
    help="Show also what is found in your own pictures.",
)
@set_option
def demo(out: Path, pictures: Path | None, overrides: tuple[str, ...]) -> None:
    """The whole story offline on the built-in backbone; ends with a report.

    Makes a small world, computes its features once, trains five heads on them, trains the
    injection live, computes features with it, and evaluates everything beside baselines.
    """
    from heads.demo.story import run_demo
    from heads.training.bar import StepBar
    from pipeline.bar import ImageBar

    with ImageBar() as images, StepBar() as steps:
        summary = run_demo(out, pictures, images.update, steps.update, note, overrides)
    click.echo(summary)


@examples(
    "sketchfusion doctor",
    "sketchfusion doctor paper/sketchy-retrieval --set dataset.root=data/sketchy",
    "sketchfusion doctor my.yaml --out /scratch/features --json",
    "sketchfusion doctor my.yaml --numerics --images 32",
)
@main.command()
@config_argument(required=False)
@click.option("--out", type=STORE, metavar="STORE", help="The store, if it is known.")
@click.option("--numerics", is_flag=True, help="Measure what narrower types cost, on a sample.")
@click.option(
    "--images", type=click.IntRange(1), default=8, show_default=True, help="Images of the sample."
)
@set_option
@json_option
def doctor(
    config: str | None,
    out: StorePath | None,
    numerics: bool,
    images: int,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what works on this machine, and what to do about the rest.

    With CONFIG, a YAML file or the name of a preset, also whether its weights, images and
    protocol are there; exits with 1 if something it needs is missing. Downloads nothing.

    With --numerics instead: the error of every array, computed in bfloat16 and float16 and stored
    in each type, against float32; exits with 1 if the types asked for overflow. Loads the weights.
    Without CONFIG it measures the demo's.
    """
    from configs import load_config

    if config is None and overrides and not numerics:
        raise click.UsageError("--set changes a configuration; name one")
    if numerics:
        from pipeline.numerics import measure_numerics

        measured = measure_numerics(load_config(config or "demo", overrides), images)
        click.echo(json.dumps(measured.as_json(), indent=2) if as_json else measured.as_text())
        sys.exit(0 if measured.sound else 1)

    from heads.doctor import diagnose

    found = diagnose(None if config is None else load_config(config, overrides), out)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    if not found.ready:
        sys.exit(1)


for command in (cache_export, cache_import, cache_stats):
    cache.add_command(command)
main.add_command(cache)
main.add_command(plot)
main.add_command(match)
main.add_command(retrieve)
main.add_command(classify)
main.add_command(segment)
main.add_command(serve)
main.add_command(completion)
main.add_command(bench)


if __name__ == "__main__":
    main()
