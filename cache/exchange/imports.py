"""An export becomes a store again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cache.errors import StoreError
from cache.exchange.contents import (
    Description,
    ExportedImage,
    QuarantinedImage,
    Records,
    check_records,
)
from cache.exchange.folder import read_description
from cache.format.encoding import Dequantiser, Encoder
from cache.format.layout import SCALE_SUFFIX, ArraySpec
from cache.format.records import ImageRecord
from cache.storage.places import store_path
from cache.storage.remote import StorePath
from cache.writing.shardwriter import ShardWriter
from cache.writing.writer import ShardTask, StoreWriter


class Source(Protocol):
    """An export opened for an import."""

    @property
    def description(self) -> Description:
        """What the export says about itself."""
        ...

    @property
    def images(self) -> Sequence[ExportedImage]:
        """Those with features, in row order."""
        ...

    def read(self, index: int) -> Records:
        """The records of image ``index`` of `images`, of the dtypes and shapes described."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote."""

    path: StorePath
    fingerprint: str
    arrays: list[str]
    """Features."""
    n_images: int
    """Images of the export, quarantined ones included."""
    n_quarantined: int
    n_written: int
    """Images written now; the others were there from an import before."""


def import_store(
    source: str | Path,
    out: str | StorePath,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Make the store that was exported to ``source``, or add it to a store of the same recipe.

    Every record is compared with the checksum it had in its first store. Shards appear in ``out``
    one by one, as in a precompute: after an interruption the same import goes on from there.
    ``progress`` hears images done and in all. Raises StoreError for whatever is no sound export.
    """
    source, place = Path(source), store_path(out)
    with closing(open_source(source)) as opened:
        return _Import(source, opened).run(place, progress or (lambda done, n_images: None))


def open_source(path: Path) -> Source:
    """Open an export by what it is: a file is HDF5, a folder says in its description."""
    if not path.exists():
        raise StoreError(f"{path}: no such file or folder")
    if not path.is_dir():
        from cache.exchange.hdf5 import Hdf5Source

        return Hdf5Source(path)
    layout = read_description(path).layout
    if layout == "webdataset":
        from cache.exchange.webdataset import WebDatasetSource

        return WebDatasetSource(path)
    if layout == "npy":
        from cache.exchange.npy import NpySource

        return NpySource(path)
    raise StoreError(f"{path}: layout {layout!r} is none that can be imported from a folder")


class _Import:
    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._source = source
        self._index_of = {exported.image.id: index for index, exported in enumerate(source.images)}
        quarantined = source.description.quarantined
        self._reason_of = {image.image.id: image.reason for image in quarantined}

    def run(self, out: StorePath, progress: Callable[[int, int], None]) -> ImportReport:
        described = self._source.description
        images = _in_rows([image.image for image in self._source.images], described.quarantined)
        writer = StoreWriter.open(
            out,
            described.recipe,
            images,
            list(described.arrays.values()),
            described.shard_size,
            described.provenance,
        )
        tasks = writer.pending()
        self._refuse_others(writer, tasks)
        written: set[int] = set()
        n_before = len(images) - len({row for task in tasks for row in task.rows})
        for task in tasks:
            with writer.shard(task) as shard:
                for row in task.rows:
                    self._put(writer, task, shard, row)
                    written.add(row)
                    progress(n_before + len(written), len(images))
                shard.commit()
        return ImportReport(
            path=out,
            fingerprint=writer.recipe.fingerprint,
            arrays=list(described.arrays),
            n_images=len(images),
            n_quarantined=len(described.quarantined),
            n_written=len(written),
        )

    def _refuse_others(self, writer: StoreWriter, tasks: Sequence[ShardTask]) -> None:
        """Rows of a shard have no gaps: an unfinished image before ours is not ours to fill."""
        for task in tasks:
            for row in task.rows:
                image_id = writer.images[row].id
                if image_id not in self._index_of and image_id not in self._reason_of:
                    raise StoreError(
                        f"{writer.path}: {image_id} is not computed there and not in {self._path}; "
                        "finish that store first, or import into an empty folder"
                    )

    def _put(self, writer: StoreWriter, task: ShardTask, shard: ShardWriter, row: int) -> None:
        image_id = writer.images[row].id
        if image_id in self._reason_of:
            shard.quarantine(row, self._reason_of[image_id])
            return
        index = self._index_of[image_id]
        records = self._source.read(index)
        check_records(
            self._source.images[index], records, str(self._path), "fetch or export it again"
        )
        features = {
            name: self._feature(writer.arrays[name], records, image_id) for name in task.arrays
        }
        shard.put(row, features)

    def _feature(self, spec: ArraySpec, records: Records, image_id: str) -> np.ndarray:
        """What to put for the writer to store just these records.

        Quantising a decoded int8 map gives the map again, in every bit, if it was quantised by
        this program; StoreError if not.
        """
        if spec.dtype != "int8":
            return records[spec.name]
        pair = (records[spec.name], records[spec.name + SCALE_SUFFIX])
        values = np.empty(spec.shape, np.float32)
        Dequantiser(spec.shape)(*pair, out=values)
        if not all(map(np.array_equal, pair, Encoder(spec)(values, image_id))):
            raise StoreError(
                f"{self._path}: {spec.name} of {image_id} is not quantised as a store does; "
                "import an export that this program wrote"
            )
        return values


def _in_rows(
    images: Sequence[ImageRecord], quarantined: Sequence[QuarantinedImage]
) -> list[ImageRecord]:
    """All images, those without features put back into their rows."""
    rest = iter(images)
    reserved = {image.row: image.image for image in quarantined}
    n_all = len(images) + len(quarantined)
    return [reserved[row] if row in reserved else next(rest) for row in range(n_all)]
