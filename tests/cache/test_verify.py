import json
import os
import random
import re
import shutil
import time

import numpy as np
import pytest

from cache import NotAStore, StoreError, StoreWriter, verify_store
from cache.format.checksums import crc32c_of, sealed
from cache.format.commits import ArrayCommit, read_commit
from cache.format.layout import commit_path, document_bytes
from cache.storage.files import TemporaryFile
from tests.cache.stores import (
    ARRAYS,
    LATENT,
    POOLED,
    QUANTISED,
    RECIPE,
    S3,
    array_contents,
    contents,
    image_records,
    write,
)


def kinds(path, full=True):
    return {problem.kind for problem in verify_store(path, full).problems}


def test_a_complete_store_is_sound(store_path):
    for full in (True, False):
        report = verify_store(store_path, full)
        assert report.sound and report.notes == ()
        assert (report.n_images, report.n_shards) == (11, 3)
    per_image = sum(array.record_bytes + 4 for spec in ARRAYS for array in spec.zarr_arrays)
    assert verify_store(store_path).bytes_checked == 11 * per_image
    assert verify_store(store_path, full=False).bytes_checked == 0


def test_an_unfinished_store_is_sound(tmp_path):
    write(tmp_path, 3, [S3])
    StoreWriter.open(tmp_path, RECIPE, image_records(9), [S3, LATENT], shard_size=4)
    report = verify_store(tmp_path)
    assert report.sound
    assert {(note.where, note.what) for note in report.notes} == {
        (S3.name, "3 of 9 rows committed"),
        (LATENT.name, "0 of 9 rows committed"),
    }


def test_no_store(tmp_path):
    with pytest.raises(NotAStore):
        verify_store(tmp_path)


def test_every_flipped_bit_is_found(store_path):
    rng = random.Random(0)
    n_flips = 0
    for name, data in contents(store_path).items():
        for bit in [rng.randrange(8 * len(data)) for _ in range(8)]:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            (store_path / name).write_bytes(flipped)
            assert not verify_store(store_path).sound, f"{name}: bit {bit}"
            n_flips += 1
        (store_path / name).write_bytes(data)
    assert n_flips >= 200
    assert verify_store(store_path).sound


def test_fast_finds_every_flip_outside_the_records(store_path):
    rng = random.Random(1)
    for name, data in contents(store_path).items():
        is_data = "/c." in name
        start = 0
        if is_data and POOLED.name not in name:
            start = len(data) - (4 * 16 + 4)  # the index
        elif is_data:
            continue
        bit = rng.randrange(8 * start, 8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (store_path / name).write_bytes(flipped)
        assert not verify_store(store_path, full=False).sound, f"{name}: bit {bit}"
        (store_path / name).write_bytes(data)


def test_every_missing_or_truncated_file_is_found(store_path):
    for name, data in contents(store_path).items():
        for kept in (None, 0, len(data) // 2, len(data) - 1):
            (store_path / name).unlink(missing_ok=True)
            if kept is not None:
                (store_path / name).write_bytes(data[:kept])
            for full in (True, False):
                assert not verify_store(store_path, full).sound, f"{name}: {kept} bytes"
        (store_path / name).write_bytes(data)
    for folder in ("commits", S3.name, "clip", f"{POOLED.name}"):
        copy = store_path.with_name("copy")
        shutil.copytree(store_path, copy)
        shutil.rmtree(copy / folder)
        assert not verify_store(copy).sound, folder
        shutil.rmtree(copy)


def test_a_lost_commit_is_damage_but_an_interrupted_publication_is_not(store_path):
    commit = store_path / "commits" / "000001.json"
    data = commit.read_bytes()
    commit.unlink()
    lost = {f"{name}/c.1.0.0.0" for name in (S3.name, LATENT.name, QUANTISED.name)}
    lost.add(f"{QUANTISED.name}_scale/c.1.0")
    assert {problem.where for problem in verify_store(store_path).problems} == lost
    assert kinds(store_path) == {"commit"}
    commit.with_name(".000001.json.abc.tmp").write_bytes(data)
    report = verify_store(store_path)
    assert report.sound
    assert {note.kind for note in report.notes} == {"interrupted", "unfinished", "temporary"}


def test_files_that_are_not_the_stores_are_found(store_path):
    strays = ["commits/notes.txt", f"{S3.name}/c.0.0.0", f"{S3.name}/core", f"{POOLED.name}/c.x"]
    for name in strays:
        (store_path / name).write_bytes(b"x")
    found = {p.where for p in verify_store(store_path).problems if p.kind == "unexpected"}
    assert found == set(strays)


def test_a_shard_from_elsewhere_is_found(store_path):
    """Whole and sound in itself, but not the one that was committed."""
    shutil.copy(store_path / S3.name / "c.0.0.0.0", store_path / S3.name / "c.1.0.0.0")
    (problem, *_) = verify_store(store_path).problems
    assert problem.kind == "record" and "is not the record committed" in problem.what
    shutil.copy(store_path / "commits/000000.json", store_path / "commits/000001.json")
    assert "commit" in kinds(store_path)


def test_descriptor_rows_lost_to_a_writer_without_locks_are_found(store_path):
    """The chunk is sound in itself, but one shard's rows are those from before its commit."""
    chunk = store_path / POOLED.name / "c.0.0"
    rows = np.frombuffer(chunk.read_bytes()[:-4], "<f4").reshape(-1, 7).copy()
    rows[4:8] = np.nan
    chunk.write_bytes(rows.tobytes() + crc32c_of(rows.tobytes()).to_bytes(4, "little"))
    problems = verify_store(store_path).problems
    assert {problem.kind for problem in problems} == {"record"}
    assert len(problems) == 3  # row 5 is quarantined: a hole there is right


def test_holes_that_nobody_quarantined_are_found(store_path):
    path = commit_path(store_path, 1)
    commit = read_commit(store_path, 1)
    assert commit is not None
    path.write_bytes(type(commit)(1, commit.images, {}, commit.arrays, commit.timings).to_bytes())
    problems = verify_store(store_path).problems
    assert {problem.kind for problem in problems} == {"not-finite"}
    assert len(problems) == 5  # row 5, in the four arrays and the scales


def test_a_commit_that_contradicts_the_store_is_found(store_path):
    commit = read_commit(store_path, 0)
    assert commit is not None
    arrays = dict(commit.arrays)

    def rewritten(**changes):
        document = {"images": commit.images, "quarantined": {}, "arrays": arrays} | changes
        commit_path(store_path, 0).write_bytes(type(commit)(0, **document).to_bytes())
        return kinds(store_path)

    assert rewritten() == set()
    assert rewritten(images=commit.images[::-1]) == {"commit"}
    assert "commit" in rewritten(images=commit.images[:2])
    assert rewritten(quarantined={"nobody.png": "?"}) == {"commit"}
    assert rewritten(arrays=arrays | {"sd/t1/s3": arrays[S3.name]}) == {"missing"}
    long = ArrayCommit(arrays[S3.name].crc32c * 2, arrays[S3.name].bytes)
    assert "commit" in rewritten(arrays=arrays | {S3.name: long})
    del arrays["sd/t195/s4_scale"]
    assert rewritten() == {"commit"}


def test_duplicate_ids_are_found(store_path):
    images = store_path / "images.jsonl"
    lines = images.read_bytes().splitlines(keepends=True)
    images.write_bytes(b"".join([*lines[:-1], lines[0]]))
    whats = [problem.what for problem in verify_store(store_path).problems]
    assert any("listed twice" in what for what in whats)


def test_a_store_of_a_later_version_is_refused(store_path):
    document = json.loads((store_path / "zarr.json").read_text())
    document["attributes"] = sealed({**document["attributes"], "format_version": 2})
    (store_path / "zarr.json").write_bytes(document_bytes(document))
    with pytest.raises(StoreError, match="store format 2, this program reads 1"):
        verify_store(store_path)


def test_clocks_and_modes_do_not_matter(store_path):
    for name in contents(store_path):
        os.utime(store_path / name, (0, time.time() + 10**8))
    assert verify_store(store_path).sound


def test_reading_needs_no_permission_to_write(tmp_path):
    write(tmp_path / "store", 5)
    (tmp_path / "store" / ".lock").unlink()
    assert verify_store(tmp_path / "store").sound
    assert not (tmp_path / "store" / ".lock").exists()


def test_a_store_that_may_only_be_read_is_sound(store_path, monkeypatch):
    """With the temporary of a dead writer in it, and on a system that refuses writing."""
    (store_path / S3.name / ".c.9.0.0.0.abc.tmp").write_bytes(b"x")
    held = TemporaryFile(store_path / S3.name / "c.8.0.0.0")
    open_file = os.open

    def read_only(file, flags, *rest, **others):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied", str(file))
        return open_file(file, flags, *rest, **others)

    def no_temporaries(file, flags, *rest, **others):
        if str(file).endswith(".tmp"):
            raise PermissionError(13, "Permission denied", str(file))
        return open_file(file, flags, *rest, **others)

    expected = ({"in use", "left by a writer that was killed"}, {CANNOT_TELL})
    for opened, whats in zip((read_only, no_temporaries), expected, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", opened)
            report = verify_store(store_path)
        assert report.sound and report.remedy == ""
        assert {note.what for note in report.notes} == whats
    held.discard()


CANNOT_TELL = "cannot tell whether in use: no permission to read it, or no locks here"


def follow(remedy, path):
    """Do what a remedy says about files; a range names its ends."""
    for first, last in re.findall(r"commits/(\d+)\.json to commits/(\d+)\.json", remedy):
        for shard in range(int(first), int(last) + 1):
            commit_path(path, shard).unlink()
    for name in re.sub(r"\S+ to \S+", "", remedy).replace(",", " ").split():
        if "/" in name:
            (path / name).unlink()


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_following_the_remedy_repairs_commits_and_data(store_path, damage):
    good = array_contents(store_path)
    for name in contents(store_path):
        if "/c." not in name and not name.startswith("commits/"):
            continue
        data = bytearray((store_path / name).read_bytes())
        data[len(data) // 3] ^= 1
        (store_path / name).write_bytes(data if damage == "flip" else data[: len(data) // 2])
        if damage == "gone":
            (store_path / name).unlink()
        remedy = verify_store(store_path).remedy
        assert "again" in remedy and "another folder" not in remedy and "\n" not in remedy
        follow(remedy, store_path)
        write(store_path, 11, quarantined={5})
        report = verify_store(store_path)
        assert (report.problems, report.notes, report.remedy) == ((), (), ""), name
        assert array_contents(store_path) == good, name


def test_a_remedy_deletes_no_more_than_it_must(store_path):
    (store_path / S3.name / "c.1.0.0.0").write_bytes(b"")
    (store_path / S3.name / "core").write_bytes(b"")
    assert verify_store(store_path, full=False).remedy == (
        f"move {S3.name}/core out of the store, then delete commits/000001.json, "
        "then run every precompute that wrote to the store again"
    )


def test_what_is_not_computed_has_to_be_restored(store_path):
    for name in ("zarr.json", "images.jsonl", f"{S3.name}/zarr.json", "sd/zarr.json"):
        data = (store_path / name).read_bytes()
        (store_path / name).write_bytes(b"{}")
        report = verify_store(store_path)
        assert name in {problem.where for problem in report.problems}
        assert report.remedy.startswith("restore ") and name in report.remedy
        assert report.remedy.endswith("or compute the store again in another folder")
        (store_path / name).write_bytes(data)


def test_findings_repeat_neither_their_path_nor_the_advice_to_verify(store_path):
    for name, data in contents(store_path).items():
        for kept in (None, len(data) // 2):
            (store_path / name).unlink(missing_ok=True)
            if kept is not None:
                (store_path / name).write_bytes(data[:kept])
            for full in (True, False):
                for problem in verify_store(store_path, full).problems:
                    assert str(store_path) not in problem.what
                    assert not problem.what.startswith(problem.where)
                    assert "cache verify" not in problem.what and "-1" not in problem.what
        (store_path / name).write_bytes(data)


def test_commits_without_metadata_are_a_damaged_store(store_path):
    (store_path / "zarr.json").unlink()
    (store_path / "images.jsonl").unlink()
    report = verify_store(store_path)
    assert [(problem.where, problem.what) for problem in report.problems] == [
        ("zarr.json", "missing beside images or commits: damaged, not empty")
    ]
    assert report.remedy


def test_progress_is_told_file_by_file(store_path):
    seen: list[tuple[int, int]] = []
    verify_store(store_path, progress=lambda *at: seen.append(at))
    n_files = 4 * 3 + 1 + 5  # shards of the sharded arrays, a chunk, and what else lies in a folder
    assert seen == [(done, n_files) for done in range(1, n_files + 1)]


def test_a_scale_below_zero_is_out_of_range(store_path):
    """With all its checksums right: no writer makes such a scale."""
    scale = f"{QUANTISED.name}_scale"
    file = store_path / scale / "c.0.0"
    data = file.read_bytes()
    values = np.frombuffer(data[:8], "<f4") * np.float32(-1)
    file.write_bytes(values.tobytes() + crc32c_of(values).to_bytes(4, "little") + data[12:])
    commit = read_commit(store_path, 0)
    assert commit is not None
    old = commit.arrays[scale]
    new = ArrayCommit((crc32c_of(values), *old.crc32c[1:]), old.bytes)
    commit_path(store_path, 0).write_bytes(commit.extended((), {}, {scale: new}, {}).to_bytes())
    (problem,) = verify_store(store_path).problems
    assert problem.kind == "not-finite" and "out of range" in problem.what
