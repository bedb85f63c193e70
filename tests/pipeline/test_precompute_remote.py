"""Both stages from the command line on a store in object storage: killed, in parts, read back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cache import FeatureStore, verify_store
from tests.heads.worlds import ROOT, World, complaint, ok, sets
from tests.object_store import new_place, objects, remote, s3_server

pytest.importorskip("s3fs")
pytest.importorskip("moto")

SMALL = sets("dataset.size=96", "extraction.shard_size=16", "extraction.batch_size=16")


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log"):
        yield


@pytest.fixture(scope="module")
def local(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "store"
    ok("precompute", world.config, "--out", out, *SMALL)
    return out


def arrays(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.startswith("commits/")}


def assert_equal(url: str, local: Path) -> None:
    """The same objects as a local store has files, and all but commits and the root document,
    which hold timings and provenance, with the same bytes."""
    files = {f.relative_to(local).as_posix(): f for f in local.rglob("*") if f.is_file()}
    there = objects(url)
    assert there.keys() == files.keys() - {".lock"}
    for name, data in arrays(there).items():
        assert data == files[name].read_bytes(), name


def start(world: World, url: str, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli", "precompute", world.config, "--out", url]
    return subprocess.Popen(
        [*map(str, command), *SMALL, *extra],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def n_commits(url: str) -> int:
    return sum(name.startswith("0") for name in (remote(url) / "commits").entries())


def test_killed_at_random_then_the_same_command(world: World, local: Path) -> None:
    url = new_place("s3")
    chance = random.Random(0)
    kills = 0
    for _ in range(2):
        process = start(world, url)
        before = n_commits(url)
        while process.poll() is None and n_commits(url) == before:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert verify_store(url).problems == ()
    assert kills >= 1 and n_commits(url) > 0
    result = ok("precompute", world.config, "--out", url, *SMALL)
    assert url in result.stdout
    assert_equal(url, local)
    again = json.loads(ok("precompute", world.config, "--out", url, *SMALL, "--json").stdout)
    assert again["n_computed"] == 0 and again["store"] == url


def test_ctrl_c_keeps_what_is_committed(world: World, local: Path) -> None:
    url = new_place("s3")
    process = start(world, url)
    while process.poll() is None and n_commits(url) == 0:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143 and "the same command goes on" in output
    assert verify_store(url).sound
    ok("precompute", world.config, "--out", url, *SMALL)
    assert_equal(url, local)


def test_parts_at_once_and_a_part_that_is_given_twice(world: World, local: Path) -> None:
    url = new_place("s3")
    parts = [start(world, url, "--part", part) for part in ("1/2", "2/2", "2/2")]
    for process in parts:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert_equal(url, local)


def test_workers_write_where_all_of_them_see_it(world: World, local: Path) -> None:
    url = new_place("s3")
    process = start(world, url, "--workers", "2")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_equal(url, local)
    line = complaint("precompute", world.config, "--out", "memory://a/b", "--workers", "1", *SMALL)
    assert "other processes do not see it" in line


def test_stage_two_reads_it_and_gives_the_same_numbers(
    world: World, local: Path, tmp_path: Path
) -> None:
    url = new_place("s3")
    plan = ok("plan", world.config, "--out", url, *SMALL, "--json")
    assert json.loads(plan.stdout)["bytes_free"] is None
    assert f"needed, at {url}" in ok("plan", world.config, "--out", url, *SMALL).stdout
    ok("precompute", world.config, "--out", url, *SMALL)
    train = ["train", world.config, *SMALL, *sets("task=retrieval", "train.epochs=1")]
    ok(*train, "--cache", url, "--out", tmp_path / "remote")
    ok(*train, "--cache", local, "--out", tmp_path / "local")
    weights = [(tmp_path / run / "best.safetensors").read_bytes() for run in ("remote", "local")]
    assert weights[0] == weights[1]
    # The run remembers the place.
    found = [json.loads(ok("evaluate", tmp_path / r, "--json").stdout) for r in ("remote", "local")]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert url in (tmp_path / "remote" / "report.html").read_text()
    configured = sets(f"train.caches=[{url}]")
    ok(*train, *configured, "--out", tmp_path / "configured")
    sketch = tmp_path / "sketch.png"
    Image.new("RGB", (40, 40), "white").save(sketch)
    hits = ok("retrieve", tmp_path / "remote", sketch, "--gallery", url, "--json")
    assert json.loads(hits.stdout)


def test_the_cache_commands(world: World, local: Path, tmp_path: Path) -> None:
    url = new_place("s3")
    ok("precompute", world.config, "--out", url, *SMALL)
    assert "sound" in ok("cache", "verify", url).stdout
    assert "sound" in ok("cache", "verify", url, "--fast").stdout
    info = json.loads(ok("cache", "info", url, "--json").stdout)
    assert info["path"] == url and info["n_committed"] == 96
    assert url in ok("cache", "ls", url.rpartition("/")[0]).stdout
    assert "sd/t195/s3" in ok("cache", "stats", url, "--array", "sd/t195/s3").stdout
    ok("cache", "export", url, tmp_path / "x.h5")
    ok("cache", "import", tmp_path / "x.h5", "--out", f"{url}-copy")
    assert FeatureStore.open(f"{url}-copy").fingerprint == info["fingerprint"]
    ok("plot", "spectrum", url, "--out", tmp_path / "s.png")
    assert "local stores" in complaint("cache", "repair", url, world.config)
    assert "local stores" in complaint("cache", "prune", url, "--timestep", "195", "--yes")


@pytest.mark.parametrize(
    ("place", "environment", "says"),
    [
        ("nowhere://a/b", {}, "no protocol nowhere"),
        ("s3://missing-bucket/b", {}, "make the bucket first"),
        ("gs://a/b", {}, "gcsfs"),
        ("s3://bucket/b", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS_ENDPOINT_URL"),
        (
            "s3://bucket/b",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "set AWS_ACCESS_KEY_ID",
        ),
    ],
)
def test_bad_places_are_one_line(
    tmp_path: Path, place: str, environment: dict[str, str], says: str
) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    env = {k: v for k, v in env.items() if k not in environment}
    env |= {name: value for name, value in environment.items() if value}
    result = subprocess.run(
        [sys.executable, "-m", "cli", "cache", "info", place],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ") and says in line and place in line
