"""Parquet, for tools that read tables: one row per image, one column per global descriptor.

Needs pyarrow, which this project does not need otherwise. There is no import from Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import StoreError
from cache.exchange.contents import Contents, ExportedImage, Records, unicode_id

_BATCH = 1024


def write_parquet(path: Path, contents: Contents, done: Callable[[int], None]) -> None:
    """Write the columns id, sha256, width, height and each descriptor, as float32 lists [D].

    The file's metadata hold the description as JSON under `sketchfusion`. ``done`` hears the
    number of images so far. Raises StoreError without pyarrow and for maps.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise StoreError(
            "Parquet needs pyarrow: run `pip install pyarrow`, or use --format hdf5"
        ) from error
    specs = contents.description.arrays
    maps = [name for name, spec in specs.items() if len(spec.shape) != 1]
    if maps:
        raise StoreError(
            f"Parquet is for descriptors [N, D], not for {', '.join(maps)}; add --descriptors"
        )
    vectors = [(name, pa.list_(pa.float32(), spec.shape[0])) for name, spec in specs.items()]
    columns = [("id", pa.string()), ("sha256", pa.string())]
    sizes = [("width", pa.int64()), ("height", pa.int64())]
    description = json.dumps(contents.description.to_json())
    schema = pa.schema([*columns, *sizes, *vectors], metadata={"sketchfusion": description})
    rows = contents.rows()
    n_done = 0
    with pq.ParquetWriter(path, schema) as writer:
        while batch := _copied(rows):
            images = [exported.image for exported, _ in batch]
            table: dict[str, Any] = {
                "id": [unicode_id(image.id) for image in images],
                "sha256": [unicode_id(image.sha256) for image in images],
                "width": [image.width for image in images],
                "height": [image.height for image in images],
            }
            for name, kind in vectors:
                values = np.concatenate([records[name] for _, records in batch], dtype=np.float32)
                table[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind)
            writer.write_table(pa.table(table, schema=schema))
            n_done += len(batch)
            done(n_done)


def _copied(rows: Iterator[tuple[ExportedImage, Records]]) -> list[tuple[ExportedImage, Records]]:
    """The next rows, with records that outlive their shard's files."""
    return [
        (exported, {name: record.copy() for name, record in records.items()})
        for exported, records in islice(rows, _BATCH)
    ]
