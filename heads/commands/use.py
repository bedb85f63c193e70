"""`sketchfusion match`, `retrieve`, `classify`, `segment`: a trained run on one's own pictures."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heads.commands.console import note
from heads.commands.options import LocalPath, examples, gallery_option, json_option, root_option

if TYPE_CHECKING:
    from cache import StorePath
    from heads.use import Trained

N_DRAWN = 24
"""Sketches that a grid of hits shows."""

run_argument = click.argument("run", type=LocalPath())
sketch_argument = click.argument("sketch", type=LocalPath())
sketches_argument = click.argument("sketches", nargs=-1, required=True, type=LocalPath())
figure_option = click.option("--out", type=LocalPath(), help="Draw it: a .png, .svg or .pdf.")


def _parse_points(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[tuple[float, float]]:
    points = []
    for value in values:
        try:
            x, y = (float(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(
                f"{value!r}: write X,Y in pixels of the sketch, for instance 120,64.5"
            ) from None
        points.append((x, y))
    return points


@examples(
    "sketchfusion match runs/correspondence sketch.png photo.jpg --point 120,64 --point 30,80",
    "sketchfusion match runs/correspondence sketch.png photo.jpg --grid 5 --out match.png",
)
@click.command()
@run_argument
@sketch_argument
@click.argument("photo", type=LocalPath())
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="X,Y",
    callback=_parse_points,
    help="A point in pixels of the sketch; may be repeated.",
)
@click.option(
    "--grid",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Points of what is drawn, one in each of N x N fields.  [default: 4]",
)
@figure_option
@json_option
def match(
    run: Path,
    sketch: Path,
    photo: Path,
    points: list[tuple[float, float]],
    grid: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find points of SKETCH in PHOTO with the head of RUN.

    Points are (x, y) in pixels from the upper left corner of their picture. The similarity is the
    cosine with the most similar place of the photo.
    """
    from heads.plots import matches_figure
    from heads.use import grid_points, load_picture
    from heads.use import match as find

    if points and grid:
        raise click.UsageError("give either --point or --grid")
    _check_figure(out)
    pictures = load_picture(sketch), load_picture(photo)
    asked = points or grid_points(pictures[0], grid or 4)
    trained = _open(run, ("correspondence",))
    found = find(trained, *pictures, asked)
    rows = list(zip(found.sketch_points, found.found, found.similarity, strict=True))
    if as_json:
        listed = [
            {"sketch": list(ours), "photo": list(theirs), "similarity": float(similarity)}
            for ours, theirs, similarity in rows
        ]
        _print_json(run, sketch=str(sketch), photo=str(photo), points=listed)
    else:
        click.echo("      sketch               photo  similarity")
        for (x, y), (u, v), similarity in rows:
            click.echo(f"{x:7.1f},{y:7.1f}  {u:9.1f},{v:7.1f}  {similarity:10.3f}")
    _draw(out, lambda: matches_figure([found]))


@examples(
    "sketchfusion retrieve runs/retrieval sketch.png --gallery photos",
    "sketchfusion retrieve runs/retrieval sketches --gallery stores/mine --top 20 --json",
    "sketchfusion retrieve runs/retrieval sketch.png --gallery stores/mine --root pictures "
    "--out hits.png",
)
@click.command()
@run_argument
@sketches_argument
@gallery_option
@click.option(
    "--top",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="K",
    help="Photos for each sketch.",
)
@root_option
@figure_option
@json_option
def retrieve(
    run: Path,
    sketches: tuple[Path, ...],
    gallery: StorePath | None,
    top: int,
    root: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find the photos of a gallery that are most like SKETCHES, files or folders of them.

    The gallery's descriptors are computed once and kept in RUN; later only new photos are
    described.
    """
    from heads.plots import retrieval_figure
    from heads.use import load_pictures, picture_files
    from heads.use.retrieve import open_own_gallery
    from pipeline.bar import Bar

    _check_figure(out)
    files = picture_files(sketches)
    trained = _open(run, ("retrieval", "fine_grained"))
    with Bar("img") as bar:
        photos = open_own_gallery(trained, gallery, note, bar.show)
    results = [
        (sketch, photos.search(sketch, top)) for sketch in load_pictures(files, sketches, note)
    ]
    if as_json:
        listed = [
            {"sketch": sketch.name, "hits": [vars(photo) for photo in found]}
            for sketch, found in results
        ]
        _print_json(run, gallery=str(photos.place), n_gallery=len(photos), results=listed)
    else:
        for sketch, found in results:
            click.echo(_shown(sketch.name))
            for place, photo in enumerate(found, 1):
                click.echo(f"{place:4d}  {photo.similarity:6.3f}  {_shown(photo.id)}")
    if len(results) > N_DRAWN and out is not None:
        note(f"{out} shows the first {N_DRAWN} sketches")
    _draw(out, lambda: retrieval_figure(photos.rankings(results[:N_DRAWN], root)))


@examples(
    "sketchfusion classify runs/recognition sketch.png",
    "sketchfusion classify runs/recognition sketches --json",
)
@click.command()
@run_argument
@sketches_argument
@json_option
def classify(run: Path, sketches: tuple[Path, ...], as_json: bool) -> None:
    """Name what SKETCHES show, files or folders of them: the five likeliest classes."""
    from heads.use import classify as guess
    from heads.use import load_pictures, picture_files

    files = picture_files(sketches)
    trained = _open(run, task="recognition")
    guesses = [guess(trained, sketch) for sketch in load_pictures(files, sketches, note)]
    if as_json:
        listed = [
            {
                "sketch": found.sketch.name,
                "classes": [{"name": name, "probability": share} for name, share in found.classes],
            }
            for found in guesses
        ]
        _print_json(run, results=listed)
        return
    for found in guesses:
        click.echo(_shown(found.sketch.name))
        for name, share in found.classes:
            click.echo(f"{share:8.1%}  {_shown(name)}")


@examples(
    "sketchfusion segment runs/segmentation sketch.png photo.jpg --out masks",
    "sketchfusion segment runs/segmentation sketch.png photos --out masks --json",
)
@click.command()
@run_argument
@sketch_argument
@click.argument("photos", nargs=-1, required=True, type=LocalPath())
@click.option(
    "--out",
    type=LocalPath(file_okay=False),
    metavar="DIR",
    help="Write a mask of each photo's size, and an overlay, into this folder.",
)
@json_option
def segment(
    run: Path, sketch: Path, photos: tuple[Path, ...], out: Path | None, as_json: bool
) -> None:
    """Find what SKETCH shows in PHOTOS, files or folders of them.

    Prints the share of each photo that was found, and the mean cosine there with the sketch.
    """
    from heads.tasks.segmentation import THRESHOLD
    from heads.use import load_picture, load_pictures, picture_files, save_mask
    from heads.use import segment as find

    query, files = load_picture(sketch), picture_files(photos)
    trained = _open(run, task="segmentation")
    listed: list[dict[str, Any]] = []
    taken: set[str] = set()
    for photo in load_pictures(files, photos, note):
        found = find(trained, query, photo)
        written = {} if out is None else save_mask(found, out, taken)
        entry = {"photo": photo.name, "share": found.share, "similarity": found.mean_similarity}
        listed.append(entry | {kind: str(path) for kind, path in written.items()})
        if not as_json:
            cosine = "-" if found.mean_similarity is None else f"{found.mean_similarity:.3f}"
            click.echo(f"{found.share:6.1%}  {cosine:>6}  {_shown(photo.name)}")
    if as_json:
        _print_json(
            run, sketch=str(sketch), threshold=trained.fitted.numbers[THRESHOLD], photos=listed
        )


def _open(run: Path, made_for: tuple[str, ...] = (), task: str | None = None) -> Trained:
    """Load a run, of just this task; a note where its head was trained for something else."""
    from heads.use import open_trained

    trained = open_trained(run, note, task)
    if made_for and trained.task not in made_for:
        note(f"{run}: was trained for {trained.task}; expect less of it here")
    return trained


def _check_figure(out: Path | None) -> None:
    """Before anything is computed."""
    from heads.plots.style import check_suffix

    if out is not None:
        check_suffix(out)


def _draw(out: Path | None, figure: Any) -> None:
    from heads.plots import save

    if out is not None:
        save(figure(), out)
        note(f"wrote {out}")


def _print_json(run: Path, **entries: Any) -> None:
    click.echo(json.dumps({"run": str(run), **entries}, indent=2))


def _shown(name: str) -> str:
    from cache.units import printable

    return printable(name)
