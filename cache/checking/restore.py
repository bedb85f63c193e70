"""Documents of a damaged store, written again as far as they follow from others.

In order: the root document, the folder of commits, the documents of groups, the image list, the
documents of arrays. Each is accepted only where something that is sound vouches for it: nothing
is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import DamagedStore, StoreError
from cache.format.checksums import SEAL, Json, crc32c_hex
from cache.format.commits import Commit, read_commit, shard_of_commit
from cache.format.layout import (
    COMMITS,
    DOCUMENT,
    IMAGES,
    LOCK,
    SCALE_SUFFIX,
    ArrayDocument,
    ArraySpec,
    ZarrArray,
    array_document,
    chunk_of,
    group_document,
    parse_array_document,
)
from cache.format.metadata import (
    ImageList,
    RootDocument,
    image_line,
    is_array,
    nodes,
    parse_images,
    read_root,
)
from cache.format.recipe import Recipe
from cache.format.shardfile import committed_bytes
from cache.storage.files import locked, make_folders, write_atomically
from cache.storage.places import read_file


@dataclass(frozen=True)
class Origin:
    """What a store is made with, as the configuration for its repair says it."""

    recipe: Recipe
    provenance: Mapping[str, Json]
    specs: Mapping[str, ArraySpec]
    """The features that can be computed, by name."""


def stored_features(path: Path) -> set[str]:
    """Names of the features that a store has or, where it is damaged, must have had.

    They come from its commits and from its folders, so a damaged document hides none.
    """
    return _features(path, _commits(path))


def _features(path: Path, commits: Mapping[int, Commit]) -> set[str]:
    names = {name for commit in commits.values() for name in commit.arrays}
    for name, data in nodes(path):
        if is_array(data) or any(
            chunk_of(file.name) is not None for file in (path / name).iterdir()
        ):
            names.add(name)
    return {name.removesuffix(SCALE_SUFFIX) for name in names}


def restore_documents(path: Path, origin: Origin, dry_run: bool = False) -> list[str]:
    """Write again every damaged document; their paths inside the store.

    With ``dry_run`` only says which. Raises StoreError where one follows from nothing else: it
    has to come from a copy. Nothing has been changed then.
    """
    written = _documents(path, origin)
    if not dry_run:
        with locked(path / LOCK):
            make_folders(path, path / COMMITS)
            for name, data in written.items():
                make_folders(path, (path / name).parent)
                write_atomically(path / name, data)
    return list(written)


def _documents(path: Path, origin: Origin) -> dict[str, bytes]:
    """The damaged documents as they should be, in the order of writing."""
    root = _root(path, origin)
    commits = _commits(path)
    names = _array_names(path, origin, commits)
    documents = _sound_documents(path, names, root.shard_size)
    images = _images(path, root.shard_size, commits, documents)
    wanted = {DOCUMENT: root.to_bytes()}
    for name in sorted(names):
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            wanted[f"{'/'.join(parts[:depth])}/{DOCUMENT}"] = group_document({})
    for name, _ in nodes(path):
        # A group that nothing needs, but that is there.
        if name not in names and any(child.is_dir() for child in (path / name).iterdir()):
            wanted[f"{name}/{DOCUMENT}"] = group_document({})
    wanted[IMAGES] = b"".join(images.lines)
    # Scales before their maps, as in growing.
    for name in sorted(names, key=lambda name: (not name.endswith(SCALE_SUFFIX), name)):
        document = documents.get(name)
        if document is not None and _vouches(document, images):
            continue  # Perhaps shorter than the list: a growth was interrupted.
        array = document.array if document is not None else names[name]
        if array is None:
            raise StoreError(
                f"{path / name / DOCUMENT}: damaged, and this configuration does not compute "
                f"{name}; restore it from a copy, or give the configuration that made it"
            )
        _check_sizes(path, array, root.shard_size, commits)
        wanted[f"{name}/{DOCUMENT}"] = array_document(
            array, root.shard_size, len(images), images.crc(len(images))
        )
    return {name: data for name, data in wanted.items() if read_file(path / name) != data}


def _commits(path: Path) -> dict[int, Commit]:
    """The commits that can be read, by shard."""
    found = {}
    folder = path / COMMITS
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        shard = shard_of_commit(file.name)
        if shard is not None:
            try:
                commit = read_commit(path, shard)
            except DamagedStore:
                continue
            if commit is not None:
                found[shard] = commit
    return found


def _array_names(
    path: Path, origin: Origin, commits: Mapping[int, Commit]
) -> dict[str, ZarrArray | None]:
    """Every array on disk that the store must have, with what it is where that is known."""
    known = {a.name: a for spec in origin.specs.values() for a in spec.zarr_arrays}
    names = {name for commit in commits.values() for name in commit.arrays}
    declared = {name for name, _ in nodes(path) if name in origin.specs}
    for name in _features(path, commits) | declared:
        spec = origin.specs.get(name)
        names |= {array.name for array in spec.zarr_arrays} if spec else {name}
        if (path / (name + SCALE_SUFFIX)).is_dir():
            names.add(name + SCALE_SUFFIX)
    return {name: known.get(name) for name in names}


def _root(path: Path, origin: Origin) -> RootDocument:
    """The root document as it is, or as it was."""
    try:
        root = read_root(path)
    except DamagedStore:
        root = _former_root(path, origin)
    differences = root.recipe.differences(origin.recipe)
    if differences:
        raise StoreError(
            f"{path}: made with another recipe ({'; '.join(differences)}); repair it with the "
            "configuration that made it"
        )
    return root


def _former_root(path: Path, origin: Origin) -> RootDocument:
    """A damaged root document, made again.

    That the recipe is this one must show in what is left of it; the shard size comes from an
    array's document. Where what is left does not say who made the store, this process did.
    """
    data = read_file(path / DOCUMENT) or b""
    shard_size = _shard_size(path)
    recipe = next((r for r in origin.recipe.spellings() if _shows(r, data)), None)
    if shard_size is None or recipe is None:
        raise StoreError(
            f"{path / DOCUMENT}: too damaged to tell the store's recipe; restore it from a copy, "
            "or compute the store again in another folder"
        )
    try:
        attributes = json.loads(data)["attributes"]
        kept = RootDocument(recipe, shard_size, dict(attributes["provenance"]))
        if json.loads(kept.to_bytes())["attributes"][SEAL] == attributes[SEAL]:
            return kept
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return RootDocument(recipe, shard_size, dict(origin.provenance))


def _shows(recipe: Recipe, document: bytes) -> bool:
    """Whether a recipe or its fingerprint is in what is left of a root document."""
    text = RootDocument(recipe, 1, {}).to_bytes()
    fields = text[text.index(b'"recipe"') : text.index(b'"fingerprint"')]
    return fields in document or recipe.fingerprint.encode() in document


def _shard_size(path: Path) -> int | None:
    """The shard size that a sound array document tells; None where none does."""
    for name, data in nodes(path):
        if data is None or not is_array(data):
            continue
        try:
            size = json.loads(data)["chunk_grid"]["configuration"]["chunk_shape"][0]
            document = parse_array_document(name, data, size)
        except (StoreError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
        if document.array.sharded:
            return int(size)
    return None


def _sound_documents(
    path: Path, names: Mapping[str, ZarrArray | None], shard_size: int
) -> dict[str, ArrayDocument]:
    found = {}
    for name in names:
        try:
            data = read_file(path / name / DOCUMENT) or b""
            found[name] = parse_array_document(name, data, shard_size)
        except DamagedStore:
            continue
    return found


def _images(
    path: Path,
    shard_size: int,
    commits: Mapping[int, Commit],
    documents: Mapping[str, ArrayDocument],
) -> ImageList:
    """The image list: as it is if it is sound, or made of the commits and of what is left of it.

    A list is believed if an array's document vouches for it or if the commits know every image.
    """
    data = read_file(path / IMAGES) or b""
    lines = data.splitlines(keepends=True)
    committed = _committed_lines(shard_size, commits)
    vouched = {(document.n_images, document.images_crc) for document in documents.values()}
    longest = max((n for n, _ in vouched), default=0)
    lengths = sorted({len(lines), longest, len(committed)}, reverse=True)
    for n_images in lengths:
        for candidate in _candidates(lines, committed, n_images):
            content = b"".join(candidate)
            as_it_was = content == data
            known = all(row in committed for row in range(n_images))
            # A document of fewer images vouches only for a list that is as it was.
            trusted = (known and (as_it_was or 0 < n_images == longest)) or any(
                n <= n_images and crc32c_hex(b"".join(candidate[:n])) == crc
                for n, crc in vouched
                if n == n_images or as_it_was
            )
            if trusted:
                try:
                    return parse_images(path, content)
                except DamagedStore:
                    continue
    raise StoreError(
        f"{path / IMAGES}: damaged, and neither commits nor documents tell what it was; restore "
        "it from a copy, or compute the store again in another folder"
    )


def _vouches(document: ArrayDocument, images: ImageList) -> bool:
    n_images = document.n_images
    return n_images <= len(images) and images.crc(n_images) == document.images_crc


def _committed_lines(shard_size: int, commits: Mapping[int, Commit]) -> dict[int, bytes]:
    """The lines of the images that commits list, by row."""
    return {
        shard * shard_size + slot: image_line(image)
        for shard, commit in commits.items()
        for slot, image in enumerate(commit.images)
    }


def _candidates(
    lines: Sequence[bytes], committed: Mapping[int, bytes], n_images: int
) -> Iterator[list[bytes]]:
    """Lists of this length: lines of commits first, then those of the file, counted from its
    start or, as a damaged line feed shifts them, from its end."""
    for shift in dict.fromkeys((0, len(lines) - n_images)):
        candidate = []
        for row in range(n_images):
            line = committed.get(row)
            if line is None and 0 <= row + shift < len(lines):
                line = lines[row + shift]
            if line is None:
                break
            candidate.append(line)
        else:
            yield candidate


def _check_sizes(
    path: Path, array: ZarrArray, shard_size: int, commits: Mapping[int, Commit]
) -> None:
    """An array as the configuration describes it must be one that the commits can mean."""
    for commit in commits.values():
        committed = commit.arrays.get(array.name)
        if committed is None:
            continue
        n_rows = len(committed.crc32c)
        expected = committed_bytes(array, n_rows, shard_size)
        if committed.bytes != expected:
            raise StoreError(
                f"{path / array.name}: its commits speak of {committed.bytes} bytes a shard, this "
                f"configuration of {expected}; repair it with the configuration that made it"
            )
