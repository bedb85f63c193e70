"""`sketchfusion bench`: timings of this machine, each beside what one would use instead."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heads.commands.options import LocalPath, config_argument, examples, set_option

if TYPE_CHECKING:
    from benchmarks.timing import Report


@click.group()
def bench() -> None:
    """Measure this machine: each table has our row, the alternatives' and the limit's.

    Contenders take turns within a round; ratios are taken round by round, so that other work on
    the machine disturbs them less. The number of threads is torch's: OMP_NUM_THREADS=1 for one.
    """


def shared(rounds: int) -> Callable[[Any], Any]:
    """Options of every benchmark."""

    def decorate(command: Any) -> Any:
        json_file = LocalPath(dir_okay=False, writable=True)
        command = click.option("--json", "json_file", type=json_file, help="Write JSON to FILE.")(
            command
        )
        return click.option(
            "--rounds", default=rounds, show_default=True, type=click.IntRange(1), help="Turns."
        )(command)

    return decorate


folder_option = click.option(
    "--folder",
    type=LocalPath(exists=True, file_okay=False),
    help="Where files go for the time being (default: the system's temporary folder).",
)


def images_option(n_images: int, at_least: int = 16) -> Callable[[Any], Any]:
    """How many images."""
    return click.option(
        "--images",
        "n_images",
        default=n_images,
        show_default=True,
        type=click.IntRange(at_least),
        help="Of the sample that is measured.",
    )


shrink_option = click.option(
    "--shrink",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Divide the maps' channels by this; 1 is the paper's sizes.",
)


def show(report: Report, json_file: Path | None) -> None:
    """Print the tables and write the JSON."""
    click.echo(report.as_text())
    if json_file is not None:
        report.write(json_file)


@examples(
    "sketchfusion bench read", "sketchfusion bench read --images 32 --rounds 3 --json read.json"
)
@bench.command()
@images_option(96)
@shrink_option
@folder_option
@shared(rounds=7)
def read(
    n_images: int, shrink: int, folder: Path | None, rounds: int, json_file: Path | None
) -> None:
    """Random batches from a store, a raw memory map, zarr, tensorstore, .pt and other files."""
    from benchmarks.read import measure

    show(measure(n_images, rounds, shrink, folder), json_file)


@examples(
    "sketchfusion bench write", "sketchfusion bench write --folder /scratch --json write.json"
)
@bench.command()
@images_option(256)
@shrink_option
@folder_option
@shared(rounds=5)
def write(
    n_images: int, shrink: int, folder: Path | None, rounds: int, json_file: Path | None
) -> None:
    """A store's writer beside a raw append of the same bytes, zarr, .pt and other files."""
    from benchmarks.write import measure

    show(measure(n_images, rounds, shrink, folder), json_file)


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    sizes = value.split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise click.BadParameter(f"{value!r}: write numbers of images, for instance 1000,10000")
    return tuple(map(int, sizes))


@examples(
    "sketchfusion bench scale", "sketchfusion bench scale --sizes 1000,10000 --json scale.json"
)
@bench.command()
@click.option(
    "--sizes",
    default="1000,10000,100000",
    show_default=True,
    callback=_sizes,
    help="Numbers of images that are precomputed with a stand-in for the networks.",
)
@click.option(
    "--open",
    "n_open",
    default=300_000,
    show_default=True,
    type=click.IntRange(1),
    help="Images of the store that is opened and planned.",
)
@click.option(
    "--gallery",
    "n_gallery",
    default=200_000,
    show_default=True,
    type=click.IntRange(100),
    help="Descriptors that are searched.",
)
@folder_option
@shared(rounds=3)
def scale(
    sizes: tuple[int, ...],
    n_open: int,
    n_gallery: int,
    folder: Path | None,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Time and memory by number of images; opening and planning; search in a large gallery."""
    from benchmarks.scale import measure

    show(measure(sizes, n_open, n_gallery, rounds, folder), json_file)


@examples(
    "sketchfusion bench precompute",
    "sketchfusion bench precompute my.yaml --images 64 --set extraction.ensemble=8",
)
@bench.command()
@config_argument(default="demo")
@images_option(384)
@set_option
@folder_option
@shared(rounds=3)
def precompute(
    config: str,
    n_images: int,
    overrides: tuple[str, ...],
    folder: Path | None,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Stage 1 beside its parts alone: reading and decoding, the bare networks, a raw write."""
    from benchmarks.precompute import configured, measure

    show(measure(configured(config, n_images, overrides), rounds, folder), json_file)


@examples(
    "sketchfusion bench train",
    "sketchfusion bench train --set extraction.ensemble=4 --set dataset.size=96 --json train.json",
)
@bench.command()
@config_argument(default="shapes/correspondence")
@click.option(
    "--full-size",
    is_flag=True,
    help="Also one turn at the paper's sizes with random weights: minutes and 8 GB.",
)
@set_option
@folder_option
@shared(rounds=5)
def train(
    config: str,
    full_size: bool,
    overrides: tuple[str, ...],
    folder: Path | None,
    rounds: int,
    json_file: Path | None,
) -> None:
    """A training pair and an image the released way and ours: FLOPs, time, waiting for the store.

    CONFIG is a correspondence configuration; 192 images and 32 noise draws unless --set says
    otherwise.
    """
    from benchmarks.train import measure

    usual = ("dataset.size=192", "extraction.ensemble=32")
    show(measure(config, (*usual, *overrides), rounds, folder, full_size), json_file)


@examples("sketchfusion bench live", "sketchfusion bench live --images 96 --json live.json")
@bench.command()
@config_argument(default="shapes/correspondence")
@images_option(96, at_least=96)
@set_option
@folder_option
@shared(rounds=5)
def live(
    config: str,
    n_images: int,
    overrides: tuple[str, ...],
    folder: Path | None,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Training the injection: stored prefixes and their bytes, noise draws, checkpointing."""
    from benchmarks.live import measure

    show(measure(config, overrides, n_images, rounds, folder), json_file)


@examples(
    "sketchfusion bench heads", "sketchfusion bench heads --width 64 --grid 24 --json heads.json"
)
@bench.command()
@click.option(
    "--width",
    default=1280,
    show_default=True,
    type=click.IntRange(4),
    help="Channels of a descriptor.",
)
@click.option(
    "--grid",
    default=60,
    show_default=True,
    type=click.IntRange(2),
    help="Cells of a side of what maps are resized to.",
)
@click.option(
    "--side", default=42, show_default=True, type=click.IntRange(4), help="Of the largest map."
)
@shrink_option
@shared(rounds=3)
def heads(
    width: int, grid: int, side: int, shrink: int, rounds: int, json_file: Path | None
) -> None:
    """The head's exact shortcuts beside the plain forms, mixed precision, batches of pairs."""
    from benchmarks.head import measure

    show(measure(width, grid, side, shrink, rounds), json_file)
