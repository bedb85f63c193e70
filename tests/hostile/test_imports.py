"""HDF5 files from a stranger, through the library that parses them, in bounded memory."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import NotAStore, StoreError, errors, verify_store
from cache.exchange import export_store
from cache.exchange.imports import import_store
from tests.cache import stores
from tests.heads.worlds import complaint
from tests.hostile.bounds import bounded
from tests.hostile.mutate import EFFORT, damaged

LAYOUTS = ("hdf5", "hdf5-images")
MIB = 256
"""What an import of a file of 100 KB may take."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 5 images and its exports."""
    folder = tmp_path_factory.mktemp("pristine")
    stores.write(folder / "store", 5, shard_size=2, quarantined={1})
    for layout in LAYOUTS:
        export_store(folder / "store", folder / layout, layout)
    return folder


def _kinds() -> list[type[StoreError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type)]


def imported(export: Path, out: Path) -> str:
    """Import in a process of its own; what it gives or raises. A crash of the library, a hang or
    a gigabyte fails the test."""
    shutil.rmtree(out, ignore_errors=True)
    return bounded(lambda: import_store(export, out), MIB)


def check(export: Path, out: Path, pristine: Path) -> bool:
    """One line and no unsound store, or the very same numbers. Whether it was refused."""
    answer = imported(export, out)
    refused = answer.split(":")[0] in {kind.__name__ for kind in _kinds()}
    if refused:
        assert "\n" not in answer and "Traceback" not in answer
    else:
        assert answer.startswith("ImportReport("), answer
        maps = {n: data for n, data in stores.array_contents(out).items() if "/c." in n}
        assert maps.items() <= stores.array_contents(pristine / "store").items()
    with suppress(NotAStore):
        assert verify_store(out).sound
    return refused


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flipped_cut_and_lying_bytes(pristine: Path, tmp_path: Path, layout: str) -> None:
    data = (pristine / layout).read_bytes()
    file = tmp_path / "export.h5"
    n_refused = 0
    for case in damaged(data, 30, seed=7):
        file.write_bytes(case)
        n_refused += check(file, tmp_path / "out", pristine)
    assert n_refused > 5 * EFFORT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_anywhere(pristine: Path, tmp_path: Path, layout: str) -> None:
    data = (pristine / layout).read_bytes()
    chance = random.Random(3)
    file = tmp_path / "export.h5"
    for _ in range(8 * EFFORT):
        file.write_bytes(data[: chance.randrange(len(data))])
        assert check(file, tmp_path / "out", pristine)


SHAPE = (4, 2, 3, 3)


def _external_link(file: h5py.File, beside: Path) -> None:
    file["vae/latent"] = h5py.ExternalLink(str(beside), "/vae/latent")


def _external_group(file: h5py.File, beside: Path) -> None:
    file.pop("clip")
    file["vae/latent"] = np.zeros(SHAPE, "<f4")
    file["clip"] = h5py.ExternalLink(str(beside), "/clip")


def _external_storage(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, "<f4", external=[("/dev/zero", 0, 288)])


def _virtual(file: h5py.File, beside: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "<f4")
    layout[:] = h5py.VirtualSource(str(beside), "vae/latent", SHAPE)
    file.create_virtual_dataset("vae/latent", layout)


def _virtual_of_itself(file: h5py.File, beside: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "<f4")
    layout[:] = h5py.VirtualSource(".", "vae/latent", SHAPE)
    file.create_virtual_dataset("vae/latent", layout)


def _references(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", data=np.full(SHAPE, file["clip"].ref, h5py.ref_dtype))


def _region_references(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, h5py.regionref_dtype)


def _objects(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, h5py.vlen_dtype("<f4"))


def _text(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, h5py.string_dtype())


def _compound(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, [("re", "<f4"), ("im", "<f4")])


def _enumeration(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", SHAPE, h5py.enum_dtype({"a": 1}, "<i4"))


def _huge(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", (2**40, 2, 3, 3), "<f4", chunks=(1, 2, 3, 3))


def _empty(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", dtype="<f4", shape=None, data=h5py.Empty("<f4"))


def _huge_chunk(file: h5py.File, beside: Path) -> None:
    """A chunk that is there has to be read whole, whatever the dataset's shape."""
    chunks = (2**25, 2, 3, 3)
    file.create_dataset("vae/latent", SHAPE, "<f4", chunks=chunks, maxshape=(None, 2, 3, 3))


def _bomb(file: h5py.File, beside: Path) -> None:
    file.create_dataset("vae/latent", data=np.zeros(SHAPE, "<f4"), chunks=SHAPE, compression="gzip")


def _group(file: h5py.File, beside: Path) -> None:
    file.create_group("vae/latent")


def _itself(file: h5py.File, beside: Path) -> None:
    file["vae/latent"] = file["/"]


def _referenced_images(file: h5py.File, beside: Path) -> None:
    file["vae/latent"] = np.zeros(SHAPE, "<f4")
    n_images = len(file.attrs["images"])
    del file.attrs["images"]
    file.attrs.create("images", [file["clip"].ref] * n_images, dtype=h5py.ref_dtype)


@pytest.mark.parametrize(
    "change",
    [
        _external_link, _external_group, _external_storage, _virtual, _virtual_of_itself,
        _references, _region_references, _objects, _text, _compound, _enumeration, _huge, _empty,
        _huge_chunk, _bomb, _group, _itself, _referenced_images,
    ],
    ids=lambda change: change.__name__.strip("_"),
)  # fmt: skip
def test_what_no_export_holds_is_refused(
    pristine: Path, tmp_path: Path, change: Callable[[h5py.File, Path], None]
) -> None:
    path = tmp_path / "export.h5"
    shutil.copy(pristine / "hdf5", path)
    beside = tmp_path / "beside.h5"
    shutil.copy(pristine / "hdf5", beside)
    with h5py.File(path, "r+", libver="latest") as file:
        del file["vae/latent"]
        change(file, beside)
    assert check(path, tmp_path / "out", pristine)
    with suppress(StoreError):
        assert not any(stores.contents(tmp_path / "out", "commits").values())
    line = complaint("cache", "import", path, "--out", tmp_path / "out")
    assert str(path) in line
