"""`sketchfusion cache`: look at stores, check, repair and prune them."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

from heads.commands.console import note
from heads.commands.options import STORE, config_argument, examples, json_option, set_option

if TYPE_CHECKING:
    from cache import StorePath
    from cache.format.checksums import Json


@click.group()
def cache() -> None:
    """Look at stores, check, repair and prune them."""


@examples("sketchfusion cache ls", "sketchfusion cache ls /scratch/features --json")
@cache.command("ls")
@click.argument("folder", type=STORE, default="stores")
@json_option
def cache_ls(folder: StorePath, as_json: bool) -> None:
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
@click.argument("store", type=STORE)
@json_option
def cache_info(store: StorePath, as_json: bool) -> None:
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
    for machine in found.computed_by:
        click.echo(printable(_machine_line(machine)))
    click.echo("recipe       " + json.dumps(found.recipe, sort_keys=True))
    for name, array in found.arrays.items():
        shape = " x ".join(str(n) for n in array.shape)
        click.echo(f"  {name:<16} {array.dtype:<8} {shape:<14} {array.n_images:,} images")
    for image_id, reason in found.quarantined.items():
        click.echo(printable(f"  quarantined  {image_id}: {reason}"))


def _machine_line(machine: dict[str, Json]) -> str:
    """One line on what computed some shards of a store."""
    batch_size, torch_version = machine.get("batch_size"), machine.get("torch")
    return (
        f"computed by  {machine.get('device_name')} ({machine.get('device')}), batch size "
        f"{batch_size}, torch {torch_version}: {machine['shards']:,} shards"
    )


@examples("sketchfusion cache verify stores/demo", "sketchfusion cache verify stores/demo --fast")
@cache.command("verify")
@click.argument("store", type=STORE)
@click.option("--fast", is_flag=True, help="Sizes and indexes only, not every checksum.")
@json_option
def cache_verify(store: StorePath, fast: bool, as_json: bool) -> None:
    """Check STORE: every checksum, size, index and commit. Exits with 1 if it is damaged."""
    from cache import verify_store
    from cache.units import human_bytes, printable
    from pipeline.bar import Bar

    with Bar("file") as bar:
        report = verify_store(store, not fast, bar.show)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report) | {"sound": report.sound}, indent=2))
    else:
        for problem in report.problems:
            click.echo(printable(f"{problem.kind}: {problem.where}: {problem.what}"))
        for remark in report.notes:
            click.echo(printable(f"note: {remark.where}: {remark.what}"))
        verdict = "sound" if report.sound else f"damaged (problems: {len(report.problems)})"
        click.echo(
            f"{store}: {verdict}; {report.n_images:,} images, {report.n_shards:,} shards, "
            f"{human_bytes(report.bytes_checked)} checked"
        )
        if report.remedy:
            click.echo(
                f"to repair: sketchfusion cache repair {store} CONFIG, with the configuration "
                f"that made it; or by hand: {report.remedy}"
            )
    if not report.sound:
        sys.exit(1)


@examples(
    "sketchfusion cache repair stores/mine mine.yaml --dry-run",
    "sketchfusion cache repair stores/mine mine.yaml",
)
@cache.command("repair")
@click.argument("store", type=STORE)
@config_argument()
@set_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@json_option
def cache_repair(
    store: StorePath, config: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Verify STORE and compute again exactly what is damaged.

    CONFIG is the configuration that made the store: it says where the images and the weights
    are. Its recipe must be the store's; its timesteps and layers do not matter. What is sound is
    kept byte for byte. Stopped at any point, the same command goes on. Exits with 1 if the store is
    still damaged, or with --dry-run if there is something to do.
    """
    from cache import local_path
    from configs import load_config
    from pipeline.bar import ImageBar
    from pipeline.repair import repair

    with ImageBar() as bar:
        place = local_path(store, "cache repair")
        report = repair(load_config(config, overrides), place, dry_run, bar.update, note)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else report.as_text())
    if not report.sound:
        sys.exit(1)


@examples(
    "sketchfusion cache prune stores/mine --timestep 500",
    "sketchfusion cache prune stores/mine --array prefix/t195 --array clip/pooled --yes",
    "sketchfusion cache prune stores/mine --temporary",
)
@cache.command("prune")
@click.argument("store", type=STORE)
@click.option("--timestep", "timesteps", type=int, multiple=True, help="May be repeated.")
@click.option("--array", "names", multiple=True, help="An array or a group; may be repeated.")
@click.option("--temporary", is_flag=True, help="What killed writers left behind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def cache_prune(
    store: StorePath,
    timesteps: tuple[int, ...],
    names: tuple[str, ...],
    temporary: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Drop arrays or temporary files from STORE, after showing their sizes.

    What was dropped can be computed again by a precompute that asks for it. With --json nobody is
    asked, and nothing dropped without --yes.
    """
    from cache import local_path, plan_arrays, plan_temporaries, prune_arrays, prune_temporaries
    from cache.units import human_bytes, printable

    if temporary == bool(timesteps or names):
        raise click.UsageError("say what to drop: --timestep or --array, or else --temporary")
    place = local_path(store, "cache prune")
    plan = plan_temporaries(place) if temporary else plan_arrays(place, timesteps, names)
    wanted = bool(plan.bytes_by_name)
    if not as_json:
        for name, n_bytes in plan.bytes_by_name.items():
            click.echo(printable(f"{human_bytes(n_bytes):>9}  {name}"))
        if wanted:
            click.echo(f"{human_bytes(plan.n_bytes):>9}  in all")
    if wanted and not yes and not as_json:
        if not sys.stdin.isatty():
            raise click.ClickException("nobody to ask, nothing dropped; add --yes to drop these")
        click.confirm("drop these?", abort=True)
    drop = wanted and (yes or not as_json)
    if drop and temporary:
        prune_temporaries(place)
    elif drop:
        prune_arrays(place, plan.bytes_by_name)
    if as_json:
        sizes = {"bytes": plan.n_bytes, "bytes_by_name": dict(plan.bytes_by_name)}
        click.echo(json.dumps({"store": str(store), "dropped": drop, **sizes}, indent=2))
    elif drop:
        click.echo(f"{store}: {human_bytes(plan.n_bytes)} dropped")
    else:
        click.echo(f"{store}: nothing to drop")
