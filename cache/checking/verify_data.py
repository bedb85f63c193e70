"""Checking the files that hold records, against their own checksums and against the commits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cache.checking.findings import Findings
from cache.errors import CorruptShard, StoreError
from cache.format.checksums import crc32c_of
from cache.format.commits import Commit, announced_shards, read_commit
from cache.format.descriptors import read_chunk
from cache.format.encoding import is_complete
from cache.format.layout import CRC_BYTES, DOCUMENT, ShardGrid, ZarrArray, chunk_of
from cache.format.shardfile import build_index, crc_suffix, index_bytes
from cache.storage.files import is_temporary
from cache.storage.places import names_in, open_binary, size_of
from cache.storage.remote import StorePath

Progress = Callable[[int, int], object]
"""Told how many files are checked, and of how many."""

_NO_CHUNK = "gone, and committed rows need it"


def check_data(
    path: StorePath,
    grid: ShardGrid,
    commits: Mapping[int, Commit],
    arrays: list[ZarrArray],
    full: bool,
    progress: Progress,
) -> Findings:
    """Check all files of all arrays, several at a time; without ``full`` no record is read."""
    check = _DataCheck(path, grid, commits, full)
    jobs = [job for array in arrays for job in check.jobs(array)]
    findings = Findings()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, result in enumerate(pool.map(_run, jobs), start=1):
            findings.add(result)
            progress(done, len(jobs))
    return findings


def _run(job: Callable[[], Findings]) -> Findings:
    return job()


class _DataCheck:
    def __init__(
        self, path: StorePath, grid: ShardGrid, commits: Mapping[int, Commit], full: bool
    ) -> None:
        self._path = path
        self._grid = grid
        self._commits = commits
        self._full = full

    def jobs(self, array: ZarrArray) -> list[Callable[[], Findings]]:
        """The checks of one array: one per committed file, and one of what else lies there."""
        by_file: dict[StorePath, list[Commit]] = defaultdict(list)
        for commit in self._commits.values():
            if commit.n_rows(array.name):
                first_row = commit.shard * self._grid.shard_size
                by_file[self._grid.file_of(self._path, array, first_row)].append(commit)
        jobs: list[Callable[[], Findings]] = [
            partial(self._check_shard_file, file, array, commits[0])
            if array.sharded
            else partial(self._check_descriptor_file, file, array, commits)
            for file, commits in by_file.items()
        ]
        return [*jobs, partial(self._check_others, array, {file.name for file in by_file})]

    def _check_shard_file(self, file: StorePath, array: ZarrArray, commit: Commit) -> Findings:
        findings = Findings()
        where = self._where(file)
        shard_size = self._grid.shard_size
        stride = array.record_bytes + CRC_BYTES
        committed = commit.arrays[array.name]
        try:
            with open_binary(file) as shard:
                size = shard.seek(0, os.SEEK_END)
                n_rows, rest = divmod(size - index_bytes(shard_size), stride)
                if rest or not len(committed.crc32c) <= n_rows <= shard_size:
                    findings.problem("size", where, f"{size} bytes, committed {committed.bytes}")
                    return findings
                shard.seek(n_rows * stride)
                if shard.read() != build_index(array, n_rows, shard_size):
                    findings.problem("index", where, "not the index of this many records")
                if self._full:
                    shard.seek(0)
                    for slot in range(len(committed.crc32c)):
                        data = shard.read(stride)
                        self._check_record(findings, where, array, commit, slot, data)
        except PermissionError as error:
            raise StoreError(f"{file}: cannot read ({error.strerror}); give permission") from error
        except OSError as error:
            findings.problem("missing", where, f"cannot read ({error.strerror})")
        return findings

    def _check_record(
        self,
        findings: Findings,
        where: str,
        array: ZarrArray,
        commit: Commit,
        slot: int,
        data: bytes,
    ) -> None:
        """Compare one record, with the checksum behind it, with its commit."""
        image_id = commit.images[slot].id
        values = data[:-CRC_BYTES]
        crc = crc32c_of(values)
        findings.bytes_checked += len(data)
        if crc_suffix(crc) != data[-CRC_BYTES:]:
            findings.problem("record", where, f"{image_id}: does not fit its checksum")
        elif crc != commit.arrays[array.name].crc32c[slot]:
            findings.problem("record", where, f"{image_id}: is not the record committed")
        elif image_id not in commit.quarantined and not is_complete(values, array):
            findings.problem(
                "not-finite", where, f"{image_id}: NaN, infinity, a hole or out of range"
            )

    def _check_descriptor_file(
        self, file: StorePath, array: ZarrArray, commits: list[Commit]
    ) -> Findings:
        findings = Findings()
        where = self._where(file)
        chunk_rows = self._grid.chunk_rows
        if not self._full:
            expected = chunk_rows * array.record_bytes + CRC_BYTES
            size = size_of(file)
            if size is None:
                findings.problem("missing", where, _NO_CHUNK)
            elif size != expected:
                findings.problem("size", where, f"{size} bytes, its rows need {expected}")
            return findings
        try:
            chunk = read_chunk(file, array, chunk_rows)
        except CorruptShard as error:
            findings.failure("record", self._path, where, error)
            return findings
        if chunk is None:
            findings.problem("missing", where, _NO_CHUNK)
            return findings
        for commit in commits:
            first = commit.shard * self._grid.shard_size % chunk_rows
            for slot in range(commit.n_rows(array.name)):
                values = chunk[first + slot].tobytes()
                data = values + crc_suffix(crc32c_of(values))
                self._check_record(findings, where, array, commit, slot, data)
        return findings

    def _check_others(self, array: ZarrArray, committed: set[str]) -> Findings:
        """Look for data without a commit, and for files that are not the store's."""
        findings = Findings()
        for name in sorted(set(names_in(self._path / array.name)) - committed - {DOCUMENT}):
            if is_temporary(name):
                continue
            where = f"{array.name}/{name}"
            chunk = chunk_of(name)
            if chunk is None or name.count(".") != 1 + len(array.shape):
                findings.problem("unexpected", where, "no file of the store")
            elif not array.sharded or chunk in announced_shards(self._path):
                findings.note("interrupted", where, "written, but its commit is not")
            elif not self._is_committed(array, chunk):
                findings.problem("commit", where, "data without a commit: the commit is lost")
        return findings

    def _is_committed(self, array: ZarrArray, shard: int) -> bool:
        """Whether another process has committed the file since the commits were read."""
        if shard in self._commits:
            fresh = read_commit(self._path, shard)
            return fresh is not None and fresh.n_rows(array.name) > 0
        try:
            return read_commit(self._path, shard) is not None
        except StoreError:
            return True  # Reported as a damaged commit.

    def _where(self, file: StorePath) -> str:
        return file.relative_to(self._path).as_posix()  # type: ignore[arg-type]
