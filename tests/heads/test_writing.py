"""Files that users keep are replaced as a whole, by one writer or by several at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pipeline.networks.saving as saving
from cache.storage.files import remove_abandoned_staging, replacing
from heads.plots import masks_figure, save
from heads.training.checkpoint import Checkpoint, save_checkpoint, write_text
from heads.training.run import Run
from heads.use.kept import KeptDescriptors
from heads.use.pictures import LoadedPicture
from heads.use.segment import FoundMask, save_mask
from pipeline.networks.injection import Injection, load_injection
from pipeline.networks.saving import save_tensors

PICTURE = LoadedPicture("a.png", Image.new("RGB", (8, 8)), "0" * 64)
MASK = FoundMask(PICTURE, PICTURE, np.eye(8, dtype=bool), threshold=0.5, mean_similarity=None)
INJECTION = Injection(3, {"down.0": 2})

WRITERS: dict[str, Callable[[Path], Any]] = {
    "injection.safetensors": INJECTION.save,
    "last.safetensors": lambda path: save_checkpoint(path, Checkpoint({}, {})),
    "report.html": lambda path: write_text(path, "new"),
    "figure.png": lambda path: save(masks_figure([MASK]), path),
    "a-mask.png": lambda path: save_mask(MASK, path.parent, set()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_replaced_and_not_written_over(name: str, tmp_path: Path) -> None:
    """A reader that has the old one open keeps it whole."""
    path = tmp_path / name
    path.write_bytes(b"what was there")
    os.link(path, tmp_path / "old")
    WRITERS[name](path)
    assert path.read_bytes() != b"what was there"
    assert (tmp_path / "old").read_bytes() == b"what was there"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith(".tmp")]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_on_the_disk_before_it_has_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, name, folder: so a loss of power leaves the old file or the new one."""
    events: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        fsync(fd)
        events.append(("sync", os.fstat(fd).st_ino))

    def renamed(source: Any, target: Any) -> None:
        replace(source, target)
        events.append((Path(target).name, os.stat(target).st_ino))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    WRITERS[name](tmp_path / name)
    at = events.index((name, (tmp_path / name).stat().st_ino))
    assert ("sync", (tmp_path / name).stat().st_ino) in events[:at]
    assert ("sync", tmp_path.stat().st_ino) in events[at:]


def umask() -> int:
    known = os.umask(0o077)
    os.umask(known)
    return known


def test_an_injection_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "injection.safetensors"
    INJECTION.save(path)

    def half(tensors: object, file: str, **others: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device", file)

    monkeypatch.setattr(saving, "save_file", half)
    with pytest.raises(OSError, match="No space left") as caught:
        Injection(3, {"down.0": 2}).save(path)
    assert caught.value.filename == str(path)
    assert load_injection(path, 3, {"down.0": 2}).digest() == INJECTION.digest()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_two_processes_keep_one_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes all of its file while the first is in the middle of its own."""
    notes: list[str] = []
    trained: Any = SimpleNamespace(run=Run(tmp_path), fingerprint="f")
    first, second = (KeptDescriptors(trained, tmp_path / "photos", notes.append) for _ in "ab")
    shas = [f"{number:064x}" for number in range(2000)]
    first.add(shas, torch.ones(2000, 4))
    second.add(shas[:3], torch.zeros(3, 4))
    save_file = saving.save_file

    def interrupted(tensors: Any, file: str, **others: Any) -> None:
        monkeypatch.setattr(saving, "save_file", save_file)
        save_file(tensors, file, **others)
        second.save(shas)

    monkeypatch.setattr(saving, "save_file", interrupted)
    first.save(shas)
    assert not notes
    (file,) = (tmp_path / "galleries").glob("*.safetensors")
    assert torch.equal(load_file(file)["descriptors"], torch.ones(2000, 4))
    again = KeptDescriptors(trained, tmp_path / "photos", notes.append)
    assert torch.equal(again.rows(shas), torch.ones(2000, 4))
    assert sorted(path.suffix for path in file.parent.iterdir()) == [".json", ".safetensors"]


def test_what_a_killed_writer_left_goes_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    target = tmp_path / "best.safetensors"

    def staged() -> list[Path]:
        return [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]

    child = os.fork()
    if child == 0:
        with replacing(target) as new:
            new.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(staged()) == 1 and not target.exists()
    with replacing(target) as new:
        (own,) = staged()  # The dead one's is gone.
        new.write_bytes(b"whole")
        remove_abandoned_staging(tmp_path)
        save_tensors(target, {"a": torch.zeros(1)})
        assert staged() == [own]
    assert target.read_bytes() == b"whole" and not staged()


def test_a_run_that_is_trained_again_is_cleared_of_what_a_killed_one_left(tmp_path: Path) -> None:
    """Of files, too, that it does not write any more."""
    (tmp_path / ".injection.safetensors.0123456789ab.tmp").mkdir()
    (tmp_path / ".config.yaml.0123456789ab.tmp").mkdir()
    (tmp_path / ".config.yaml.0123456789ab.tmp" / "config.yaml").write_text("half")
    with Run(tmp_path).held():
        assert not list(tmp_path.iterdir())


def test_without_locks_files_are_replaced_and_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with replacing(tmp_path / "a") as new:
        new.write_text("first")
        write_text(tmp_path / "a", "second")
        assert new.read_text() == "first"
    assert (tmp_path / "a").read_text() == "first"
