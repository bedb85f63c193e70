"""Which stores a configuration reads: named, found, several, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cache import FeatureStore
from configs import load_config
from heads.training.reading import configured_arrays
from tests import tiny
from tests.heads.worlds import (
    World,
    assert_equal_weights,
    complaint,
    ok,
    run,
    sets,
    write_config,
)

RETRIEVAL = ("task=retrieval", "dataset.size=96")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(world: World, *items: str) -> list[str | Path]:
    """`train` without --cache."""
    return ["train", world.config, "--out", Path("run"), *sets(*RETRIEVAL, *items)]


def test_the_store_that_fits_is_found(world: World, nowhere: Path) -> None:
    line = complaint(*train(world))
    assert "no store under stores/" in line and "sketchfusion precompute" in line
    assert not Path("run").exists()
    (nowhere / "stores").mkdir()
    assert "no store under stores/" in complaint(*train(world))
    (nowhere / "stores" / "plain").symlink_to(world.store)
    tiny.save_injection(nowhere / "some.safetensors")
    injected = ("dataset.size=24", "extraction.injection=some.safetensors")
    world.precompute(nowhere / "stores" / "injected", *injected)
    shutil.copytree(nowhere / "stores" / "injected", nowhere / "stores" / "broken")
    (nowhere / "stores" / "broken" / "zarr.json").write_text("{")
    result = ok(*train(world))
    assert "stores/plain" in result.stderr and "stores/injected" not in result.stderr


def test_several_that_fit_are_named(world: World, nowhere: Path) -> None:
    (nowhere / "stores").mkdir()
    for name in ("one", "two"):
        shutil.copytree(world.store, nowhere / "stores" / name)
    line = complaint(*train(world))
    assert "several stores fit" in line and "stores/one" in line and "stores/two" in line
    ok(*train(world), "--cache", "stores/two")


def test_a_store_of_other_images_does_not_fit(world: World, nowhere: Path) -> None:
    (nowhere / "stores").mkdir()
    (nowhere / "stores" / "plain").symlink_to(world.store)
    tiny.write_images(nowhere / "pictures" / "photo" / "a", 2)
    tiny.write_images(nowhere / "pictures" / "sketch" / "a", 2)
    dataset = "dataset={name: folder, root: pictures}"
    assert "no store under stores/" in complaint(
        "train", world.config, *sets("task=retrieval", dataset)
    )
    named = complaint(
        "train", world.config, "--cache", world.store, *sets("task=retrieval", dataset)
    )
    assert "photo" in named or "images" in named


def test_caches_of_the_configuration_are_read(world: World, nowhere: Path) -> None:
    result = ok(*train(world, f"train.caches=[{world.store}]"))
    assert f"cached in {world.store}" in result.stderr
    other = ["--out", "other", "--cache", "gone"]
    line = complaint(*train(world, f"train.caches=[{world.store}]"), *other)
    assert "gone" in line


def test_a_collection_over_two_stores_is_read_as_one(world: World, nowhere: Path) -> None:
    """The same run from halves, whichever is named first; an image in both is read once."""
    pictures = nowhere / "pictures"
    for category in "abcd":
        for domain in ("photo", "sketch"):
            tiny.write_images(pictures / domain / category, 3, seed=ord(category) + len(domain))
    dataset = {"name": "folder", "root": str(pictures)}
    config = write_config(nowhere / "c.yaml", world.root, dataset, batch_size=4)
    # One by one: another batch may round differently.
    single = sets("extraction.batch_size=1")
    ok("precompute", config, "--out", "whole", *single)
    # Ids are relative to the root, so halves are made of folders with the same names.
    for half, others in (("first", "cd"), ("second", "ab")):
        part = nowhere / half / "pictures"
        shutil.copytree(pictures, part)
        for domain in ("photo", "sketch"):
            for category in others:
                shutil.rmtree(part / domain / category)
        ok("precompute", config, "--out", f"{half}/store", *single, *sets(f"dataset.root={part}"))
    base = ["train", config, *sets("task=retrieval"), "--out"]
    ok(*base, "a", "--cache", "whole")
    ok(*base, "b", "--cache", "first/store", "--cache", "second/store")
    ok(*base, "c", "--cache", "second/store", "--cache", "whole", "--cache", "first/store")
    for other in "bc":
        assert_equal_weights(Path(other), Path("a"))
    assert len(json.loads(Path("b/run.json").read_text())["stores"]) == 2
    results = [json.loads(ok("evaluate", name, "--json").stdout) for name in "abc"]
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    assert results[0]["baselines"] == results[1]["baselines"]
    # One half alone is another, smaller collection.
    ok(*base, "d", "--cache", "first/store", *sets("train.protocol=held-out-1"))
    assert len(json.loads(ok("evaluate", "d", "--json").stdout)["stores"]) == 1


def test_what_the_extraction_lacks_is_named(world: World, nowhere: Path) -> None:
    def refused(*items: str) -> str:
        return complaint(*world.command(Path("run"), *RETRIEVAL, *items))

    assert "train.timesteps: 7" in refused("train.timesteps=[7]")
    assert "train.layers: s4" in refused("extraction.layers=[s3]", "train.layers=[s4]")
    assert "sd/t7/s3" in refused("extraction.timesteps=[7, 195]")
    assert "dino/tokens" in refused("train.features=dino")
    assert not Path("run").exists()
    some = load_config(world.config, ["train.layers=s4", "train.features=[clip, sd]"])
    assert configured_arrays(some) == ["clip/tokens", "sd/t195/s4"]
    ok(*world.command(Path("run"), *RETRIEVAL, "train.layers=s4", "train.features=sd"))


def test_images_that_are_not_there_yet_are_left_out(world: World, nowhere: Path) -> None:
    """A store that is still being written, or quarantined a picture, gives what it has."""
    store = nowhere / "store"
    ok("precompute", world.config, "--out", store, "--part", "1/4")
    n_ready = len(FeatureStore.open(store).readable(["sd/t195/s3"]))
    assert 0 < n_ready < 192
    result = run(*world.command(Path("run"), "task=recognition", store=store))
    if result.exit_code == 0:
        assert len(Path("run/images.txt").read_text().splitlines()) == n_ready
    else:
        assert "Error: recognition" in result.stderr


@pytest.mark.parametrize("name", ["nowhere", "folder", "file"])
def test_what_is_no_store_is_one_line(world: World, nowhere: Path, name: str) -> None:
    (nowhere / "folder").mkdir()
    (nowhere / "file").write_text("no store")
    line = complaint(*world.command(Path("run"), *RETRIEVAL, store=Path(name)))
    assert name in line
