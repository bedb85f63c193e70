"""WebDataset: tar files of samples, each a JSON file and one `.npy` per feature.

A sample's key is the image's id with every byte but letters, digits, `_`, `-` and `/` written as
%XX, for WebDataset cuts a name at its first dot. `cat/1.png` has the members `cat/1%2Epng.json`,
`cat/1%2Epng.sd.t195.s3.npy` and so on. The tars depend on the store alone, byte for byte.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from array import array as packed
from collections.abc import Callable, Iterator
from pathlib import Path

from cache.errors import StoreError
from cache.exchange.contents import Contents, ExportedImage, Records
from cache.exchange.folder import read_description, write_description
from cache.exchange.npy import SUFFIX, npy_header, read_values, values_offset
from cache.format.layout import ZarrArray

DEFAULT_TAR_BYTES = 2**30
_TAR = re.compile(r"features-\d{6,}\.tar")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")
_JSON = "json"
_MAX_JSON_BYTES = 2**20


def write_webdataset(
    path: Path,
    contents: Contents,
    done: Callable[[int], None],
    tar_bytes: int = DEFAULT_TAR_BYTES,
) -> None:
    """Write a folder of tars of about ``tar_bytes``; ``done`` hears the number of images."""
    path.mkdir()
    arrays = contents.description.zarr_arrays
    rows = enumerate(contents.rows(), start=1)
    number, row = next(rows, (0, None))
    n_tars = 0
    while row is not None:
        with tarfile.open(
            path / f"features-{n_tars:06d}.tar", "w", format=tarfile.PAX_FORMAT
        ) as tar:
            while row is not None and tar.offset < tar_bytes:
                for name, data in _members(*row, arrays):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                _forget_members(tar)
                done(number)
                number, row = next(rows, (0, None))
        n_tars += 1
    write_description(path, contents.description)


def key_of(image_id: str) -> str:
    """The key of an image's sample."""
    return "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02X}"
        for byte in image_id.encode("utf-8", "surrogatepass")
    )


class WebDatasetSource:
    """A folder of tars opened for an import. A stranger may have written them.

    No member is unpacked to a file: its name only says which array of which image it is, and it
    has the size that this array must have.
    """

    def __init__(self, path: Path) -> None:
        self.description = read_description(path)
        self._arrays = self.description.zarr_arrays
        self._name_of = {_suffix(name): name for name in self._arrays}
        self._tars = [path / name for name in sorted(os.listdir(path)) if _TAR.fullmatch(name)]
        self._tar_of = packed("q")
        self._offsets = {name: packed("q") for name in self._arrays}
        self.images: list[ExportedImage] = []
        for number, tar in enumerate(self._tars):
            try:
                self._index(number, tar)
            except (tarfile.TarError, OSError, ValueError) as error:
                raise StoreError(f"{tar}: not a sound tar ({error}); fetch it again") from error
        n_images = self.description.n_images
        if len(self.images) != n_images:
            raise StoreError(
                f"{path}: {len(self.images)} images in {len(self._tars)} tars, {n_images} in the "
                "description; fetch the tars again"
            )

    def read(self, index: int) -> Records:
        """The records of image ``index``."""
        with open(self._tars[self._tar_of[index]], "rb") as file:
            return {
                name: read_values(file, self._offsets[name][index], array)
                for name, array in self._arrays.items()
            }

    def close(self) -> None:
        """Nothing is kept open."""

    def _index(self, number: int, path: Path) -> None:
        """Note the samples of a tar: a JSON file, and after it one member for each array."""
        with tarfile.open(path, "r:") as tar, open(path, "rb") as file:
            key, missing = "", set[str]()
            for member in _regular(tar, path):
                where = f"{path}: {member.name}"
                suffix = member.name.rpartition("/")[2].partition(".")[2]
                if suffix == _JSON and not missing:
                    exported = self._image(file, member, where)
                    key = key_of(exported.image.id)
                    self.images.append(exported)
                    self._tar_of.append(number)
                    missing = set(self._arrays)
                name = self._name_of.get(suffix)
                if member.name != f"{key}.{suffix}" or (name not in missing and suffix != _JSON):
                    raise StoreError(f"{where}: not a member that a sample has here")
                if name is not None:
                    array = self._arrays[name]
                    file.seek(member.offset_data)
                    offset = values_offset(file, member.size, array, array.shape, where)
                    self._offsets[name].append(offset)
                    missing.remove(name)
            if missing:
                raise StoreError(f"{path}: ends within a sample; fetch it again")

    def _image(self, file: io.BufferedReader, member: tarfile.TarInfo, where: str) -> ExportedImage:
        if member.size > _MAX_JSON_BYTES:
            raise StoreError(f"{where}: {member.size} bytes are no image record")
        file.seek(member.offset_data)
        return ExportedImage.from_line(file.read(member.size), where)


def _suffix(array_name: str) -> str:
    return array_name.replace("/", ".") + SUFFIX


def _members(
    exported: ExportedImage, records: Records, arrays: dict[str, ZarrArray]
) -> Iterator[tuple[str, bytes]]:
    key = key_of(exported.image.id)
    yield f"{key}.{_JSON}", exported.to_line().encode()
    for name, record in records.items():
        yield f"{key}.{_suffix(name)}", npy_header(arrays[name], record.shape) + record.tobytes()


def _regular(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members in order; StoreError for a link, a folder, a device or a sparse file."""
    while (member := tar.next()) is not None:
        if not member.isreg() or member.issparse():
            raise StoreError(f"{path}: {member.name} is no plain file; an export has nothing else")
        yield member
        _forget_members(tar)


def _forget_members(tar: tarfile.TarFile) -> None:
    """A tarfile remembers every member it has met; of hundreds of thousands that is too much."""
    tar.members.clear()  # type: ignore[attr-defined]
