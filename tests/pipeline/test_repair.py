"""Repair: exactly what is damaged is computed again, to the bytes of the original."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cache import FeatureStore, StoreError, verify_store
from cache.format.layout import document_bytes
from cli import main
from configs import load_config
from pipeline.repair import RepairReport, repair
from tests import tiny
from tests.cache.stores import array_contents, contents

SHARD = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks, eleven pictures of which one cannot be decoded, and a configuration."""
    root = tmp_path_factory.mktemp("repair")
    tiny.save_tiny_sd(root / "sd", text="null_prompt")
    tiny.save_tiny_clip(root / "clip", image_size=32)
    paths = tiny.write_images(root / "pictures", 11)
    tiny.truncate(paths[5])
    config = {
        "backbone": {
            "sd": {"source": "sd"},
            "clip": {"model": "clip/tiny-vit.json", "pretrained": "clip/tiny-vit.safetensors"},
            "resolution": 32,
        },
        "dataset": {"name": "folder", "root": "pictures"},
        "extraction": {
            "timesteps": [7, 195],
            "layers": ["s4", "s5"],
            "prefix": "up.2",
            "store_dtype": "int8",
            "shard_size": SHARD,
            "batch_size": 3,
            "workers": 0,
            "device": "cpu",
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


@pytest.fixture(scope="module")
def original(world: Path) -> Path:
    """The store, as nothing ever happened to it."""
    assert run("precompute", world / "config.yaml", "--out", world / "store").exit_code == 0
    return world / "store"


@pytest.fixture
def store(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be damaged."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    shutil.copytree(original, tmp_path / "store")
    return tmp_path / "store"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def mend(world: Path, store: Path, dry_run: bool = False) -> RepairReport:
    return repair(load_config(world / "config.yaml"), store, dry_run)


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def assert_as_before(store: Path, original: Path) -> None:
    """Equal in every byte but the timings of the commits."""
    assert array_contents(store) == array_contents(original)
    ours, theirs = (
        {
            file.name: {**json.loads(file.read_text()), "timings": 0, "checksum": 0}
            for file in (path / "commits").iterdir()
        }
        for path in (store, original)
    )
    assert ours == theirs
    assert verify_store(store).problems == verify_store(store).notes == ()


def damages(store: Path) -> Iterator[Path]:
    """Files of every kind: one of each, so that the test stays short."""
    for name in (
        "zarr.json",
        "images.jsonl",
        "sd/zarr.json",
        "sd/t195/s4/zarr.json",
        "sd/t195/s4_scale/zarr.json",
        "clip/pooled/zarr.json",
        "commits/000001.json",
        "sd/t7/s5/c.1.0.0.0",
        "sd/t195/s4_scale/c.2.0",
        "prefix/t195/up2/draw0/hidden/c.0.0.0.0",
        "clip/pooled/c.0.0",
        "vae/latent/c.1.0.0.0",
    ):
        yield store / name


def test_flips_in_every_kind_of_file(world: Path, original: Path, store: Path) -> None:
    """Each is found; all data and commits at once, then all documents at once, are repaired."""
    rng = random.Random(0)
    for documents in (False, True):
        bits = {
            file: rng.randrange(8 * file.stat().st_size)
            for file in damages(store)
            if (file.name in ("zarr.json", "images.jsonl")) == documents
        }
        for file, bit in bits.items():
            flip(file, bit)
            assert not verify_store(store).sound, file
            flip(file, bit)
        for file, bit in bits.items():
            flip(file, bit)
        report = mend(world, store)
        assert report.sound, (bits, report)
        assert_as_before(store, original)


def test_a_root_document_that_is_no_json_any_more(world: Path, original: Path, store: Path) -> None:
    """Either its recipe or its fingerprint is left to tell that the configuration is the right."""
    data = (store / "zarr.json").read_bytes()
    for word in (b'"fingerprint": "', b'"recipe": {'):
        flip(store / "zarr.json", 8 * (data.index(word) + len(word)) + 5)
        with pytest.raises(ValueError):
            json.loads((store / "zarr.json").read_bytes())
        assert mend(world, store).sound
        assert_as_before(store, original)


@pytest.mark.parametrize("kept", [None, 0.5])
@pytest.mark.parametrize("kind", ["data", "commits", "documents"])
def test_cut_and_missing_files(
    world: Path, original: Path, store: Path, kind: str, kept: float | None
) -> None:
    for file in damages(store):
        is_document = file.name in ("zarr.json", "images.jsonl")
        its = "documents" if is_document else "commits" if file.suffix == ".json" else "data"
        if its == kind and file != store / "zarr.json":
            if kept is None:
                file.unlink()
            else:
                tiny.truncate(file, kept)
    report = mend(world, store)
    assert report.sound, report
    assert_as_before(store, original)


def test_much_damage_at_once(world: Path, original: Path, store: Path) -> None:
    shutil.rmtree(store / "commits")
    shutil.rmtree(store / "sd/t7/s4")
    flip(store / "clip/pooled/c.0.0", 100)
    (store / "sd/t195/zarr.json").unlink()
    (store / "vae/latent/c.0.0.0.0").write_bytes(b"")
    mend(world, store)
    run("precompute", world / "config.yaml", "--out", store)
    assert_as_before(store, original)


def test_a_shard_without_commit_beside_one_that_latents_repair(
    world: Path, original: Path, store: Path
) -> None:
    """Stored latents would do for both, but the store cannot be read while a commit is damaged."""
    flip(store / "commits/000002.json", 300)
    flip(store / "sd/t195/s4/c.2.0.0.0", 77)
    flip(store / "sd/t195/s4/c.0.0.0.0", 77)
    assert mend(world, store).sound
    assert_as_before(store, original)


@pytest.mark.parametrize("shard", [0, 1])
def test_latents_whose_index_is_damaged_are_not_read_for_others(
    world: Path, original: Path, store: Path, shard: int
) -> None:
    """No latent is lost, so none is computed: what else is lost has to come from the pictures."""
    latents = store / f"vae/latent/c.{shard}.0.0.0"
    flip(latents, 8 * latents.stat().st_size - 100)
    flip(store / "sd/t195/s4/c.0.0.0.0", 77)
    report = mend(world, store)
    assert report.sound and report.records == 1
    assert_as_before(store, original)


def test_nothing_sound_is_computed_or_written(world: Path, original: Path, store: Path) -> None:
    damaged = store / "sd/t195/s4/c.1.0.0.0"
    flip(damaged, 77)
    before = {name: (store / name).stat().st_ino for name in contents(store)}
    dry = mend(world, store, dry_run=True)
    assert not dry.sound and dry.shards == {1: ["sd/t195/s4"]} and dry.records == 1
    assert before == {name: (store / name).stat().st_ino for name in contents(store)}
    report = mend(world, store)
    assert (report.records, report.other_bytes, report.failures) == (1, 0, {})
    after = {name: (store / name).stat().st_ino for name in contents(store)}
    assert {name for name in after if after[name] != before[name]} == {"sd/t195/s4/c.1.0.0.0"}
    assert_as_before(store, original)
    assert mend(world, store) == RepairReport(store, dry_run=False)


def test_an_index_is_written_again_without_computing(
    world: Path, original: Path, store: Path
) -> None:
    file = store / "sd/t195/s4/c.0.0.0.0"
    flip(file, 8 * file.stat().st_size - 100)
    flip(store / "clip/pooled/c.0.0", 8 * (store / "clip/pooled/c.0.0").stat().st_size - 1)
    report = mend(world, store)
    assert report.sound and report.records == 0 and set(report.shards) == {0}
    assert_as_before(store, original)


def test_only_the_stores_own_recipe_repairs_it(world: Path, store: Path) -> None:
    flip(store / "sd/t195/s4/c.1.0.0.0", 77)
    before = contents(store)
    result = run("cache", "repair", store, world / "config.yaml", "--set", "extraction.seed=3")
    assert result.exit_code == 1 and "made with another recipe (seed" in result.stderr
    assert contents(store) == before
    # Timesteps, layers and prefixes do not matter: the store says which it has.
    sets = ("extraction.timesteps=[3]", "extraction.layers=[s3]", "extraction.prefix=null")
    options = [word for item in sets for word in ("--set", item)]
    result = run("cache", "repair", store, world / "config.yaml", *options)
    assert result.exit_code == 0, result.output
    assert "sound; documents: 0, shards: 1, records computed: 1" in result.stdout


def test_what_follows_from_nothing_is_left_alone(world: Path, store: Path) -> None:
    data = (store / "zarr.json").read_bytes()
    (store / "zarr.json").write_bytes(data[:40])
    before = contents(store)
    with pytest.raises(StoreError, match="too damaged to tell the store's recipe; restore it"):
        mend(world, store)
    assert contents(store) == before
    # An unfinished store whose list has lost an image that no commit knows yet.
    (store / "zarr.json").write_bytes(data)
    for file in (store / "commits").iterdir():
        file.unlink()
    lines = (store / "images.jsonl").read_bytes().splitlines(keepends=True)
    (store / "images.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(StoreError, match="neither commits nor documents tell what it was"):
        mend(world, store)


def test_a_picture_that_is_gone_is_named_and_its_shard_left(world: Path, store: Path) -> None:
    moved = shutil.copytree(world, store.parent / "world", ignore=lambda *_: {"store"})
    os.remove(moved / "pictures/picture_004.png")
    flip(store / "vae/latent/c.1.0.0.0", 77)
    flip(store / "sd/t195/s4/c.0.0.0.0", 77)
    report = repair(load_config(moved / "config.yaml"), store)
    assert "no longer in the dataset" in report.failures["picture_004.png"]
    assert not report.sound and any("vae/latent/c.1" in line for line in report.left)
    assert not any("s4/c.0" in line for line in report.left)


def test_a_row_that_was_written_wrong_is_computed_again(
    world: Path, original: Path, store: Path
) -> None:
    """NaN with all its checksums right, as a faulty program leaves it: the commit changes too."""
    import numpy as np

    from cache.format.checksums import crc32c_of
    from cache.format.commits import ArrayCommit, read_commit
    from cache.format.layout import commit_path

    file = store / "vae/latent/c.0.0.0.0"
    data = bytearray(file.read_bytes())
    stride = 4 * 4 * 4 * 4 + 4
    values = np.frombuffer(data, "<f4", 64, stride).copy()
    values[3] = np.nan
    crc = crc32c_of(values)
    data[stride : 2 * stride] = values.tobytes() + crc.to_bytes(4, "little")
    file.write_bytes(data)
    commit = read_commit(store, 0)
    assert commit is not None
    latent = commit.arrays["vae/latent"]
    crcs = (latent.crc32c[0], crc, *latent.crc32c[2:])
    changed = commit.extended((), {}, {"vae/latent": ArrayCommit(crcs, latent.bytes)}, {})
    commit_path(store, 0).write_bytes(changed.to_bytes())
    assert [problem.kind for problem in verify_store(store).problems] == ["not-finite"]
    report = mend(world, store)
    assert report.sound and report.other_bytes == 1
    assert_as_before(store, original)


def test_the_commit_that_a_repair_was_writing_is_never_rolled_back(
    world: Path, original: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between files and commit, data whose commit was lost must not be taken for undone."""
    (store / "commits/000001.json").unlink()
    replace = os.replace

    def dies(source: Path, target: Path) -> None:
        if Path(target).name == "000001.json":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        patch.setattr(os, "unlink", lambda *_, **__: None)  # as a kill leaves it
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            mend(world, store)
    assert mend(world, store).sound
    assert_as_before(store, original)


def test_from_the_command_line(world: Path, store: Path) -> None:
    flip(store / "clip/pooled/c.0.0", 9)
    verify = run("cache", "verify", store)
    assert verify.exit_code == 1 and f"cache repair {store} CONFIG" in verify.stdout
    dry = run("cache", "repair", store, world / "config.yaml", "--dry-run", "--json")
    assert dry.exit_code == 1
    assert json.loads(dry.stdout)["shards"] == {"0": ["clip/pooled"]}
    assert run("cache", "repair", store, world / "config.yaml").exit_code == 0
    again = run("cache", "repair", store, world / "config.yaml")
    assert again.exit_code == 0 and "sound; documents: 0, shards: 0" in again.stdout
    assert FeatureStore.open(store).quarantined
    document = json.loads((store / "zarr.json").read_text())
    (store / "zarr.json").write_bytes(document_bytes({**document, "x": 1}))
    assert run("cache", "repair", store, world / "config.yaml").exit_code == 0
