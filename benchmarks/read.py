"""Random batches from a store, beside a raw memory map and what people would use instead.

    python benchmarks/read.py [--images 192] [--rounds 5] [--folder DIR]

Writes the same float16 maps (the paper's s3 and s4 at 336 px) four ways, then reads shuffled
batches of 16 images x 2 layers, warm, the methods taking turns in one process. Ratios are
medians over the rounds; absolute times belong to the machine they were taken on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from cache import ArraySpec, FeatureStore, ImageRecord, Recipe, StoreWriter

LAYERS = {"sd/t195/s3": (640, 42, 42), "sd/t195/s4": (1280, 21, 21)}
BATCH = 16

Read = Callable[[list[int]], object]


def main() -> None:
    """Write, read in turns, print a table and optionally JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        readers = write_all(Path(folder), arguments.images)
        seconds = take_turns(readers, arguments.images, arguments.rounds)
    limit = seconds["raw memory map"]
    rows = {
        name: [b / a for a, b in zip(times, limit, strict=True)] for name, times in seconds.items()
    }
    print(f"{'method':<24}{'x memory map':>14}{'spread':>16}{'ms a batch':>13}")
    for name, ratios in rows.items():
        spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
        ms = 1e3 * statistics.median(seconds[name])
        print(f"{name:<24}{statistics.median(ratios):>14.3f}{spread:>16}{ms:>13.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratios": rows, "seconds": seconds}, indent=2))


def write_all(folder: Path, n_images: int) -> dict[str, Read]:
    """The same random maps as a store, raw files and one `.pt` an image; how each is read."""
    rng = np.random.default_rng(0)
    images = [ImageRecord(f"{i:06d}.png", f"{i:064x}", 336, 336) for i in range(n_images)]
    specs = [ArraySpec(name, shape, "float16") for name, shape in LAYERS.items()]
    writer = StoreWriter.open(folder / "store", Recipe({"benchmark": "read"}), images, specs)
    raw = {
        name: np.lib.format.open_memmap(
            folder / f"{name.replace('/', '-')}.npy", "w+", np.float16, (n_images, *shape)
        )
        for name, shape in LAYERS.items()
    }
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                maps = {n: rng.random(s, np.float32).astype(np.float16) for n, s in LAYERS.items()}
                shard.put(row, maps)
                for name, values in maps.items():
                    raw[name][row] = values
                torch.save(
                    {name: torch.from_numpy(values) for name, values in maps.items()},
                    folder / f"{row}.pt",
                )
            shard.commit()

    store = FeatureStore.open(folder / "store")
    group = zarr.open_group(folder / "store", mode="r")
    buffers = {name: torch.empty((BATCH, *s), dtype=torch.float16) for name, s in LAYERS.items()}
    names = list(LAYERS)

    def from_memmap(rows: list[int]) -> None:
        for name in names:
            target = buffers[name].numpy()
            for position, row in enumerate(rows):
                target[position] = raw[name][row]

    def from_store(rows: list[int], check: bool = False) -> None:
        store.read([store.ids[row] for row in rows], names, out=buffers, check=check)

    def from_zarr(rows: list[int]) -> None:
        for name in names:
            target, array = buffers[name].numpy(), group[name]
            for position, row in enumerate(rows):
                target[position] = array[row]

    def from_pt(rows: list[int]) -> None:
        for position, row in enumerate(rows):
            loaded = torch.load(folder / f"{row}.pt", weights_only=True)
            for name in names:
                buffers[name][position] = loaded[name]

    return {
        "raw memory map": from_memmap,
        "this store": from_store,
        "this store, checked": lambda rows: from_store(rows, check=True),
        "zarr-python": from_zarr,
        "one .pt an image": from_pt,
    }


def take_turns(readers: dict[str, Read], n_images: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a batch per method and round; every round shuffles anew, one more warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    rng = np.random.default_rng(1)
    for turn in range(rounds + 1):
        order = rng.permutation(n_images)
        batches = [order[i : i + BATCH].tolist() for i in range(0, n_images - BATCH + 1, BATCH)]
        for name, read in readers.items():
            start = time.perf_counter()
            for rows in batches:
                read(rows)
            if turn:
                seconds[name].append((time.perf_counter() - start) / len(batches))
    return seconds


if __name__ == "__main__":
    main()
