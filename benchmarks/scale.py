"""Does it stay flat? Precompute by number of images, opening and planning, search in a gallery.

    python benchmarks/scale.py [--sizes 1000,10000,100000] [--rounds 3] [--json FILE]

Precompute runs as it is (reading, decoding, batches, sink, shards, commits) with a stand-in for the
networks: arrays of the paper's names and channels, maps shrunk to 2 x 2 cells and fewer, so that
100,000 images fit on a disk. Opening and planning look at a store whose commits are complete; its
maps, which neither reads, are not written. The gallery is random unit vectors.
"""

from __future__ import annotations

import hashlib
import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import zarr

from benchmarks.command import bench
from benchmarks.formats import TorchFiles, remove
from benchmarks.timing import Fact, Kind, Report, Row, Table, Target, take_turns
from cache import ArraySpec, FeatureStore, ImageRecord, Recipe, StoreWriter
from cache.format.commits import ArrayCommit, Commit
from cache.format.layout import DEFAULT_SHARD_SIZE, commit_path
from configs import Config, load_config
from heads.metrics.ranking import rank
from heads.search import search
from pipeline.compute import compute_tasks
from pipeline.datasets.base import Dataset
from pipeline.extraction.extract import BaseExtractor, Computed, Computing
from pipeline.inputs.collection import scan
from pipeline.job import Job, open_configured
from pipeline.plan import make_plan

SHAPES = {
    "sd/t195/s3": (640, 2, 2),
    "sd/t195/s4": (1280, 1, 1),
    "sd/t195/s5": (1280, 1, 1),
    "clip/tokens": (1024, 1, 1),
    "clip/pooled": (768,),
    "vae/latent": (4, 2, 2),
}
WIDTH = 1280
"""Of descriptors."""
TOP = 10


def measure(
    sizes: Sequence[int] = (1_000, 10_000, 100_000),
    n_open: int = 300_000,
    n_gallery: int = 200_000,
    rounds: int = 3,
    folder: Path | None = None,
) -> Report:
    """Tables of precompute by size, of opening and planning, of search."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tables = [_precompute(sizes, rounds, Path(place)), _opening(n_open, rounds, Path(place))]
    tables += _retrieval(n_gallery, rounds)
    settings: dict[str, Fact] = {
        "sizes": " ".join(map(str, sizes)),
        "open": n_open,
        "gallery": n_gallery,
    }
    return Report("scale", {**settings, "rounds": rounds}, tables)


class Plates(Dataset):
    """Any number of small pictures in one colour each, made when they are read."""

    name = "plates"

    def __init__(self, n_images: int) -> None:
        self._ids = [f"plate/{i // 1000:04d}/{i:07d}.png" for i in range(n_images)]

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def read(self, image_id: str) -> bytes:
        number = int(image_id[-11:-4])
        line = b"\0" + number.to_bytes(3, "big") * 16
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in (
                (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)),
                (b"IDAT", zlib.compress(line * 16, 1)),
                (b"IEND", b""),
            )
        )


class StandIn(BaseExtractor):
    """Numbers in place of features: a function of the picture's content, as real ones are."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__(torch.device("cpu"), batch_size)

    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        seeds = np.array([int(sha[:4], 16) for sha in sha256s], np.float32) / 65536
        found = {}
        for name in arrays:
            n_values = int(np.prod(SHAPES[name]))
            ramp = np.linspace(-1, 1, n_values, dtype=np.float32)
            found[name] = (seeds[:, None] + ramp).reshape(len(squares), *SHAPES[name])
        return Computed(found)


def specs() -> list[ArraySpec]:
    """The stand-in's arrays, in the types that the paper's have."""
    floats = ("clip/pooled", "vae/latent")
    return [
        ArraySpec(name, shape, "float32" if name in floats else "float16")
        for name, shape in SHAPES.items()
    ]


def job(n_images: int) -> Job:
    """The stand-in's job."""
    config = load_config("demo", ["backbone.resolution=16"])
    return Job(
        config=config,
        dataset=Plates(n_images),
        extractor=StandIn(),
        recipe=Recipe({"benchmark": "scale"}),
        specs=specs(),
        injection_sites={},
    )


def run(n_images: int, out: Path) -> dict[str, float]:
    """Precompute a store with the stand-in; seconds by name."""
    work = job(n_images)
    start = time.perf_counter()
    collection = scan(work.dataset)
    scanned = time.perf_counter()
    writer = StoreWriter.open(out, work.recipe, collection.images, work.specs)
    opened = time.perf_counter()
    progress = compute_tasks(work, writer, writer.pending(), workers=1)
    return {"scan": scanned - start, "open": opened - scanned, "compute": progress.seconds}


def _precompute(sizes: Sequence[int], rounds: int, folder: Path) -> Table:
    sizes = sorted(sizes)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    scans: dict[int, list[float]] = {size: [] for size in sizes}
    raw: list[float] = []
    torch_files: list[float] = []
    peak: dict[int, float] = {}
    for _ in range(rounds):
        for size in sizes:
            out = folder / "store"
            spent = run(size, out)
            seconds[size].append(spent["compute"] / size)
            scans[size].append((spent["scan"] + spent["open"]) / size)
            # The highest of the process so far: sizes ascend, and the first round counts.
            peak.setdefault(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            remove(out)
        raw.append(_raw_append(sizes[0], folder) / sizes[0])
        torch_files.append(_torch_files(sizes[0], folder) / sizes[0])
    rows = [
        Row(
            f"this store, {size:,} images",
            "ours",
            seconds[size],
            {
                "hashing before, us": 1e6 * float(np.median(scans[size])),
                "peak MiB": round(peak[size]),
            },
        )
        for size in sizes
    ]
    rows += [
        Row("one .pt an image, written only", "peer", torch_files),
        Row("raw append, written only", "limit", raw),
    ]
    first, last = (float(np.median(seconds[size])) for size in (sizes[0], sizes[-1]))
    growth = 2**20 * (peak[sizes[-1]] - peak[sizes[0]]) / max(1, sizes[-1] - sizes[0])
    targets = [
        Target("time an image, largest / smallest", 1.05, last / first, at_most=True),
        Target("memory, bytes for each further image", 2048, growth, at_most=True),
    ]
    n_bytes = sum(a.record_bytes for spec in specs() for a in spec.zarr_arrays)
    work = f"an image, {n_bytes / 1024:.3g} KiB in {len(SHAPES)} arrays, maps shrunk"
    return Table("precompute with a stand-in for the networks", work, rows, targets)


def _batch(n_images: int) -> dict[str, np.ndarray]:
    """The stand-in's arrays of some images."""
    return StandIn()(np.empty((n_images, 3, 16, 16), np.uint8), ["00ff"] * n_images, list(SHAPES))


def _raw_append(n_images: int, folder: Path) -> float:
    """Seconds to append the same bytes, one file an array and shard, each synced."""
    parts = [_batch(1)[s.name].astype(s.zarr_arrays[0].numpy_dtype).tobytes() for s in specs()]
    start = time.perf_counter()
    for first in range(0, n_images, DEFAULT_SHARD_SIZE):
        for number, part in enumerate(parts):
            with (folder / f"{number}.raw").open("wb") as file:
                for _ in range(min(DEFAULT_SHARD_SIZE, n_images - first)):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
    return time.perf_counter() - start


def _torch_files(n_images: int, folder: Path) -> float:
    """Seconds to `torch.save` the same arrays, one file an image, nothing synced."""
    maps = {name: values[0].astype(np.float16) for name, values in _batch(1).items()}
    place = folder / "pt"
    start = time.perf_counter()
    TorchFiles(place, SHAPES, n_images).write(maps for _ in range(n_images))
    spent = time.perf_counter() - start
    remove(place)
    return spent


def _opening(n_images: int, rounds: int, folder: Path) -> Table:
    path = folder / "large"
    config = load_config(
        "demo", [f"dataset.size={n_images}", "backbone=sd21-clip-l336", "extraction.timesteps=195"]
    )
    complete_commits(path, config)
    documents = [path / "images.jsonl", *sorted((path / "commits").iterdir())]

    def ours(turn: int) -> None:
        assert FeatureStore.open(path).committed["clip/tokens"].all()

    def plan(turn: int) -> None:
        assert make_plan(config, path).n_to_do == 0

    seconds = take_turns(
        {
            "open": lambda turn: FeatureStore.open(path),
            "open, and say what exists": ours,
            "plan, whole": plan,
            "plan without a store": lambda turn: make_plan(config),
            "zarr-python": lambda turn: _zarr_open(path),
            "reading the documents": lambda turn: [file.read_bytes() for file in documents],
        },
        rounds,
    )
    kinds: dict[str, Kind] = {"zarr-python": "peer", "reading the documents": "limit"}
    rows = [Row(name, kinds.get(name, "ours"), times) for name, times in seconds.items()]
    targets = [
        Target(f"{name}, s", 2, float(np.median(seconds[name])), at_most=True)
        for name in ("open", "open, and say what exists", "plan, whole")
    ]
    notes = [
        "a plan also counts the architecture's operations and probes the machine for half a second:"
        " that is `plan without a store`",
        "zarr-python opens the group and one array, and cannot tell which images exist",
    ]
    return Table("opening and planning", f"a store of {n_images:,} images", rows, targets, notes)


def complete_commits(path: Path, config: Config) -> None:
    """A store of a configuration's images in which every shard is committed, without its maps."""
    images = [
        ImageRecord(name, hashlib.sha256(name.encode()).hexdigest(), 256, 256)
        for name in open_configured(config).ids
    ]
    writer = StoreWriter.open(path, Recipe({"benchmark": "scale"}), images, specs())
    for first in range(0, len(images), writer.shard_size):
        part = tuple(images[first : first + writer.shard_size])
        crcs = tuple(zlib.crc32(image.id.encode()) for image in part)
        arrays = {name: ArrayCommit(crcs, 1) for name in SHAPES}
        shard = first // writer.shard_size
        commit = Commit(shard, part, {}, arrays, {"compute": 1.0})
        commit_path(path, shard).write_bytes(commit.to_bytes())


def _zarr_open(path: Path) -> object:
    return zarr.open_group(path, mode="r")["clip/tokens"]


def _retrieval(n_gallery: int, rounds: int) -> list[Table]:
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(n_gallery, WIDTH, generator=generator)
    gallery = F.normalize(gallery, dim=1, out=gallery)
    queries = F.normalize(torch.randn(64, WIDTH, generator=generator), dim=1)
    work = f"{n_gallery:,} x {WIDTH} float32, the best {TOP}"

    def partitioned(rows: torch.Tensor) -> object:
        return np.argpartition(-(rows @ gallery.T).numpy(), TOP)[:, :TOP]

    def plain(turn: int) -> object:
        return list(rank(queries, gallery, TOP))

    batch = take_turns(
        {
            "exact search": lambda turn: search(queries, gallery, TOP),
            "product and argpartition": lambda turn: partitioned(queries),
            "bare product": lambda turn: queries @ gallery.T,
        },
        rounds,
    )
    # Sorting everything in float64 takes gigabytes and many seconds, so it has one turn.
    slow = take_turns({"sorted whole, float64": plain}, 1, warm_up=0)["sorted whole, float64"][0]
    per_query = {name: [s / len(queries) for s in times] for name, times in batch.items()}
    rows = [
        Row("exact search", "ours", per_query["exact search"]),
        Row("product and argpartition", "peer", per_query["product and argpartition"]),
        Row("sorted whole, float64", "peer", note=f"{slow / len(queries):.3g} s, one turn"),
        Row("bare product", "limit", per_query["bare product"]),
    ]
    median = float(np.median(per_query["exact search"]))
    tables = [
        Table(
            "search, queries in batches of 64",
            f"a query among {work}",
            rows,
            [Target("a query, ms", 50, 1e3 * median, at_most=True)],
        )
    ]
    single = take_turns(
        {
            "exact search": lambda turn: search(queries[:1], gallery, TOP),
            "product and argpartition": lambda turn: partitioned(queries[:1]),
            "one pass over the memory": lambda turn: gallery.sum(),
        },
        rounds,
    )
    kinds: dict[str, Kind] = {"exact search": "ours", "one pass over the memory": "limit"}
    rows = [Row(name, kinds.get(name, "peer"), times) for name, times in single.items()]
    table = Table("search, a single query", f"a query among {work}", rows)
    pace = 1 / table.speed("exact search")
    targets = [Target("a query / one pass over the gallery", 1.5, pace, at_most=True)]
    return [*tables, replace(table, targets=targets)]


if __name__ == "__main__":
    bench(["scale", *sys.argv[1:]])
