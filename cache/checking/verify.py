"""Checking a store: every document, commit, file and, in full, every byte that is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cache.checking.findings import Findings, Problem
from cache.checking.remedy import remedy_for, whole_store_remedy
from cache.checking.verify_data import Progress, check_data
from cache.errors import DamagedStore, StoreError
from cache.format.commits import Commit, parse_commit, shard_of_commit
from cache.format.layout import (
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
from cache.format.metadata import check_rows, is_array, nodes, read_images, read_root
from cache.format.records import ImageRecord
from cache.storage.files import is_owned, is_temporary
from cache.storage.places import names_in, read_files, refuse_link, store_path
from cache.storage.remote import RemotePath, StorePath


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
    path: str | StorePath, full: bool = True, progress: Progress = lambda done, total: None
) -> VerifyReport:
    """Check a store; without ``full``, documents, commits, sizes and indexes, but no records.

    Others may write meanwhile: things are read in the reverse order of writing, so that what is
    added is not taken for damage. Raises NotAStore where there is no store, and StoreError where
    a file may not be read: that says nothing about what is in it.
    """
    store = store_path(path)
    findings = Findings()
    commits: dict[int, Commit] = {}
    images: list[ImageRecord] = []
    remedy = ""
    try:
        grid = ShardGrid(read_root(store).shard_size)
    except DamagedStore as error:
        findings.failure("metadata", store, DOCUMENT, error)
        remedy = whole_store_remedy([DOCUMENT])
    else:
        commits = _check_commit_files(store, findings)
        documents = _check_documents(store, grid, findings)
        images = _check_images(store, documents, findings)
        for commit in commits.values():
            _check_commit(commit, documents, grid, images, findings)
        arrays = [document.array for document in documents.values()]
        findings.add(check_data(store, grid, commits, arrays, full, progress))
        _note_unfinished(store, commits, documents, images, findings)
        remedy = remedy_for(findings.problems, arrays, grid, commits)
    return VerifyReport(
        problems=tuple(findings.problems),
        notes=tuple(findings.notes),
        n_images=len(images),
        n_shards=len(commits),
        bytes_checked=findings.bytes_checked,
        remedy=remedy,
    )


def _check_commit_files(path: StorePath, findings: Findings) -> dict[int, Commit]:
    """Read all commits; those that are damaged are reported and left out."""
    try:
        refuse_link(path / COMMITS)
    except StoreError as error:
        findings.failure("unexpected", path, COMMITS, error)
    # Object storage has no folders, only names with slashes.
    if not isinstance(path, RemotePath) and not (path / COMMITS).is_dir():
        findings.problem("missing", COMMITS, "the folder of commits is gone")
        return {}
    # Listed once: between two listings a temporary may come or become a commit.
    names = sorted(names_in(path / COMMITS))
    shards = {name: shard for name in names if (shard := shard_of_commit(name)) is not None}
    for name in names:
        if name not in shards and not is_temporary(name):
            findings.problem("unexpected", f"{COMMITS}/{name}", "no file of the store")
    commits = {}
    documents = read_files([path / COMMITS / name for name in shards])
    for (name, shard), data in zip(shards.items(), documents, strict=True):
        if data is None:
            continue
        try:
            commits[shard] = parse_commit(data, path, shard)
        except DamagedStore as error:
            findings.failure("commit", path, f"{COMMITS}/{name}", error)
    return commits


def _check_documents(
    path: StorePath, grid: ShardGrid, findings: Findings
) -> dict[str, ArrayDocument]:
    """Read all array documents; those that are damaged are reported and left out."""
    documents = {}
    groups = {}
    for name, data in nodes(path):
        if data is None or not is_array(data):
            groups[name] = data
            continue
        try:
            documents[name] = parse_array_document(name, data, grid.shard_size)
        except DamagedStore as error:
            findings.failure("metadata", path, f"{name}/{DOCUMENT}", error)
    try:
        specs_of([document.array for document in documents.values()])
    except StoreError as error:
        findings.failure("metadata", path, DOCUMENT, error)
    for name, data in groups.items():
        if data is None and not any(array.startswith(f"{name}/") for array in documents):
            findings.note("interrupted", name, "an array was being added here")
        elif data != group_document({}):
            what = "missing" if data is None else "differs from what the store wrote"
            findings.problem("metadata", f"{name}/{DOCUMENT}", what)
    return documents


def _check_images(
    path: StorePath, documents: Mapping[str, ArrayDocument], findings: Findings
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
    path: StorePath,
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
        for name in filter(is_temporary, names_in(folder)):
            where = (folder / name).relative_to(path).as_posix()  # type: ignore[arg-type]
            findings.note("temporary", where, _owner_of(folder / name))


def _owner_of(temporary: StorePath) -> str:
    """Who holds a temporary; a store that this user may only read is no less sound for it."""
    if isinstance(temporary, RemotePath):
        return "of a writer at work, or of one that was stopped"
    try:
        return "in use" if is_owned(temporary) else "left by a writer that was killed"
    except StoreError:
        return "cannot tell whether in use: no permission to read it, or no locks here"
