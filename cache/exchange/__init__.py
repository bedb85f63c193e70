"""A store as files for other tools: HDF5, WebDataset, `.npy`, Parquet. docs/exchange.md.

All formats but Parquet can be imported again (`imports.py`), and give the same store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cache.exchange.contents import Contents
from cache.exchange.publish import refuse_existing, staged
from cache.storage.places import folder_bytes, store_path
from cache.storage.remote import StorePath

FORMATS: Mapping[str, tuple[str, str]] = {
    "hdf5": ("hdf5", "write_stacked"),
    "hdf5-images": ("hdf5", "write_per_image"),
    "webdataset": ("webdataset", "write_webdataset"),
    "npy": ("npy", "write_npy"),
    "parquet": ("parquet", "write_parquet"),
}
"""By the name users give: module of this package and its writer."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    path: Path
    format: str
    arrays: list[str]
    """Features."""
    n_images: int
    """Images with features."""
    n_quarantined: int
    """Images without, named with their reasons in the description."""
    n_unfinished: int
    """Images left out because a feature of theirs is not computed yet."""
    bytes_on_disk: int


def export_store(
    store: str | StorePath,
    out: str | Path,
    format: str,
    arrays: Sequence[str] = (),
    descriptors: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ExportReport:
    """Write features of a store to ``out``, a file or a folder, in one of `FORMATS`.

    ``arrays`` are names or globs (default: all), ``descriptors`` leaves only [N, D]. ``out``
    appears when it is complete; what exists there is refused, or replaced with ``force``.
    ``progress`` hears images done and in all; ``options`` go to the format's writer. Raises
    StoreError, among others CorruptShard where a record has changed since it was committed.
    """
    out = Path(out)
    module, name = FORMATS[format]
    write = getattr(import_module(f"cache.exchange.{module}"), name)
    contents = Contents(store_path(store), format, arrays, descriptors)
    described = contents.description

    def done(n_images: int) -> None:
        if progress is not None:
            progress(n_images, described.n_images)

    refuse_existing(out, force)
    with staged(out) as path:
        write(path, contents, done, **options)
    return ExportReport(
        path=out,
        format=format,
        arrays=list(described.arrays),
        n_images=described.n_images,
        n_quarantined=len(described.quarantined),
        n_unfinished=contents.n_unfinished,
        bytes_on_disk=folder_bytes(out) if out.is_dir() else out.stat().st_size,
    )
