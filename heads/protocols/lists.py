"""Reading file lists as SAKE and ZSE-SBIR publish them: one `path label` a line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cache.units import printable
from heads.protocols.base import ProtocolError
from pipeline.datasets.base import Domain, normalise_category
from pipeline.datasets.files import domain_of

PLURAL: Mapping[Domain, str] = {"sketch": "sketches", "photo": "photos"}
_ENDINGS = {"train": "train", "zero": "test"}
"""What the last word of a list's name says of its part."""


class ListedFile(NamedTuple):
    """One line of a list."""

    path: str
    category: str


@dataclass(frozen=True)
class FileList:
    """The sketches or the photos of a part, in the order of the file."""

    name: str
    """Of the file."""
    files: tuple[ListedFile, ...]


@dataclass(frozen=True)
class FileLists:
    """A folder of lists: `train` and `test` sketches and photos."""

    folder: Path
    lists: Mapping[tuple[str, Domain], FileList] = field(repr=False)
    """By part (`train`, `test`) and domain."""
    digest: str
    """Hex SHA-256 of the four lists' SHA-256: the same for the same lines, wherever they lie."""


def read_file_lists(folder: Path) -> FileLists:
    """The four lists of a folder such as SAKE's `zeroshot1`.

    A list's name ends in `_train.txt` (seen categories) or `_zero.txt` (the gallery and the
    queries) and speaks of photos or images, or of sketches or png. Of several that do, the one
    that begins with `all_` is taken: `all_photo_…` holds base and extended photos. Labels are named
    by `cname_cid.txt` and `cname_cid_zero.txt` if they are there.

    Raises `ProtocolError`: a list is missing, ambiguous, empty or malformed (with the line).
    """
    lists: dict[tuple[str, Domain], FileList] = {}
    digest = hashlib.sha256()
    domains: tuple[Domain, ...] = ("sketch", "photo")
    for ending, part in _ENDINGS.items():
        names = _category_names(folder / ("cname_cid.txt", "cname_cid_zero.txt")[part == "test"])
        for domain in domains:
            path = _find_list(folder, ending, domain)
            data = _read(path)
            digest.update(hashlib.sha256(data).digest())
            lists[part, domain] = FileList(path.name, _listed_files(path, data, names))
    return FileLists(folder, lists, digest.hexdigest())


def _find_list(folder: Path, ending: str, domain: Domain) -> Path:
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(f"_{ending}.txt"))
    except OSError as error:
        raise ProtocolError(f"lists {folder}: cannot be read ({error.strerror})") from None
    matches = [path for path in paths if _domain_of_list(path.stem) == domain]
    combined = [path for path in matches if path.name.startswith("all_")]
    if len(combined) == 1:
        matches = combined
    if not matches:
        examples = {"sketch": "sketch_filelist", "photo": "all_photo_filelist"}
        raise ProtocolError(
            f"lists {folder}: no list of {PLURAL[domain]} called *_{ending}.txt, such as"
            f" {examples[domain]}_{ending}.txt; all four lists are needed"
        )
    if len(matches) > 1:
        raise ProtocolError(
            f"lists {folder}: {printable(matches[0].name)} and {printable(matches[1].name)} are"
            f" both lists of {PLURAL[domain]}; keep the one to use in a folder of its own"
        )
    return matches[0]


def _domain_of_list(stem: str) -> Domain | None:
    """What a list's name says of its images; TU-Berlin's sketches are in `png_ready_…`."""
    if re.match(r"png(_|$)", stem.lower()):
        return "sketch"
    return domain_of(stem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror})") from None


def _lines(path: Path, data: bytes) -> list[tuple[str, str, int]]:
    """What stands before the last space of each line, its label, and the line's number."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ProtocolError(f"{path}, line {number}: is not UTF-8") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        words = line.strip().rsplit(maxsplit=1)
        if len(words) < 2 or not (words[1].isascii() and words[1].isdigit() and len(words[1]) < 10):
            raise ProtocolError(
                f"{path}, line {number}: {_short(line)!r} is not a path, a space and the number of"
                " a category"
            )
        found.append((words[0], str(int(words[1])), number))
    if not found:
        raise ProtocolError(f"{path}: is empty; each line is a path, a space and a label")
    return found


def _category_names(path: Path) -> dict[str, str] | None:
    """The name of each label; None if there is no such file."""
    if not path.exists():
        return None
    names: dict[str, str] = {}
    label_of: dict[str, str] = {}
    for name, label, number in _lines(path, _read(path)):
        category = normalise_category(name)
        if label in names or label_of.setdefault(category, label) != label:
            twice = f"label {label}" if label in names else f"category {_short(name)!r}"
            raise ProtocolError(f"{path}, line {number}: {twice} is there twice")
        names[label] = category
    return names


def _listed_files(
    path: Path, data: bytes, names: Mapping[str, str] | None
) -> tuple[ListedFile, ...]:
    files = []
    for listed, label, number in _lines(path, data):
        if names is not None and label not in names:
            raise ProtocolError(
                f"{path}, line {number}: label {label} has no name in the cname_cid file beside it"
            )
        files.append(ListedFile(listed, f"label {label}" if names is None else names[label]))
    return tuple(files)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
