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
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from pipeline.precompute import Part


class Terminated(BaseException):
    """SIGTERM arrived: unwind like Ctrl-C, so that an unfinished shard is rolled back."""


class Commands(click.Group):
    """A command group that turns the library's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as stop:
            kept = _KEPT.get(ctx.invoked_subcommand or "", "")
            click.echo(f"\nstopped{kept}", err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)
        except user_errors() as error:
            from cache.units import printable

            raise click.ClickException(printable(" ".join(str(error).split()))) from None
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            raise click.ClickException(_os_error(error)) from None


_SHARDS_KEPT = "; finished shards are kept, and the same command goes on from there"
_KEPT = {
    "precompute": _SHARDS_KEPT,
    "demo": _SHARDS_KEPT,
    "train": "; the last checkpoint is kept, and the same command with --resume goes on from there",
}
"""What a command that was stopped leaves behind."""

_USER_ERRORS = (
    ("cache.errors", "StoreError"),
    ("configs.load", "ConfigError"),
    ("heads.training.checkpoint", "CheckpointError"),
    ("heads.protocols.base", "ProtocolError"),
    ("heads.training.run", "RunError"),
    ("heads.sources.base", "SourceError"),
    ("heads.tasks.base", "TaskError"),
    ("pipeline.checkpoints", "BackboneError"),
    ("pipeline.datasets.base", "DatasetError"),
    ("pipeline.distributed", "ClusterError"),
    ("pipeline.extract", "ExtractionError"),
    ("pipeline.injection", "InjectionError"),
    ("pipeline.unet", "UnsupportedUNet"),
)


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that mean bad input or a full machine rather than a bug.

    Only of modules that have been imported: no other could have raised one, and importing them
    here would make a typing error wait for torch.
    """
    return tuple(
        getattr(sys.modules[module], name) for module, name in _USER_ERRORS if module in sys.modules
    )


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = "; free some space and run the same command again" if error.errno == 28 else ""
    return f"{where}{error.strerror or error}{hint}"


def _examples(*lines: str) -> Callable[[Any], Any]:
    """Add an Examples section to a command's help."""

    def decorate(command: Any) -> Any:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return decorate


def _parse_part(ctx: click.Context, param: click.Parameter, value: str) -> Part:
    from pipeline.precompute import Part

    index, slash, count = value.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"{value!r}: write K/N with 1 <= K <= N, for instance 1/4")
    return Part(int(index), int(count))


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one dotted key of the configuration; may be repeated.",
)
part_option = click.option(
    "--part", default="1/1", metavar="K/N", callback=_parse_part, help="Do only part K of N."
)
cache_option = click.option(
    "--cache",
    "caches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="STORE",
    help="A store to read; may be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


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


@_examples(
    "sketchfusion plan demo",
    "sketchfusion plan my.yaml --set extraction.ensemble=8 --json",
)
@main.command()
@click.argument("config")
@click.option("--out", type=click.Path(path_type=Path), help="The store, if it is known.")
@set_option
@part_option
@json_option
def plan(
    config: str, out: Path | None, overrides: tuple[str, ...], part: Part, as_json: bool
) -> None:
    """Say what a precompute will take: images, bytes, operations, time.

    CONFIG is a YAML file or the name of a preset. Exits with 1 if the disk is too small.
    """
    from cache.units import human_bytes
    from configs import load_config
    from pipeline.plan import make_plan

    made = make_plan(load_config(config, overrides), out, part)
    click.echo(json.dumps(made.as_json(), indent=2) if as_json else made.as_text())
    if not made.fits:
        raise click.ClickException(
            f"{made.place} has {human_bytes(made.bytes_free)} free but the store needs "
            f"{human_bytes(made.bytes_needed)}; choose another disk with --out, fewer layers or "
            "timesteps, or --set extraction.store_dtype=int8"
        )


@_examples(
    "sketchfusion precompute demo --out stores/demo",
    "sketchfusion precompute my.yaml --set dataset.root=~/pictures",
    "sketchfusion precompute my.yaml --out /scratch/features --part $SLURM_ARRAY_TASK_ID/32",
    "sketchfusion precompute my.yaml --out /scratch/features --scheduler tcp://head:8786",
)
@main.command()
@click.argument("config")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the store.")
@set_option
@part_option
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Start N worker processes.")
@click.option("--scheduler", metavar="ADDR", help="Use the workers of a dask scheduler.")
@json_option
def precompute(
    config: str,
    out: Path | None,
    overrides: tuple[str, ...],
    part: Part,
    workers: int | None,
    scheduler: str | None,
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
        from pipeline.distributed import Cluster

        cluster = Cluster(scheduler, workers or 1)
    with ImageBar() as bar:
        report = run(load_config(config, overrides), out, part, cluster, bar.update, _note)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2, default=str))
    else:
        click.echo(report.as_text())


@_examples(
    "sketchfusion train my.yaml --set task=retrieval --out runs/retrieval",
    "sketchfusion train my.yaml --cache stores/a --cache stores/b --out runs/both",
    "sketchfusion train my.yaml --set train.injection.sites=all --out runs/live",
    "sketchfusion train my.yaml --out runs/retrieval --resume",
)
@main.command()
@click.argument("config")
@cache_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.")
@set_option
@click.option("--resume", is_flag=True, help="Go on with the run where it stopped.")
@json_option
def train(
    config: str,
    caches: tuple[Path, ...],
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
            report = train_cycle(loaded, caches, out, resume, steps.update, images.update, _note)
        else:
            report = run(loaded, caches, out, resume, steps.update, _note)
    click.echo(
        json.dumps(dataclasses.asdict(report), indent=2, default=str)
        if as_json
        else report.as_text()
    )


@_examples(
    "sketchfusion evaluate runs/retrieval",
    "sketchfusion evaluate runs/retrieval --json",
    "sketchfusion evaluate runs/ours --cache stores/dinov2 --beside runs/finetuned",
)
@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@cache_option
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Another run for the table; may be repeated.",
)
@click.option("--no-floors", is_flag=True, help="Leave out the scores that need no network.")
@json_option
def evaluate(
    run: Path, caches: tuple[Path, ...], beside: tuple[Path, ...], no_floors: bool, as_json: bool
) -> None:
    """Evaluate RUN on its test part, beside baselines, floors, chance and the paper.

    Untrained baselines are read from the run's own stores where these can give them; --cache
    adds further ones, such as plain SD beside an injected store, or DINO.
    """
    from heads.evaluation.evaluate import evaluate as score
    from heads.evaluation.table import text_table

    evaluation = score(run, caches, beside, not no_floors, _note)
    click.echo(json.dumps(evaluation.as_json(), indent=2) if as_json else text_table(evaluation))


@main.group()
def cache() -> None:
    """Look at stores and check them."""


@_examples("sketchfusion cache ls", "sketchfusion cache ls /scratch/features --json")
@cache.command("ls")
@click.argument("folder", type=click.Path(path_type=Path), default="stores")
@json_option
def cache_ls(folder: Path, as_json: bool) -> None:
    """List the stores in FOLDER (default: stores)."""
    from cache import list_stores
    from cache.units import human_bytes

    listing = list_stores(folder)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(listing), indent=2, default=str))
        return
    if not listing.stores and not listing.damaged:
        click.echo(f"no stores in {folder}")
    for store in listing.stores:
        click.echo(
            f"{store.fingerprint[:12]}  {store.n_committed:>8,}/{store.n_images:<8,} images  "
            f"{human_bytes(store.bytes_on_disk):>9}  {len(store.arrays):>3} arrays  {store.path}"
        )
    for path, reason in listing.damaged.items():
        click.echo(f"damaged       {path}: {reason}")


@_examples("sketchfusion cache info stores/demo", "sketchfusion cache info stores/demo --json")
@cache.command("info")
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def cache_info(store: Path, as_json: bool) -> None:
    """Say what is in STORE: images, arrays, recipe, fingerprint."""
    from cache import describe_store
    from cache.units import human_bytes, printable

    found = describe_store(store)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2, default=str))
        return
    click.echo(f"store        {found.path}")
    click.echo(f"fingerprint  {found.fingerprint}")
    click.echo(f"images       {found.n_committed:,} of {found.n_images:,} done")
    click.echo(f"on disk      {human_bytes(found.bytes_on_disk)}")
    click.echo("recipe       " + json.dumps(found.recipe, sort_keys=True))
    for name, array in found.arrays.items():
        shape = " x ".join(str(n) for n in array.shape)
        click.echo(f"  {name:<16} {array.dtype:<8} {shape:<14} {array.n_images:,} images")
    for image_id, reason in found.quarantined.items():
        click.echo(printable(f"  quarantined  {image_id}: {reason}"))


@_examples("sketchfusion cache verify stores/demo", "sketchfusion cache verify stores/demo --fast")
@cache.command("verify")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--fast", is_flag=True, help="Sizes and indexes only, not every checksum.")
@json_option
def cache_verify(store: Path, fast: bool, as_json: bool) -> None:
    """Check STORE: every checksum, size, index and commit. Exits with 1 if it is damaged."""
    from cache import verify_store
    from cache.units import human_bytes

    report = verify_store(store, full=not fast)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report) | {"sound": report.sound}, indent=2))
    else:
        for problem in report.problems:
            click.echo(f"{problem.kind}: {problem.where}: {problem.what}")
        for note in report.notes:
            click.echo(f"note: {note.where}: {note.what}")
        verdict = "sound" if report.sound else f"damaged (problems: {len(report.problems)})"
        click.echo(
            f"{store}: {verdict}; {report.n_images:,} images, {report.n_shards:,} shards, "
            f"{human_bytes(report.bytes_checked)} checked"
        )
        if report.remedy:
            click.echo(f"to repair: {report.remedy}")
    if not report.sound:
        sys.exit(1)


@_examples("sketchfusion demo", "sketchfusion demo --out /tmp/demo")
@main.command()
@click.option("--out", type=click.Path(path_type=Path), default="demo", show_default=True)
def demo(out: Path) -> None:
    """The whole of stage 1 offline on the built-in backbone; ends with a report."""
    from heads.demo import run_demo
    from pipeline.bar import ImageBar

    with ImageBar() as bar:
        summary = run_demo(out, bar.update, _note)
    click.echo(summary)


@_examples(
    "sketchfusion doctor",
    "sketchfusion doctor paper/sketchy-retrieval --set dataset.root=data/sketchy",
    "sketchfusion doctor my.yaml --out /scratch/features --json",
)
@main.command()
@click.argument("config", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The store, if it is known.")
@set_option
@json_option
def doctor(config: str | None, out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what works on this machine, and what to do about the rest.

    With CONFIG, a YAML file or the name of a preset, also whether its weights, images and
    protocol are there; exits with 1 if something it needs is missing. Downloads nothing.
    """
    from configs import load_config
    from heads.doctor import diagnose

    if overrides and config is None:
        raise click.UsageError("--set changes a configuration; name one")
    found = diagnose(None if config is None else load_config(config, overrides), out)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    if not found.ready:
        sys.exit(1)


def _note(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
