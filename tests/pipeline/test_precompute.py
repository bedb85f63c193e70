"""Stage 1 from the command line: the oracle's numbers, however the work was cut up or cut short."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
import zarr
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cache import FeatureStore, QuarantinedImage, verify_store
from cli import main
from tests import tiny
from tests.oracle.features import oracle_features

TIMESTEPS = [7, 195, 640]
RESOLUTION = 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, an injection file, pictures and a configuration, as a user would have them."""
    root = tmp_path_factory.mktemp("world")
    tiny.save_tiny_sd(root / "sd", layers_per_block=2)
    clip_json, clip_weights = tiny.save_tiny_clip(root / "clip", image_size=RESOLUTION)
    tiny.save_injection(root / "injection.safetensors")
    tiny.write_images(root / "pictures" / "one", 6, seed=1)
    tiny.write_images(root / "pictures" / "two", 5, seed=2)
    config = {
        "backbone": {
            "sd": {"source": "sd"},
            "clip": {
                "model": str(clip_json.relative_to(root)),
                "pretrained": str(clip_weights.relative_to(root)),
            },
            "resolution": RESOLUTION,
        },
        "dataset": {"name": "folder", "root": "pictures"},
        "extraction": {
            "timesteps": TIMESTEPS,
            "ensemble": 2,
            "seed": 5,
            "injection": "injection.safetensors",
            "store_dtype": "float32",
            "shard_size": 4,
            "batch_size": 3,
            "workers": 0,
            "device": "cpu",
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def run(world: Path, out: Path, *sets: str, extra: Sequence[str] = ()) -> Result:
    arguments = ["precompute", str(world / "config.yaml"), "--out", str(out), *extra]
    for item in sets:
        arguments += ["--set", item]
    return CliRunner().invoke(main, arguments)


def array_bytes(store: Path) -> dict[str, str]:
    """A digest of every file of every array by its path: what two equal stores have in common."""
    kinds = ("sd", "clip", "vae")
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted((store / kind).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def store(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "store"
    result = run(world, out)
    assert result.exit_code == 0, result.output
    return out


def test_plain_zarr_reads_the_oracles_numbers(world: Path, store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    lines = [json.loads(line) for line in (store / "images.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    assert len(lines) == 11
    clip_json = next((world / "clip").glob("*.json"))
    for row, line in enumerate(lines):
        expected = oracle_features(
            world / "pictures" / line["id"],
            world / "sd",
            clip_json,
            clip_json.with_suffix(".safetensors"),
            world / "injection.safetensors",
            resolution=RESOLUTION,
            timesteps=TIMESTEPS,
            seed=5,
            ensemble=2,
        )
        assert {"vae/latent", "clip/tokens", "clip/pooled", "sd/t640/s5"} <= set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(group[name][row], value, atol=1e-4, rtol=0, err_msg=name)


def test_plain_sd_and_other_padding_equal_the_oracle(world: Path, tmp_path: Path) -> None:
    sets = ("extraction.injection=null", "extraction.pad=white", "extraction.layers=[s4]")
    assert run(world, tmp_path / "s", *sets, "extraction.ensemble=1").exit_code == 0
    group = zarr.open_group(tmp_path / "s", mode="r")
    clip_json = next((world / "clip").glob("*.json"))
    first = json.loads((tmp_path / "s" / "images.jsonl").read_text().splitlines()[1])
    expected = oracle_features(
        world / "pictures" / first["id"],
        world / "sd",
        clip_json,
        clip_json.with_suffix(".safetensors"),
        resolution=RESOLUTION,
        pad="white",
        timesteps=TIMESTEPS,
        layers=["s4"],
        seed=5,
    )
    for name, value in expected.items():
        np.testing.assert_allclose(group[name][1], value, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    "sets",
    [
        ("extraction.batch_size=1",),
        ("extraction.batch_size=64",),
        ("extraction.workers=2",),
        ("extraction.shard_size=3",),
        ("dataset.limit=11",),
    ],
    ids=" ".join,
)
def test_the_way_it_was_computed_changes_no_number(
    world: Path, store: Path, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    assert run(world, tmp_path / "s", *sets).exit_code == 0
    ours, theirs = FeatureStore.open(tmp_path / "s"), FeatureStore.open(store)
    assert ours.fingerprint == theirs.fingerprint
    names = list(theirs.arrays)
    a, b = ours.read(theirs.ids, names), theirs.read(theirs.ids, names)
    for name in names:
        # Another batch size may take another code path of the same matrix product.
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, rtol=0, err_msg=name)


def test_parts_in_any_order_make_the_same_bytes(world: Path, store: Path, tmp_path: Path) -> None:
    for part in ("3/3", "1/3", "2/3"):
        assert run(world, tmp_path / "s", extra=["--part", part]).exit_code == 0
    assert array_bytes(tmp_path / "s") == array_bytes(store)
    again = run(world, tmp_path / "s", extra=["--json"])
    assert json.loads(again.stdout)["n_computed"] == 0


def test_images_timesteps_and_layers_join_a_store(world: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    for name in ("sd", "clip", "injection.safetensors", "config.yaml"):
        os.symlink(world / name, tmp_path / "world" / name)
    pictures = tmp_path / "world" / "pictures"
    shutil.copytree(world / "pictures" / "one", pictures / "one")
    out = tmp_path / "s"
    few = ("extraction.timesteps=[195]", "extraction.layers=[s5]")
    assert run(tmp_path / "world", out, *few).exit_code == 0
    shutil.copytree(world / "pictures" / "two", pictures / "two")
    assert run(tmp_path / "world", out).exit_code == 0
    assert verify_store(out).sound
    grown, whole = FeatureStore.open(out), FeatureStore.open(store)
    assert grown.ids == whole.ids
    a, b = grown.read(whole.ids, list(whole.arrays)), whole.read(whole.ids, list(whole.arrays))
    for name in whole.arrays:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, rtol=0, err_msg=name)


def test_only_the_recipe_changes_the_fingerprint(world: Path, store: Path, tmp_path: Path) -> None:
    recipe = FeatureStore.open(store).recipe
    for i, item in enumerate(("extraction.injection=null", "extraction.seed=6")):
        changed = run(world, store, item)
        assert changed.exit_code == 1
        assert ("injection" if i == 0 else "seed") in changed.stderr
        assert "Traceback" not in changed.output
        assert run(world, tmp_path / str(i), item, "dataset.limit=1").exit_code == 0
        assert FeatureStore.open(tmp_path / str(i)).fingerprint != recipe.fingerprint
    shutil.copytree(world, tmp_path / "moved")
    moved = run(tmp_path / "moved", tmp_path / "s", "extraction.batch_size=2", "dataset.limit=2")
    assert moved.exit_code == 0
    assert FeatureStore.open(tmp_path / "s").fingerprint == recipe.fingerprint


def test_a_picture_that_cannot_be_decoded_is_quarantined(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pictures"
    tiny.write_images(root, 5)
    good = sorted(root.iterdir())
    tiny.truncate(good[1])
    long_text = PngInfo()
    long_text.add_text("prompt", "a" * 2**21, zip=True)
    Image.new("RGB", (20, 20), "red").save(root / "text.png", pnginfo=long_text)
    (root / "words.png").write_text("not a picture")
    (root / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("not even named like one")
    with monkeypatch.context() as older:  # a version that took a PNG's texts to Pillow
        older.setattr("pipeline.pictures.images.picture_chunks", lambda data: data)
        result = run(world, tmp_path / "s", f"dataset.root={root}", extra=["--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert set(report["quarantined"]) == {good[1].name, "words.png", "empty.jpg", "text.png"}
    assert all(report["quarantined"].values())
    assert any("notes.txt" in str(item) for item in report["skipped"])

    store = FeatureStore.open(tmp_path / "s")
    names = list(store.arrays)
    fine = [path.name for path in good if path != good[1]]
    assert all(v.isfinite().all() for v in store.read(fine, names).values())
    with pytest.raises(QuarantinedImage, match=r"words\.png"):
        store.read(["words.png"], names)
    row = store.ids.index("words.png")
    assert np.isnan(zarr.open_group(tmp_path / "s", mode="r")["sd/t195/s3"][row]).all()
    assert verify_store(tmp_path / "s").sound
    # Whole again, it is not taken into this store, and that is said.
    (root / "words.png").write_bytes(good[0].read_bytes())
    again = run(world, tmp_path / "s", f"dataset.root={root}", extra=["--json"])
    reasons = json.loads(again.stdout)["quarantined"]
    assert "changed since: a new store takes it" in reasons["words.png"]
    assert "this version reads it: a new store takes it" in reasons["text.png"]
    assert reasons["empty.jpg"] == report["quarantined"]["empty.jpg"]
    # The neighbours of a bad picture are what they are without it.
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in fine:
        shutil.copy(root / name, clean)
    assert run(world, tmp_path / "c", f"dataset.root={clean}").exit_code == 0
    a, b = store.read(fine, names), FeatureStore.open(tmp_path / "c").read(fine, names)
    for name in names:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, rtol=0, err_msg=name)


def test_a_file_that_changed_is_never_mixed_in(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    paths = tiny.write_images(root, 3)
    assert run(world, tmp_path / "s", f"dataset.root={root}").exit_code == 0
    before = array_bytes(tmp_path / "s")
    Image.new("RGB", (20, 20), "red").save(paths[0])
    result = run(world, tmp_path / "s", f"dataset.root={root}")
    assert result.exit_code == 1
    assert paths[0].name in result.stderr
    assert array_bytes(tmp_path / "s") == before


def test_a_vanished_or_replaced_picture_does_not_lock_the_store(
    world: Path, tmp_path: Path
) -> None:
    root = tmp_path / "pictures"
    paths = sorted(tiny.write_images(root, 6))
    sets = (f"dataset.root={root}", "extraction.shard_size=2")
    assert run(world, tmp_path / "s", *sets, extra=["--part", "1/3"]).exit_code == 0
    paths[2].unlink()  # listed, not yet computed
    Image.new("RGB", (20, 20), "red").save(paths[4])  # the same, but another picture now
    result = run(world, tmp_path / "s", *sets, extra=["--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert "no longer in the dataset" in report["quarantined"][paths[2].name]
    assert "changed" in report["quarantined"][paths[4].name]
    assert report["n_shards_pending"] == 0
    store = FeatureStore.open(tmp_path / "s")
    assert len(store.readable(store.arrays)) == 4
    # A picture repaired after its quarantine does not lock the others out either.
    tiny.write_images(root / "more", 1)
    assert run(world, tmp_path / "s", *sets).exit_code == 0
    assert len(FeatureStore.open(tmp_path / "s").readable(store.arrays)) == 5


def test_a_disk_that_fails_is_not_the_pictures_fault(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is tried again; what stays unreadable stops the job and quarantines nothing."""
    from pipeline.datasets.folder import FolderDataset

    root = tmp_path / "pictures"
    names = [path.name for path in sorted(tiny.write_images(root, 4))]
    failures = {names[1]: 1, names[3]: 99}
    scanned: set[str] = set()
    read = FolderDataset.read

    def flaky(self: FolderDataset, image_id: str) -> bytes:
        if image_id in scanned and failures.get(image_id, 0) > 0:
            failures[image_id] -= 1
            raise OSError(5, "Input/output error")
        scanned.add(image_id)
        return read(self, image_id)

    monkeypatch.setattr(FolderDataset, "read", flaky)
    sets = (f"dataset.root={root}", "extraction.shard_size=2")
    result = run(world, tmp_path / "s", *sets)
    assert result.exit_code == 1
    assert f"{names[3]}: cannot be read (Input/output error)" in result.stderr
    store = FeatureStore.open(tmp_path / "s")
    assert store.readable(store.arrays) == names[:2]
    assert store.quarantined == {}
    monkeypatch.undo()
    assert run(world, tmp_path / "s", *sets).exit_code == 0
    assert len(FeatureStore.open(tmp_path / "s").readable(store.arrays)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death signal is Linux's")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_decoding_processes_end_with_the_job(
    world: Path, tmp_path: Path, end: signal.Signals
) -> None:
    """Killed, or with its whole group as a scheduler does it."""
    command = [sys.executable, "-m", "cli", "precompute", str(world / "config.yaml")]
    command += ["--out", str(tmp_path / "s"), "--set", "extraction.ensemble=500"]
    command += ["--set", "extraction.workers=2", "--set", "extraction.batch_size=1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children: list[psutil.Process] = []
    while process.poll() is None and len(children) < 2:
        children = psutil.Process(process.pid).children()
        time.sleep(0.02)
    time.sleep(1.0)
    if end == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 143)
    assert "Traceback" not in stderr
    assert verify_store(tmp_path / "s").sound


def test_kill_at_any_moment_then_the_same_command(world: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments until it is done: every array file is as if nothing happened."""

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cli", "precompute", str(world / "config.yaml")]
        return subprocess.Popen(
            [*command, "--out", str(out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    out = tmp_path / "s"
    rng = random.Random(0)
    kills = 0
    while kills < 3:
        process = start(out)
        # Wait until the store is being written, so that the kill lands in the middle of it.
        before = set(out.rglob("*"))
        while process.poll() is None and set(out.rglob("*")) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        if out.exists():
            assert verify_store(out).sound
    assert kills > 0
    assert start(out).wait() == 0
    assert array_bytes(out) == array_bytes(tmp_path / "whole")
    assert not list(out.rglob("*.tmp*"))


def test_ctrl_c_and_sigterm_say_how_to_go_on(world: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "precompute", str(world / "config.yaml")]
    command += ["--out", str(tmp_path / "s"), "--set", "extraction.ensemble=500"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (tmp_path / "s" / "images.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stderr
        assert "the same command goes on" in stderr
        assert "Traceback" not in stderr
        assert verify_store(tmp_path / "s").sound
        shutil.rmtree(tmp_path / "s")


def test_an_error_ends_the_process_though_pictures_are_still_decoded(
    world: Path, tmp_path: Path
) -> None:
    script = """
import sys
from pathlib import Path
from configs import load_config
from pipeline.precompute import precompute

def fail(progress):
    raise RuntimeError("in the middle")

precompute(load_config(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]), listener=fail)
"""
    arguments = [str(world / "config.yaml"), str(tmp_path / "s")]
    arguments += ["extraction.workers=1", "extraction.batch_size=1"]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "in the middle" in done.stderr


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("int8", 8e-3)])
def test_narrow_stores_keep_the_numbers_to_their_precision(
    world: Path, store: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    assert run(world, tmp_path / "s", f"extraction.store_dtype={dtype}").exit_code == 0
    exact, narrow = FeatureStore.open(store), FeatureStore.open(tmp_path / "s")
    group = zarr.open_group(tmp_path / "s", mode="r")
    for name in ("sd/t195/s3", "clip/tokens"):
        expected = exact.read(exact.ids, [name])[name].numpy()
        plain = group[name][:].astype(np.float32)
        if dtype == "int8":
            plain = plain * group[f"{name}_scale"][:][:, :, None, None]
        largest = np.abs(expected).max(axis=(2, 3), keepdims=True)
        assert (np.abs(plain - expected) <= tolerance * largest).all()
        ours = narrow.read(exact.ids, [name])[name].float().numpy()
        np.testing.assert_allclose(ours, plain, atol=1e-6)
    for name in ("vae/latent", "clip/pooled"):  # float32 whatever the store's type
        np.testing.assert_array_equal(group[name][:], zarr.open_group(store, mode="r")[name][:])


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    tiny.save_tiny_sd(tmp_path / "sd")
    clip_json, clip_weights = tiny.save_tiny_clip(tmp_path / "clip", image_size=128)
    config = {
        "backbone": {
            "sd": {"source": "sd"},
            "clip": {"model": str(clip_json), "pretrained": str(clip_weights)},
            "resolution": 128,
        },
        "dataset": {"name": "shapes", "pixels": 32},
        "extraction": {
            "batch_size": 8,
            "shard_size": 16,
            "store_dtype": "float32",
            "device": "cpu",
            "workers": 0,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    peaks = []
    for size in (48, 304):
        arguments = ["precompute", str(tmp_path / "config.yaml"), "--set", f"dataset.size={size}"]
        arguments += ["--out", str(tmp_path / str(size))]
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    # 256 more images are 12 MiB of pixels and 24 MiB of features: keeping either would show.
    assert peaks[1] - peaks[0] < 10, f"peak memory {peaks} MiB"


def test_a_timestep_joins_from_stored_latents_with_the_same_bytes(
    world: Path, tmp_path: Path
) -> None:
    """Plain SD needs neither pictures nor VAE again; a quarantined picture stays quarantined."""
    root = tmp_path / "pictures"
    paths = tiny.write_images(root, 6)
    tiny.truncate(paths[2])
    plain = ("extraction.injection=null", f"dataset.root={root}")
    assert run(world, tmp_path / "whole", *plain).exit_code == 0
    assert run(world, tmp_path / "s", *plain, "extraction.timesteps=[195]").exit_code == 0
    assert run(world, tmp_path / "s", *plain).exit_code == 0
    assert array_bytes(tmp_path / "s") == array_bytes(tmp_path / "whole")
    commit = json.loads((tmp_path / "s" / "commits" / "000000.json").read_text())
    assert list(commit["quarantined"]) == [paths[2].name]
    assert set(commit["timings"]) == {"read", "compute", "write"}
