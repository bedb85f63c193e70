"""Making a store, and growing it by images and arrays.

Order of a growth, under the store's lock: the image list, then the documents of the arrays (and
of groups before the arrays in them). Each array's document vouches for the images of its own
rows, so a growth cut short leaves a store that reads right, and the next writer completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cache.errors import RecipeMismatch, StoreError
from cache.format.checksums import Json, canonical_json
from cache.format.commits import read_commit
from cache.format.layout import (
    COMMITS,
    DOCUMENT,
    IMAGES,
    LOCK,
    MAX_SHARD_SIZE,
    ArraySpec,
    ZarrArray,
    array_document,
    group_document,
)
from cache.format.metadata import (
    ImageList,
    Metadata,
    RootDocument,
    image_line,
    read_images,
    read_metadata,
    safe_id,
)
from cache.format.recipe import Recipe
from cache.format.records import ImageRecord
from cache.format.shardfile import shard_file_bytes
from cache.storage.files import exclusively, is_temporary, make_folders, write_atomically
from cache.storage.objects import MAX_PUT_BYTES, Changed, check_conditions
from cache.storage.places import names_in, read_file
from cache.storage.remote import RemotePath, StorePath, explained
from cache.writing.recovery import forget_committed, roll_back


def open_or_grow(
    path: StorePath,
    recipe: Recipe,
    images: Sequence[ImageRecord],
    arrays: Sequence[ArraySpec],
    shard_size: int,
    provenance: Mapping[str, Json],
) -> Metadata:
    """Make the store at ``path``, or add what is new to it, and return its metadata.

    Raises StoreError where the folder holds something else, another recipe, an image whose
    bytes changed, or an array of another shape or dtype.
    """
    if not 1 <= shard_size <= MAX_SHARD_SIZE:
        raise StoreError(f"shard size {shard_size}: give 1 to {MAX_SHARD_SIZE} images per shard")
    if not arrays:
        raise StoreError("no arrays: name at least one feature to store")
    _check_images(images)
    root = RootDocument(recipe, shard_size, _plain(provenance))
    if isinstance(path, RemotePath):
        _check_remote(path, arrays, shard_size)
        metadata = exclusively(path, lambda place: _made_or_grown(place, root, images, arrays))
        forget_committed(path)
        return replace(metadata, path=path)
    _make_root_folder(path)
    return exclusively(path, lambda folder: _made_or_grown(folder, root, images, arrays))


def _made_or_grown(
    path: StorePath,
    root: RootDocument,
    images: Sequence[ImageRecord],
    arrays: Sequence[ArraySpec],
) -> Metadata:
    """With the store to itself."""
    names = names_in(path)  # Before the document: what is there without it is then left over.
    if read_file(path / DOCUMENT) is None:
        _refuse_other_content(path, names)
        _create(path, root)
    metadata = read_metadata(path)
    differences = metadata.root.recipe.differences(root.recipe)
    if differences:
        raise RecipeMismatch(
            f"{path}: made with another recipe ({'; '.join(differences)}); write to another folder"
        )
    new_images = _new_images(metadata, images)
    new_arrays = _new_arrays(metadata, arrays)
    _add_images(path, metadata.images, new_images)
    grown = read_images(path) if new_images else metadata.images
    _write_documents(metadata, grown, new_arrays)
    metadata = read_metadata(path)
    if not isinstance(path, RemotePath):
        # A remote publication that stopped is done again, never undone: nobody can tell whether
        # its writer lives.
        roll_back(metadata)
    return metadata


def _check_remote(path: RemotePath, arrays: Sequence[ArraySpec], shard_size: int) -> None:
    """Raise StoreError where shards could not be put, or not safely."""
    for spec in arrays:
        if shard_file_bytes(spec.zarr_arrays[0], shard_size, shard_size) > MAX_PUT_BYTES:
            raise StoreError(
                f"{path}: a shard of {spec.name} has over 5 GiB, more than one put takes; set "
                "extraction.shard_size lower"
            )
    with explained(path, "write"):
        check_conditions(path.filesystem, path.puts, path.key, str(path))


def _check_images(images: Sequence[ImageRecord]) -> None:
    seen = set()
    for image in images:
        if not safe_id(image.id):
            raise StoreError(f"image id {image.id!r}: give a relative path without `..`")
        if image.id in seen:
            raise StoreError(f"image {image.id}: listed twice; ids must be unique")
        seen.add(image.id)


def _make_root_folder(path: Path) -> None:
    whole = path.absolute()
    # Durably, like all below: a store whose own name is lost with the power is lost itself.
    if not whole.is_dir():
        make_folders(next(parent for parent in whole.parents if parent.is_dir()), whole)
    if not (path / DOCUMENT).exists():
        _refuse_other_content(path, names_in(path))


def _refuse_other_content(path: StorePath, names: Sequence[str]) -> None:
    """A folder without a root document may hold what a killed creation left, nothing else."""
    for name in sorted(names):
        unfinished = (name == IMAGES and not _holds_images(path)) or (
            name == COMMITS and not names_in(path / COMMITS)
        )
        if name != LOCK and not is_temporary(name) and not unfinished:
            raise StoreError(
                f"{path}: holds {name} and is no feature store; choose an empty folder"
            )


def _holds_images(path: StorePath) -> bool:
    """Whether there is an image list that is not empty, and nobody has just made the store."""
    if not read_file(path / IMAGES):
        return False
    if isinstance(path, RemotePath) and (path / DOCUMENT).size() is not None:
        raise Changed(str(path))
    return True


def _create(path: StorePath, root: RootDocument) -> None:
    """The store exists once its root document does."""
    make_folders(path, path / COMMITS)
    if isinstance(path, RemotePath):
        read_file(path / IMAGES)  # Whoever grows the store from now on is noticed.
    write_atomically(path / IMAGES, b"")
    write_atomically(path / DOCUMENT, root.to_bytes())


def _plain(provenance: Mapping[str, Json]) -> dict[str, Json]:
    try:
        canonical_json(dict(provenance))
    except (TypeError, ValueError) as error:
        raise StoreError(f"provenance: not plain JSON ({error})") from error
    return dict(provenance)


def _new_images(metadata: Metadata, images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Images the store does not list yet.

    A changed file is an error where features of the old one exist. Where none do, the old record
    stays (rows never move) and whoever computes it finds that its file is gone.
    """
    known = {row["id"]: (number, row["sha256"]) for number, row in enumerate(metadata.images.rows)}
    for image in images:
        row, sha256 = known.get(image.id, (0, image.sha256))
        if sha256 != image.sha256 and _has_features(metadata, row, image.id):
            raise StoreError(
                f"image {image.id}: its file has changed since it was stored; restore the file "
                "or write to another folder"
            )
    return [image for image in images if image.id not in known]


def _has_features(metadata: Metadata, row: int, image_id: str) -> bool:
    shard, slot = divmod(row, metadata.root.shard_size)
    commit = read_commit(metadata.path, shard)
    if commit is None or image_id in commit.quarantined:
        return False
    return any(commit.n_rows(name) > slot for name in metadata.documents)


def _new_arrays(metadata: Metadata, arrays: Sequence[ArraySpec]) -> list[ArraySpec]:
    for spec in arrays:
        known = metadata.specs.get(spec.name, spec)
        if known != spec:
            raise StoreError(
                f"array {spec.name}: store holds {known.dtype} {known.shape}, "
                f"requested {spec.dtype} {spec.shape}; write to another folder"
            )
    return [spec for spec in arrays if spec.name not in metadata.specs]


def _add_images(path: StorePath, known: ImageList, new_images: Sequence[ImageRecord]) -> None:
    if new_images:
        lines = [*known.lines, *(image_line(image) for image in new_images)]
        write_atomically(path / IMAGES, b"".join(lines))


def _write_documents(
    metadata: Metadata, images: ImageList, new_arrays: Sequence[ArraySpec]
) -> None:
    """Bring every array's document to the length of the image list, and add the new arrays."""
    zarr_arrays = [document.array for document in metadata.documents.values()]
    for spec in new_arrays:
        _make_groups(metadata.path, spec.name)
        # Scales first: a map exists only when all it needs does.
        zarr_arrays += reversed(spec.zarr_arrays)
    n_images = len(images)
    images_crc = images.crc(n_images)
    for array in _unique(zarr_arrays):
        file = metadata.path / array.name / DOCUMENT
        document = array_document(array, metadata.root.shard_size, n_images, images_crc)
        found = read_file(file)
        if isinstance(file, RemotePath) and found and array.name not in metadata.documents:
            raise Changed(str(file))  # Perhaps with more rows than are known here.
        if found != document:
            make_folders(metadata.path, file.parent)
            write_atomically(file, document)


def _unique(arrays: Sequence[ZarrArray]) -> list[ZarrArray]:
    """Without repeats: the scales of a map whose addition was cut short come up twice."""
    return list(dict.fromkeys(arrays))


def _make_groups(path: StorePath, array_name: str) -> None:
    folder = path
    for part in array_name.split("/")[:-1]:
        folder = folder / part
        make_folders(path, folder)
        if read_file(folder / DOCUMENT) is None:
            write_atomically(folder / DOCUMENT, group_document({}))
