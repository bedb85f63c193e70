"""Exports as a stranger might send them: one line says what is wrong, and no store is harmed."""

import io
import json
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import NotAStore, StoreError, verify_store
from cache.exchange import export_store
from cache.exchange.imports import import_store
from tests.cache.stores import array_contents, write
from tests.hostile.mutate import damaged, damaged_json

FORMATS = ("hdf5", "hdf5-images", "webdataset", "npy")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A store of 5 images, row 1 quarantined, and its exports by format."""
    folder = tmp_path_factory.mktemp("pristine")
    write(folder / "store", 5, shard_size=2, quarantined={1})
    for layout in FORMATS:
        export_store(folder / "store", folder / layout, layout)
    return folder


@pytest.fixture
def export(pristine, tmp_path):
    """A function that copies the export of one format."""

    def copied(layout: str) -> Path:
        source, target = pristine / layout, tmp_path / layout
        shutil.rmtree(target, ignore_errors=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    return copied


def refused(export: Path, match: str) -> None:
    out = export.with_name("out")
    with pytest.raises(StoreError, match=match) as caught:
        import_store(export, out)
    assert "\n" not in str(caught.value)
    if out.exists():
        assert verify_store(out).sound


def test_links_out_of_the_file_are_not_followed(export, pristine):
    for link in (
        h5py.SoftLink("/vae/latent"),
        h5py.ExternalLink(str(pristine / "hdf5"), "/vae/latent"),
    ):
        path = export("hdf5")
        with h5py.File(path, "r+") as file:
            del file["vae/latent"]
            file["vae/latent"] = link
        refused(path, "no dataset vae/latent in the file itself")


def test_groups_that_contain_themselves_end(export):
    path = export("hdf5-images")
    with h5py.File(path, "r+") as file:
        del file["class 0/0.png"]["vae"]
        file["class 0/0.png"]["vae"] = file["/"]
    refused(path, "no dataset class 0/0.png/vae/latent")


def replace(path: Path, values: object = None, **options: object) -> None:
    """Make the dataset vae/latent anew, by default with the values it had."""
    with h5py.File(path, "r+") as file:
        values = file["vae/latent"][:] if values is None else values
        del file["vae/latent"]
        file.create_dataset("vae/latent", data=values, **options)


def test_only_plain_datasets_are_read(export, tmp_path):
    shape = (4, 2, 3, 3)
    cases = {
        "without filters": {"compression": "gzip", "chunks": (1, 2, 3, 3)},
        r"float64 \(4, 2, 3, 3\), its description says float32": {"dtype": "<f8"},
        r"float32 \(4, 18\), its description says": {"values": np.zeros((4, 18), "<f4")},
        ">f4": {"dtype": ">f4"},
    }
    for match, options in cases.items():
        path = export("hdf5")
        replace(path, **options)
        refused(path, match)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 4 * 2 * 9))
    path = export("hdf5")
    with h5py.File(path, "r+") as file:
        del file["vae/latent"]
        file.create_dataset("vae/latent", shape, "<f4", external=[(str(secret), 0, 288)])
    refused(path, "not a plain dataset")
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource(str(export("hdf5-images")), "x", shape)
    path = export("hdf5")
    with h5py.File(path, "r+", libver="latest") as file:
        del file["vae/latent"]
        file.create_virtual_dataset("vae/latent", layout)
    refused(path, "not a plain dataset")


def test_a_dataset_without_its_data_is_no_zeros(export):
    path = export("hdf5")
    with h5py.File(path, "r+") as file:
        del file["vae/latent"]
        file.create_dataset("vae/latent", (4, 2, 3, 3), "<f4")
    refused(path, r"vae/latent of class 0/0\.png does not fit its checksum")


def test_sizes_that_lie(export):
    path = export("hdf5")
    with h5py.File(path, "r+") as file:
        file.attrs["n_images"] = 2**40
    refused(path, "list of images is missing or has another length")
    path = export("hdf5")
    with h5py.File(path, "r+") as file:
        del file["ids"]
        file.create_dataset("ids", (2**40,), h5py.string_dtype(), chunks=(1024,))
    refused(path, "ids is not the list of its images")
    path = export("npy")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2, 3, 3)}
    )
    (path / "vae/latent.npy").write_bytes(header.getvalue())
    refused(path, "as its description says")


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("image_id", ["../../escape.png", "/etc/passwd", "", "a/../../b"])
def test_ids_stay_inside(export, layout, image_id):
    path = export(layout)
    change_description(path, lambda document: document["quarantined"][0].update(id=image_id))
    refused(path, "relative path")


def change_description(path: Path, change) -> None:
    if path.is_dir():
        file = path / "description.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
        return
    with h5py.File(path, "r+") as file:
        document = {"quarantined": json.loads(file.attrs["quarantined"])}
        change(document)
        file.attrs["quarantined"] = json.dumps(document["quarantined"])


def test_an_id_twice_is_refused(export):
    path = export("npy")
    lines = (path / "images.jsonl").read_text().splitlines()
    (path / "images.jsonl").write_text("\n".join([*lines[:3], lines[0]]) + "\n")
    refused(path, "listed twice")


def test_ids_that_users_read_are_those_imported(export):
    path = export("hdf5")
    with h5py.File(path, "r+") as file:
        file["ids"][...] = file["ids"][:][::-1]
    refused(path, "ids is not the list of its images")


def rewritten(tar: Path, change) -> None:
    """Write a tar anew; ``change`` gives (info, data) pairs for each member."""
    with tarfile.open(tar) as old:
        members = [(info, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as new:
        for info, data in members:
            for changed, content in change(info, data):
                changed.size = len(content)
                new.addfile(changed, io.BytesIO(content))


def test_members_of_a_tar_are_what_they_must_be(export):
    def linked(info, data):
        link = tarfile.TarInfo("class%200/0%2Epng.vae.latent.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return [(link, b"")] if info.name == link.name else [(info, data)]

    def outside(info, data):
        extra = tarfile.TarInfo("../../escape.npy")
        return [(info, data), (extra, b"x")] if info.name.endswith("json") else [(info, data)]

    def missing(info, data):
        return [] if info.name.endswith("vae.latent.npy") else [(info, data)]

    def doubled(info, data):
        return [(info, data)] * (2 if info.name.endswith("vae.latent.npy") else 1)

    def short(info, data):
        return [(info, data[:-4] if info.name.endswith(".npy") else data)]

    cases = (
        (linked, "no plain file"),
        (outside, "not a member"),
        (missing, "not a member|ends within"),
        (doubled, "not a member"),
        (short, "cut short"),
    )
    for change, match in cases:
        path = export("webdataset")
        rewritten(path / "features-000000.tar", change)
        refused(path, match)
    assert not (path.parent.parent / "escape.npy").exists()


def test_pickles_are_not_loaded(export):
    path = export("npy")
    np.save(path / "vae/latent.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(path, "as its description says")


def test_files_that_are_no_export(tmp_path, pristine):
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", "not a readable HDF5 file")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    refused(tmp_path / "other.h5", "not an export of a feature store")
    refused(tmp_path / "nothing", "no such file")
    refused(tmp_path, "no export")
    refused(pristine / "store", "no export")


def outcome(path: Path, pristine: Path, out: Path) -> None:
    """Import a damaged export: an error of one line, or the very same numbers."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        import_store(path, out)
    except StoreError as error:
        assert "\n" not in str(error)
    else:
        maps = {name: data for name, data in array_contents(out).items() if "/c." in name}
        ours = array_contents(pristine / "store")
        assert maps.items() <= ours.items()
    with suppress(NotAStore):
        assert verify_store(out).sound


@pytest.mark.parametrize("layout", ["webdataset", "npy"])
def test_damaged_descriptions(export, pristine, layout, tmp_path):
    path = export(layout)
    document = json.loads((path / "description.json").read_text())
    for changed in damaged_json(document, 60, seed=1):
        (path / "description.json").write_text(json.dumps(changed))
        outcome(path, pristine, tmp_path / "out")


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("webdataset", "features-000000.tar"),
        ("npy", "images.jsonl"),
        ("npy", "vae/latent.npy"),
        ("npy", "description.json"),
        ("hdf5", ""),
        ("hdf5-images", ""),
    ],
)
def test_damaged_files(export, pristine, layout, name, tmp_path):
    path = export(layout)
    for data in damaged((path / name).read_bytes(), 60, seed=2):
        (path / name).write_bytes(data)
        outcome(path, pristine, tmp_path / "out")
