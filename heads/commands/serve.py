"""`sketchfusion serve`: trained runs in a web page with a drawing canvas."""

# Heavy packages are imported inside the command: `--help` should not wait for torch.
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from heads.commands.console import note
from heads.commands.options import LocalPath, examples, gallery_option, root_option

if TYPE_CHECKING:
    from cache import StorePath


@examples(
    "sketchfusion serve runs/retrieval",
    "sketchfusion serve runs/retrieval --gallery photos --open",
    "sketchfusion serve runs/retrieval runs/recognition runs/segmentation runs/correspondence",
    "sketchfusion serve runs/retrieval --gallery stores/mine --root pictures --port 0",
)
@click.command()
@click.argument("runs", nargs=-1, required=True, type=LocalPath())
@gallery_option
@root_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def serve(
    runs: tuple[Path, ...],
    gallery: StorePath | None,
    root: Path | None,
    host: str,
    port: int,
    show: bool,
) -> None:
    """Draw in a web page and see what RUNS make of it, as you draw.

    One run is enough: it searches the gallery and finds points in photos. A run of recognition
    adds class guesses, one of segmentation masks, one of correspondence better points. Prints the
    page's address, and answers this machine alone unless --host says otherwise.
    """
    from heads.serve.run import address, check_installed, is_open_to_others, listen
    from heads.serve.run import serve as answer

    check_installed()
    with listen(host, port) as listener:
        # What takes long comes after what can be refused at once.
        from heads.serve.service import open_service
        from pipeline.bar import Bar

        with Bar("img") as bar:
            service = open_service(runs, gallery, root, note, bar.show)
        page = address(listener)
        if is_open_to_others(listener):
            note("every machine that reaches this one can use the page and see the gallery")
        note(f"{len(service.gallery):,} photos; Ctrl-C stops")
        click.echo(page)
        if show:
            click.launch(page)
        answer(service, listener, host)
