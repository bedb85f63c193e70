"""The same maps in our store, raw, and in what people use instead; how each is read in batches.

A format is filled image by image, then opened as often as wanted. Reading always ends in the same
reused buffers, so a format that makes tensors of its own pays for its copy, as a trainer would.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
import zarr
from safetensors.numpy import save_file
from safetensors.torch import load_file

from benchmarks.timing import Kind
from cache import ArraySpec, FeatureStore, ImageRecord, Recipe, StoreWriter
from cache.writing.shardwriter import ShardWriter

PAPER_LAYERS = {"sd/t195/s3": (640, 42, 42), "sd/t195/s4": (1280, 21, 21)}
"""Shapes per image of two of the paper's layers, at 336 px."""
BATCH = 16
SHARD_SIZE = 64

Shapes = Mapping[str, tuple[int, ...]]
Maps = Mapping[str, np.ndarray]
"""One image's float16 maps by name."""
Batches = Sequence[Sequence[int]]
"""Rows of an epoch, batch by batch."""
Read = Callable[[Batches], None]
"""Reads batches, one after the other, into the buffers."""


def shrunk(divisor: int) -> dict[str, tuple[int, ...]]:
    """The paper's layers with channels divided by a number."""
    return {name: (c // divisor, h, w) for name, (c, h, w) in PAPER_LAYERS.items()}


class Format(ABC):
    """One way to keep maps on disk."""

    name: ClassVar[str]
    kind: Kind = "peer"
    package: ClassVar[str | None] = None
    """What has to be installed beyond the project's own dependencies."""
    note: ClassVar[str] = ""
    files_of: ClassVar[str] = ""
    """The format whose files it reads, if it writes none."""

    def __init__(self, folder: Path, shapes: Shapes, n_images: int) -> None:
        self.folder = folder
        self.shapes = dict(shapes)
        self.n_images = n_images
        self.buffers: dict[str, torch.Tensor] = {}
        """[BATCH, C, H, W] by name. To be compared, formats must share them: memory that the system
        gave in large pages is faster to fill than memory in small ones."""

    @classmethod
    def installed(cls) -> bool:
        """Whether its package is there."""
        return cls.package is None or importlib.util.find_spec(cls.package) is not None

    @property
    def files(self) -> list[Path]:
        """Everything on disk that reading may touch."""
        return [file for file in self.folder.rglob("*") if file.is_file()]

    @abstractmethod
    def write(self, images: Iterator[Maps]) -> None:
        """Write all images, in order."""

    @abstractmethod
    def open(self) -> Read:
        """A reader that has touched no data yet."""

    def fill(self, position: int, maps: Mapping[str, Any]) -> None:
        """Copy one image's maps to its place in the buffers."""
        for name, values in maps.items():
            self.buffers[name].numpy()[position] = values

    def one_by_one(self, image: Callable[[int], Mapping[str, Any]]) -> Read:
        """A reader that copies image by image what `image` gives of a row."""

        def read(batches: Batches) -> None:
            for batch in batches:
                for position, row in enumerate(batch):
                    self.fill(position, image(row))

        return read


class RawMemmap(Format):
    """One flat file an array; what the operating system gives, and nothing else."""

    name = "raw memmap"
    kind: Kind = "limit"

    def write(self, images: Iterator[Maps]) -> None:
        self.folder.mkdir()
        arrays = [
            np.lib.format.open_memmap(self._file(name), "w+", np.float16, (self.n_images, *shape))
            for name, shape in self.shapes.items()
        ]
        for row, maps in enumerate(images):
            for array, values in zip(arrays, maps.values(), strict=True):
                array[row] = values
        for array in arrays:
            array.flush()

    def open(self) -> Read:
        arrays = {name: np.load(self._file(name), mmap_mode="r") for name in self.shapes}

        def read(batches: Batches) -> None:
            for batch in batches:
                for name, array in arrays.items():
                    target = self.buffers[name].numpy()
                    for position, row in enumerate(batch):
                        target[position] = array[row]

        return read

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.npy"


class RawMemmapAsFloat32(RawMemmap):
    """The same, cast on the way by torch, which does it several times faster than numpy."""

    def open(self) -> Read:
        # Never written to: "c" is for torch, which wants arrays that could be.
        arrays = {name: np.load(self._file(name), mmap_mode="c") for name in self.shapes}

        def read(batches: Batches) -> None:
            for batch in batches:
                for name, array in arrays.items():
                    for position, row in enumerate(batch):
                        self.buffers[name][position].copy_(torch.from_numpy(array[row]))

        return read


class Store(Format):
    """This project's store."""

    name = "this store"
    kind: Kind = "ours"
    check = False
    dtype: ClassVar[str] = "float16"

    def write(self, images: Iterator[Maps]) -> None:
        write_store(self.folder, self.shapes, self.n_images, images, dtype=self.dtype)

    def open(self) -> Read:
        store, names = FeatureStore.open(self.folder), list(self.shapes)

        def read(batches: Batches) -> None:
            for batch in batches:
                ids = [store.ids[row] for row in batch]
                store.read(ids, names, out=self.buffers, check=self.check)

        return read


class AsFloat32(Store):
    """A float16 store for a head, which computes in float32."""

    name = "float16 store"

    def open(self) -> Read:
        store, names = FeatureStore.open(self.folder), list(self.shapes)
        stored = new_buffers(self.shapes)

        def read(batches: Batches) -> None:
            for batch in batches:
                store.read([store.ids[row] for row in batch], names, out=stored)
                for name in names:
                    self.buffers[name].copy_(stored[name])

        return read


class Int8Store(Store):
    """An int8 store: read, it is float32."""

    name = "int8 store"
    dtype: ClassVar[str] = "int8"


class CheckedStore(Store):
    """The same files, every record compared with its checksum."""

    name = "this store, checksums on"
    files_of = "Store"
    check = True

    def write(self, images: Iterator[Maps]) -> None:
        """It reads what `Store` wrote."""


class ZarrPython(CheckedStore):
    """zarr-python on the store's own files; it always checks checksums."""

    name = "zarr-python"
    kind: Kind = "peer"
    note = "our files"

    def open(self) -> Read:
        group = zarr.open_group(self.folder, mode="r")
        arrays: dict[str, Any] = {name: group[name] for name in self.shapes}
        return self.one_by_one(lambda row: {name: a[row] for name, a in arrays.items()})


class Zarrs(ZarrPython):
    """zarr-python with the Rust codec pipeline."""

    name, package = "zarrs", "zarrs"

    def open(self) -> Read:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            return super().open()


class TensorStore(CheckedStore):
    """tensorstore on the store's own files, a batch's reads issued together."""

    name = "tensorstore"
    kind: Kind = "peer"
    package = "tensorstore"
    note = "our files"

    def open(self) -> Read:
        import tensorstore

        arrays = {}
        for name in self.shapes:
            path = str(self.folder / name)
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
            arrays[name] = tensorstore.open(spec, read=True).result()

        def read(batches: Batches) -> None:
            for batch in batches:
                futures = {n: [array[row].read() for row in batch] for n, array in arrays.items()}
                for name, waiting in futures.items():
                    for position, future in enumerate(waiting):
                        self.fill(position, {name: future.result()})

        return read


class TorchFiles(Format):
    """`torch.save`, one file an image."""

    name = "one .pt an image"

    def write(self, images: Iterator[Maps]) -> None:
        self.folder.mkdir()
        for row, maps in enumerate(images):
            tensors = {name: torch.from_numpy(values) for name, values in maps.items()}
            torch.save(tensors, self.folder / f"{row}.pt")

    def open(self) -> Read:
        def image(row: int) -> dict[str, Any]:
            return torch.load(self.folder / f"{row}.pt", weights_only=True)  # type: ignore[no-any-return]

        return self.one_by_one(image)


class SafetensorsFiles(Format):
    """safetensors, one file an image."""

    name = "safetensors an image"

    def write(self, images: Iterator[Maps]) -> None:
        self.folder.mkdir()
        for row, maps in enumerate(images):
            save_file(dict(maps), self.folder / f"{row}.safetensors")

    def open(self) -> Read:
        return self.one_by_one(lambda row: load_file(self.folder / f"{row}.safetensors"))


class Hdf5(Format):
    """HDF5 datasets with one chunk an image."""

    name = "h5py, chunked"

    def write(self, images: Iterator[Maps]) -> None:
        self.folder.mkdir()
        with h5py.File(self.folder / "maps.h5", "w") as file:
            datasets = [
                file.create_dataset(name, (self.n_images, *shape), "f2", chunks=(1, *shape))
                for name, shape in self.shapes.items()
            ]
            for row, maps in enumerate(images):
                for dataset, values in zip(datasets, maps.values(), strict=True):
                    dataset[row] = values

    def open(self) -> Read:
        file = h5py.File(self.folder / "maps.h5", "r")
        datasets = {name: file[name] for name in self.shapes}

        def read(batches: Batches) -> None:
            for batch in batches:
                for name, dataset in datasets.items():
                    target = self.buffers[name].numpy()
                    for position, row in enumerate(batch):
                        dataset.read_direct(target, np.s_[row], np.s_[position])

        return read


class WebDataset(Format):
    """tar files of 64 images; batches are drawn from a shuffle buffer, not from everywhere."""

    name, package = "WebDataset", "webdataset"
    note = "shuffles within a buffer of 64"

    def write(self, images: Iterator[Maps]) -> None:
        self.folder.mkdir()
        tar = None
        for row, maps in enumerate(images):
            if row % SHARD_SIZE == 0:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(self.folder / f"{row // SHARD_SIZE:06d}.tar", "w")  # noqa: SIM115
            assert tar is not None
            for number, values in enumerate(maps.values()):
                member = tarfile.TarInfo(f"{row:06d}.{number}.bin")
                member.size = values.nbytes
                tar.addfile(member, io.BytesIO(values.tobytes()))
        if tar is not None:
            tar.close()

    def open(self) -> Read:
        import webdataset

        urls = sorted(str(file) for file in self.folder.glob("*.tar"))
        shapes = list(self.shapes.items())

        def read(batches: Batches) -> None:
            # The order is its own; it gives the same number of images, in batches of BATCH.
            pictures = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHARD_SIZE)
            for number, item in enumerate(pictures):
                if number == sum(map(len, batches)):
                    break
                maps = {
                    name: np.frombuffer(item[f"{i}.bin"], np.float16).reshape(shape)
                    for i, (name, shape) in enumerate(shapes)
                }
                self.fill(number % BATCH, maps)

        return read


class Lmdb(Format):
    """LMDB, one value an image and layer."""

    name, package = "LMDB", "lmdb"

    def write(self, images: Iterator[Maps]) -> None:
        import lmdb

        self.folder.mkdir()
        n_bytes = self.n_images * sum(2 * int(np.prod(s)) for s in self.shapes.values())
        with lmdb.open(str(self.folder), map_size=2 * n_bytes + 2**24) as base:
            for row, maps in enumerate(images):
                with base.begin(write=True) as transaction:
                    for name, values in maps.items():
                        transaction.put(f"{row}:{name}".encode(), values.tobytes())

    def open(self) -> Read:
        import lmdb

        base = lmdb.open(str(self.folder), readonly=True, lock=False)

        def read(batches: Batches) -> None:
            for batch in batches:
                with base.begin(buffers=True) as transaction:
                    for position, row in enumerate(batch):
                        for name, shape in self.shapes.items():
                            value = transaction.get(f"{row}:{name}".encode())
                            assert value is not None
                            self.fill(position, {name: np.frombuffer(value, "f2").reshape(shape)})

        return read


FORMATS: tuple[type[Format], ...] = (
    Store,
    CheckedStore,
    ZarrPython,
    TensorStore,
    Zarrs,
    TorchFiles,
    SafetensorsFiles,
    Hdf5,
    WebDataset,
    Lmdb,
    RawMemmap,
)


TYPES: tuple[type[Format], ...] = (AsFloat32, Int8Store, RawMemmapAsFloat32)
"""What gives a head float32 from fewer bytes."""


def new_buffers(shapes: Shapes, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Room for a batch, written to once."""
    return {name: torch.zeros((BATCH, *shape), dtype=dtype) for name, shape in shapes.items()}


def random_images(shapes: Shapes, n_images: int, seed: int = 0) -> Iterator[Maps]:
    """Float16 maps of random numbers, the same for every format."""
    rng = np.random.default_rng(seed)
    for _ in range(n_images):
        yield {
            name: rng.standard_normal(shape, np.float32).astype(np.float16)
            for name, shape in shapes.items()
        }


def write_store(
    folder: Path,
    shapes: Shapes,
    n_images: int,
    images: Iterator[Maps],
    put: Callable[[ShardWriter, int, Maps], None] = lambda shard, row, maps: shard.put(row, maps),
    dtype: str = "float16",
) -> None:
    """A store of these maps, through the store's own writer."""
    records = [ImageRecord(f"{i:06d}.png", f"{i:064x}", 336, 336) for i in range(n_images)]
    specs = [ArraySpec(name, shape, dtype) for name, shape in shapes.items()]
    recipe = Recipe({"benchmark": json.dumps({name: list(s) for name, s in shapes.items()})})
    writer = StoreWriter.open(folder, recipe, records, specs, SHARD_SIZE)
    for task in writer.pending():
        with writer.shard(task) as shard:
            for row in task.rows:
                maps = next(images)
                if dtype != "float16":
                    maps = {name: values.astype(np.float32) for name, values in maps.items()}
                put(shard, row, maps)
            shard.commit()


def remove(folder: Path) -> None:
    """Delete a format's folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
