"""`sketchfusion cache`: look at stores and check them."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from heads.commands.console import examples, json_option


@click.group()
def cache() -> None:
    """Look at stores and check them."""


@examples("sketchfusion cache ls", "sketchfusion cache ls /scratch/features --json")
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


@examples("sketchfusion cache info stores/demo", "sketchfusion cache info stores/demo --json")
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


@examples("sketchfusion cache verify stores/demo", "sketchfusion cache verify stores/demo --fast")
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
