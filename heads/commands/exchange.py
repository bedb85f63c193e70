"""`sketchfusion cache export`, `import` and `stats`: a store for other tools, and in numbers."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heads.commands.options import STORE, LocalPath, examples, json_option

if TYPE_CHECKING:
    from cache import StorePath

arrays_option = click.option(
    "--array",
    "arrays",
    multiple=True,
    metavar="NAME",
    help="Only this array, or those that a pattern like 'sd/*' fits; may be repeated.",
)


@examples(
    "sketchfusion cache export stores/demo demo.h5",
    "sketchfusion cache export stores/demo demo.h5 --format hdf5-images --array 'sd/t195/*'",
    "sketchfusion cache export stores/demo tars --format webdataset --tar-size 512",
    "sketchfusion cache export stores/demo demo.parquet --format parquet --descriptors",
)
@click.command("export")
@click.argument("store", type=STORE)
@click.argument("out", type=LocalPath())
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hdf5", "hdf5-images", "webdataset", "npy", "parquet"]),
    default="hdf5",
    show_default=True,
    help="hdf5: a dataset per array; hdf5-images: a group per image.",
)
@arrays_option
@click.option("--descriptors", is_flag=True, help="Only global descriptors, [N, D].")
@click.option(
    "--tar-size",
    type=click.IntRange(1),
    metavar="MIB",
    help="Begin another tar after so many MiB (webdataset).  [default: 1024]",
)
@click.option("--force", is_flag=True, help="Replace OUT, if it is an export or a file.")
@json_option
def cache_export(
    store: StorePath,
    out: Path,
    format_: str,
    arrays: tuple[str, ...],
    descriptors: bool,
    tar_size: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write STORE to OUT for other tools: a file (HDF5, Parquet) or a folder (tars, .npy).

    OUT appears when it is complete. Everything but Parquet can be imported again, without loss.
    """
    from cache.exchange import export_store
    from cache.units import human_bytes

    if tar_size is not None and format_ != "webdataset":
        raise click.UsageError("--tar-size is for --format webdataset")
    options = {} if tar_size is None else {"tar_bytes": tar_size * 2**20}
    from pipeline.bar import Bar

    with Bar("img") as bar:
        report = export_store(store, out, format_, arrays, descriptors, force, bar.show, **options)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2, default=str))
        return
    click.echo(
        f"{report.path}: {report.n_images:,} images, {len(report.arrays)} arrays, "
        f"{human_bytes(report.bytes_on_disk)}"
    )
    if report.n_quarantined:
        click.echo(f"{report.n_quarantined:,} quarantined images are listed, without features")
    if report.n_unfinished:
        click.echo(f"{report.n_unfinished:,} images are left out: not all is computed of them yet")


@examples(
    "sketchfusion cache import demo.h5 --out stores/copy",
    "sketchfusion cache import tars --out stores/copy --json",
)
@click.command("import")
@click.argument("source", metavar="FILE", type=LocalPath())
@click.option("--out", required=True, type=STORE, metavar="STORE", help="The store.")
@json_option
def cache_import(source: Path, out: StorePath, as_json: bool) -> None:
    """Make a store of FILE, an export: the same arrays, recipe, fingerprint and quarantine.

    FILE is an HDF5 file or a folder of tars or .npy files. Every record is checked. After an
    interruption the same command goes on; into a store of the same recipe it adds what is new.
    """
    from cache.exchange.imports import import_store
    from pipeline.bar import Bar

    with Bar("img") as bar:
        report = import_store(source, out, bar.show)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2, default=str))
        return
    click.echo(
        f"{report.path}: {report.n_images:,} images ({report.n_written:,} written now, "
        f"{report.n_quarantined:,} quarantined), {len(report.arrays)} arrays"
    )
    click.echo(f"fingerprint {report.fingerprint}")


@examples(
    "sketchfusion cache stats stores/demo",
    "sketchfusion cache stats stores/demo --array 'sd/*' --json",
)
@click.command("stats")
@click.argument("store", type=STORE)
@arrays_option
@json_option
def cache_stats(store: StorePath, arrays: tuple[str, ...], as_json: bool) -> None:
    """Say what the numbers in STORE look like: mean, range, PCA, spectrum of every array.

    Reads every image that is computed and not quarantined, in bounded memory.
    """
    # Blocks are what runs at the same time. Threads within a matrix product only wait for each
    # other: on busy cores they took 12 times as long. Read when numpy is imported.
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

    from dask.diagnostics import ProgressBar

    from cache.insight.stats import store_stats
    from pipeline.bar import Bar

    watched = sys.stderr.isatty() and not Bar.quiet
    with ProgressBar(out=sys.stderr) if watched else nullcontext():
        found = store_stats(store, arrays)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(stats) for stats in found], indent=2))
        return
    if not found:
        click.echo(f"{store}: nothing is computed yet")
    for stats in found:
        shape = " x ".join(str(n) for n in stats.shape)
        click.echo(f"{stats.name}  {stats.dtype}  {shape}  {stats.n_images:,} images")
        click.echo(
            f"  mean {stats.mean:.4g}, deviation {stats.deviation:.4g}, "
            f"{stats.minimum:.4g} to {stats.maximum:.4g} ({stats.of_float16:.2%} of float16), "
            f"non-finite {stats.non_finite:.3%}"
        )
        shares = " ".join(f"{share:.1%}" for share in stats.pca_shares)
        click.echo(f"  PCA       {shares}; {stats.pca_90} of {stats.shape[0]} hold 90%")
        if stats.spectrum is not None:
            power = " ".join(f"{10 * math.log10(p):.1f}" if p > 0 else "-" for p in stats.spectrum)
            click.echo(f"  spectrum  {power} dB; mean {stats.mean_frequency:.1f} cycles per image")
