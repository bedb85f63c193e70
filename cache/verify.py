"""Checking a store: every document, commit, file and, in full, every byte that is committed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cache.commits import Commit, read_commit, shard_of_commit
from cache.errors import DamagedStore, StoreError
from cache.files import is_owned, is_temporary, temporaries_in
from cache.findings import Findings, Problem
from cache.layout import (
    COMMITS,
    DOCUMENT,
    IMAGES,
    SCALE_SUFFIX,
    ArrayDocument,
    ShardGrid,
    group_document,
    parse_array_document,
    specs_of,
)
from cache.metadata import check_rows, nodes, read_file, read_images, read_root
from cache.records import ImageRecord
from cache.remedy import remedy_for, whole_store_remedy
from cache.verify_data import Progress, check_data


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found."""

    problems: tuple[Problem, ...]
    """Damage. Empty for a sound store."""
    notes: tuple[Problem, ...]
    """Unfinished or interrupted work; a sound store may have any."""
    n_images: int
    n_shards: int
    """Committed ones."""
    bytes_checked: int
    """Bytes of records compared with their checksums."""
    remedy: str = ""
    """One line on how to repair the store; empty for a sound one."""

    @property
    def sound(self) -> bool:
        """Whether everything that is committed is right."""
        return not self.problems


def verify_store(
    path: str | Path, full: bool = True, progress: Progress = lambda done, total: None
) -> VerifyReport:
    """Check a store; without ``full``, documents, commits, sizes and indexes, but no records.

    Others may write meanwhile: things are read in the reverse order of writing, so that what is
    added is not taken for damage. Raises NotAStore where there is no store, and StoreError where
    a file may not be read: that says nothing about what is in it.
    """
    path = Path(path)
    findings = Findings()
    commits: dict[int, Commit] = {}
    images: list[ImageRecord] = []
    remedy = ""
    try:
        grid = ShardGrid(read_root(path).shard_size)
    except DamagedStore as error:
        findings.failure("metadata", path, DOCUMENT, error)
        remedy = whole_store_remedy([DOCUMENT])
    else:
        commits = _check_commit_files(path, findings)
        documents = _check_documents(path, grid, findings)
        images = _check_images(path, documents, findings)
        for commit in commits.values():
            _check_commit(commit, documents, grid, images, findings)
        arrays = [document.array for document in documents.values()]
        findings.add(check_data(path, grid, commits, arrays, full, progress))
        _note_unfinished(path, commits, documents, images, findings)
        remedy = remedy_for(findings.problems, arrays, grid, commits)
    return VerifyReport(
        problems=tuple(findings.problems),
        notes=tuple(findings.notes),
        n_images=len(images),
        n_shards=len(commits),
        bytes_checked=findings.bytes_checked,
        remedy=remedy,
    )


def _check_commit_files(path: Path, findings: Findings) -> dict[int, Commit]:
    """Read all commits; those that are damaged are reported and left out."""
    if not (path / COMMITS).is_dir():
        findings.problem("missing", COMMITS, "the folder of commits is gone")
        return {}
    # Listed once: between two listings a temporary may come or become a commit.
    names = sorted(os.listdir(path / COMMITS))
    shards = {name: shard_of_commit(name) for name in names}
    commits = {}
    for name, shard in shards.items():
        if shard is None:
            if not is_temporary(name):
                findings.problem("unexpected", f"{COMMITS}/{name}", "no file of the store")
            continue
        try:
            commit = read_commit(path, shard)
        except DamagedStore as error:
            findings.failure("commit", path, f"{COMMITS}/{name}", error)
        else:
            if commit is not None:
                commits[shard] = commit
    return commits


def _check_documents(path: Path, grid: ShardGrid, findings: Findings) -> dict[str, ArrayDocument]:
    """Read all array documents; those that are damaged are reported and left out."""
    documents = {}
    groups = []
    for name, is_array in nodes(path):
        if not is_array:
            groups.append(name)
            continue
        try:
            document = read_file(path / name / DOCUMENT) or b""
            documents[name] = parse_array_document(name, document, grid.shard_size)
        except DamagedStore as error:
            findings.failure("metadata", path, f"{name}/{DOCUMENT}", error)
    try:
        specs_of([document.array for document in documents.values()])
    except StoreError as error:
        findings.failure("metadata", path, DOCUMENT, error)
    for name in groups:
        data = read_file(path / name / DOCUMENT)
        if data is None and not any(array.startswith(f"{name}/") for array in documents):
            findings.note("interrupted", name, "an array was being added here")
        elif data != group_document({}):
            what = "missing" if data is None else "differs from what the store wrote"
            findings.problem("metadata", f"{name}/{DOCUMENT}", what)
    return documents


def _check_images(
    path: Path, documents: Mapping[str, ArrayDocument], findings: Findings
) -> list[ImageRecord]:
    """Read the image list; what is wrong with it is reported."""
    try:
        images = read_images(path)
    except DamagedStore as error:
        findings.failure("images", path, IMAGES, error)
        return []
    try:
        check_rows(documents.values(), images)
    except DamagedStore as error:
        findings.failure("images", path, IMAGES, error)
    records = images.records()
    seen = set()
    for record in records:
        if record.id in seen:
            findings.problem("images", IMAGES, f"{record.id}: listed twice")
        seen.add(record.id)
    for name, document in documents.items():
        if document.n_images < len(records):
            findings.note("interrupted", f"{name}/{DOCUMENT}", "images were being added")
    return records


def _check_commit(
    commit: Commit,
    documents: Mapping[str, ArrayDocument],
    grid: ShardGrid,
    images: list[ImageRecord],
    findings: Findings,
) -> None:
    """Compare what a commit says with the image list and the array documents."""
    where = f"{COMMITS}/{commit.shard:06d}.json"
    n_rows = len(commit.images)
    start = commit.shard * grid.shard_size
    if n_rows > grid.shard_size or list(commit.images) != images[start : start + n_rows]:
        findings.problem("commit", where, f"its images are not those of {IMAGES}")
    if not commit.quarantined.keys() <= {image.id for image in commit.images}:
        findings.problem("commit", where, "quarantines images of other shards")
    for name in sorted(commit.arrays):
        if name not in documents:
            findings.problem("missing", f"{name}/{DOCUMENT}", f"shard {commit.shard} needs it")
        elif documents[name].array.dtype == "int8":
            scale = name + SCALE_SUFFIX
            if commit.n_rows(scale) != commit.n_rows(name):
                findings.problem("commit", where, f"{name} and {scale} differ in rows")


def _note_unfinished(
    path: Path,
    commits: Mapping[int, Commit],
    documents: Mapping[str, ArrayDocument],
    images: list[ImageRecord],
    findings: Findings,
) -> None:
    """Note what is left to compute, and the temporaries of living and dead writers."""
    for name in documents:
        n_rows = sum(commit.n_rows(name) for commit in commits.values())
        if n_rows < len(images):
            findings.note("unfinished", name, f"{n_rows} of {len(images)} rows committed")
    folders = [path, path / COMMITS, *(path / name for name, _ in nodes(path))]
    for folder in folders:
        for temporary in temporaries_in(folder):
            where = temporary.relative_to(path).as_posix()
            findings.note("temporary", where, _owner_of(temporary))


def _owner_of(temporary: Path) -> str:
    """Who holds a temporary; a store that this user may only read is no less sound for it."""
    try:
        return "in use" if is_owned(temporary) else "left by a writer that was killed"
    except StoreError:
        return "cannot tell whether in use: no permission to read it, or no locks here"
