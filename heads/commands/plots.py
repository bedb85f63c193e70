"""`sketchfusion plot`: figures of stores and of what trained runs found."""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from heads.commands.console import note
from heads.commands.options import STORE, LocalPath, examples, set_option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cache import StorePath
    from heads.explain import Explained


@click.group("plot")
def plot() -> None:
    """Figures of a store's features and of what trained runs found, as PNG, SVG or PDF."""


def _out(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--out",
        type=LocalPath(dir_okay=False),
        default=default,
        show_default=True,
        help="The file: .png, .svg or .pdf.",
    )


def _n(default: int, what: str) -> Callable[[Any], Any]:
    return click.option(
        "--n", type=click.IntRange(1), default=default, show_default=True, help=f"How many {what}."
    )


_images = click.option(
    "--image", "images", multiple=True, metavar="ID", help="An image's id; may be repeated."
)
_store = click.argument("store", type=STORE)
_run = click.argument("run", type=LocalPath())


@examples(
    "sketchfusion plot pca stores/demo --config demo",
    "sketchfusion plot pca stores/demo --config runs/match/config.yaml --n 4 --out maps.svg",
    "sketchfusion plot pca stores/demo --image sketch/cat/1.png --image photo/cat/1.png",
)
@plot.command("pca")
@_store
@click.option("--config", help="Configuration of the store: shows its pictures and its pairs.")
@set_option
@_images
@_n(3, "pairs of a sketch and its photo")
@_out("pca.png")
def pca(
    store: Path,
    config: str | None,
    overrides: tuple[str, ...],
    images: tuple[str, ...],
    n: int,
    out: Path,
) -> None:
    """Feature maps of STORE as colours: each layer and timestep, and CLIP, for sketch and photo.

    The colours are the first three principal components, which a sketch shares with its photo.
    With --image these images share them. The store alone knows neither pictures nor pairs: name
    its configuration for these.
    """
    from cache import FeatureStore
    from configs import load_config
    from heads.explain.features import mapped_images
    from heads.plots import maps_figure
    from pipeline.job import open_configured

    if overrides and config is None:
        raise click.UsageError("--set changes a configuration; name one with --config")
    _check(out)
    dataset = None if config is None else open_configured(load_config(config, overrides))
    _save(maps_figure(mapped_images(FeatureStore.open(store), dataset, images, n)), out)


@examples(
    "sketchfusion plot spectrum stores/demo",
    "sketchfusion plot spectrum --run runs/match --n 500 --out spectrum.pdf",
)
@plot.command("spectrum")
@click.argument("store", type=STORE, required=False)
@click.option("--run", type=LocalPath(), help="A run: its features, and fused.")
@_n(200, "images")
@_out("spectrum.png")
def spectrum(store: StorePath | None, run: Path | None, n: int, out: Path) -> None:
    """How coarse or fine features are: power over spatial frequency.

    Of all maps in STORE; or, with --run, of the maps that the run reads and of the descriptors
    that its head makes of them, over its test part.
    """
    from cache import FeatureStore
    from heads.explain.features import run_spectra, store_spectra
    from heads.plots import spectrum_figure

    if (store is None) == (run is None):
        raise click.UsageError("name a store, or a run with --run")
    _check(out)
    if run is not None:
        spectra = run_spectra(_explained(run), n)
    else:
        assert store is not None
        spectra = store_spectra(FeatureStore.open(store), n)
    _save(spectrum_figure(spectra), out)


@examples(
    "sketchfusion plot matches runs/match",
    "sketchfusion plot matches runs/match --image sketch/cat/1.png --out cat.svg",
)
@plot.command("matches")
@_run
@_images
@_n(6, "pairs")
@_out("matches.png")
def matches(run: Path, images: tuple[str, ...], n: int, out: Path) -> None:
    """Pairs of RUN's test part: the sketch's points and where they are found in the photo, right
    and wrong ones marked."""
    from heads.explain import find_matches
    from heads.plots import matches_figure

    _check(out)
    _save(matches_figure(find_matches(_explained(run), n, images)), out)


@examples(
    "sketchfusion plot masks runs/segmentation",
    "sketchfusion plot masks runs/segmentation --image photo/cat/1.png --n 4",
)
@plot.command("masks")
@_run
@_images
@_n(6, "masks")
@_out("masks.png")
def masks(run: Path, images: tuple[str, ...], n: int, out: Path) -> None:
    """Masks that RUN finds for sketches and photos of its test part, against the truth."""
    from heads.explain import find_masks
    from heads.plots import masks_figure

    _check(out)
    _save(masks_figure(find_masks(_explained(run), n, images)), out)


@examples(
    "sketchfusion plot retrieval runs/retrieval",
    "sketchfusion plot retrieval runs/retrieval --image sketch/cat/1.png --hits 12",
)
@plot.command("retrieval")
@_run
@_images
@_n(6, "queries")
@click.option(
    "--hits", type=click.IntRange(1), default=8, show_default=True, help="Photos for each query."
)
@_out("retrieval.png")
def retrieval(run: Path, images: tuple[str, ...], n: int, hits: int, out: Path) -> None:
    """Sketches of RUN's test part with the photos ranked first, right ones framed."""
    from heads.explain import find_rankings
    from heads.plots import retrieval_figure

    _check(out)
    _save(retrieval_figure(find_rankings(_explained(run), n, images, hits)), out)


@examples("sketchfusion plot confusion runs/recognition --out confusion.svg")
@plot.command("confusion")
@_run
@_out("confusion.png")
def confusion(run: Path, out: Path) -> None:
    """What RUN takes the sketches of each class of its test part for."""
    from heads.explain import find_confusion
    from heads.plots import confusion_figure

    _check(out)
    found = find_confusion(_explained(run))
    _save(confusion_figure(found.counts, found.classes), out)


@examples(
    "sketchfusion plot curves runs/retrieval",
    "sketchfusion plot curves runs/a runs/b --metric map@all --out curves.pdf",
)
@plot.command("curves")
@click.argument("runs", nargs=-1, required=True, type=LocalPath())
@click.option("--metric", help="The validation metric; of several runs the first by default.")
@_out("curves.png")
def curves(runs: tuple[Path, ...], metric: str | None, out: Path) -> None:
    """Learning curves of RUNS: loss, and results on the validation part. Reads no store."""
    from heads.plots import curves_figure
    from heads.training.run import open_run

    _check(out)
    _save(curves_figure({str(run): open_run(run).curve() for run in runs}, metric), out)


@examples("sketchfusion plot mixing runs/match")
@plot.command("mixing")
@_run
@_out("mixing.png")
def mixing(run: Path, out: Path) -> None:
    """How much each layer counts in RUN's descriptors."""
    from heads.plots import mixing_figure

    _check(out)
    _save(mixing_figure(_explained(run).mixing()), out)


def _explained(folder: Path) -> Explained:
    from heads.evaluation.evaluate import reopen
    from heads.explain import Explained, Remembered
    from heads.training.run import open_run

    run = open_run(folder)
    experiment = reopen(run, note)
    fitted = run.read_fitted(run.weights_digest())
    return Explained(experiment, fitted, Remembered(experiment.learner.describe))


def _check(out: Path) -> None:
    """Before the work rather than after it."""
    from heads.plots.style import check_suffix

    check_suffix(out)


def _save(figure: Figure, out: Path) -> None:
    from heads.plots import save

    save(figure, out)
    click.echo(out)
