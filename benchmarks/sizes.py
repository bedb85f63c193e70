"""Bytes and operations of the paper's datasets by ensemble, timesteps and type, as Markdown.

    python benchmarks/sizes.py

What `sketchfusion plan` counts per image, times the published numbers of images: nothing is
measured, no data set and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cache.format.shardfile import index_bytes
from configs import load_config
from pipeline.cost import measure_cost
from pipeline.extraction.arrays import array_specs
from pipeline.networks.vision import VisionGeometry

DATASETS = {
    "Sketchy": 75_471 + 12_500,
    "TU-Berlin extended": 20_000 + 204_489,
    "QuickDraw-Extended": 330_000 + 204_000,
}
"""Sketches and photos."""
PRESET = "backbone=sd21-clip-l336"
CHOICES = (
    "extraction.ensemble=1",
    "extraction.ensemble=4",
    "extraction.ensemble=32",
    "extraction.timesteps=[195, 400]",
    "extraction.store_dtype=int8",
    "extraction.store_dtype=float32",
    "extraction.layers=[s3, s4]",
    "extraction.prefix=down.0",
    "extraction.prefix=up.0",
)
SHARD_SIZES = (16, 64, 256, 1024)


def choices() -> Iterator[str]:
    """A Markdown table of what each choice costs, one key changed at a time."""
    yield "| | an image | " + " | ".join(f"{n} ({c:,})" for n, c in DATASETS.items()) + " |"
    yield "|---|---|" + "---|" * len(DATASETS)
    plain = load_config("demo", [PRESET])
    cost = measure_cost(plain.backbone, plain.extraction)
    assert not isinstance(cost.geometry, VisionGeometry)
    for choice in CHOICES:
        extraction = load_config("demo", [PRESET, choice]).extraction
        passes = len(extraction.timesteps) * extraction.ensemble
        flops = replace(cost, passes=passes).total
        n_bytes = sum(
            array.record_bytes
            for spec in array_specs(cost.geometry, extraction)
            for array in spec.zarr_arrays
        )
        cells = [f"{n_bytes / 2**20:.2f} MiB, {flops / 1e12:.2f} TFLOP"]
        cells += [
            f"{n * n_bytes / 1e12:.2f} TB, {n * flops / 1e15:,.0f} P" for n in DATASETS.values()
        ]
        yield f"| `{choice}` | " + " | ".join(cells) + " |"


def shards() -> Iterator[str]:
    """A Markdown table of what follows from the shard size, for the first choice."""
    config = load_config("demo", [PRESET])
    extraction, cost = config.extraction, measure_cost(config.backbone, config.extraction)
    assert not isinstance(cost.geometry, VisionGeometry)
    specs = array_specs(cost.geometry, extraction)
    n_bytes = sum(array.record_bytes for spec in specs for array in spec.zarr_arrays)
    yield "| images a shard | a shard, all arrays | its indexes | " + (
        " | ".join(f"shards of {name}" for name in DATASETS) + " |"
    )
    yield "|---|---|---|" + "---|" * len(DATASETS)
    for size in SHARD_SIZES:
        n_maps = sum(array.sharded for spec in specs for array in spec.zarr_arrays)
        cells = [f"{size * n_bytes / 2**20:,.0f} MiB", f"{n_maps * index_bytes(size):,} B"]
        cells += [f"{-(-n // size):,}" for n in DATASETS.values()]
        yield f"| {size:,} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("\n".join([*choices(), "", *shards()]))
