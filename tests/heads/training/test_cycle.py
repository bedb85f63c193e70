"""The whole cycle by one configuration: live training, precompute, the head on the new cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cache import FeatureStore, verify_store
from configs import load_config
from heads.training import cycle
from heads.training.checkpoint import Checkpoint, save_checkpoint
from heads.training.cycle import train_cycle
from heads.training.run import Run
from pipeline.networks.injection import open_injection
from tests.heads.worlds import (
    World,
    assert_equal_weights,
    complaint,
    ok,
    weights,
)

ITEMS = (
    "task=retrieval",
    "dataset.size=96",
    "extraction.shard_size=16",
    "extraction.batch_size=16",
    "train.batch_size=20",
    "train.injection.sites=[down.3, up.0]",
    "train.cycle.epochs=2",
    "train.checkpoint_minutes=0",
)


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cycle that nothing interrupted."""
    out = tmp_path_factory.mktemp("cycle") / "run"
    result = world.train(out, *ITEMS)
    lines = [line for line in result.stderr.splitlines() if line[:3] in ("1/3", "2/3", "3/3")]
    assert [line[:3] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "features: live" in result.stderr and "features: cached" in result.stderr
    return out


def test_the_last_run_reads_the_store_of_the_first_ones_injection(
    world: World, whole: Path
) -> None:
    store = FeatureStore.open(whole / "store")
    injection = open_injection(whole / "live" / "injection.safetensors")
    assert store.recipe.fields["injection"] == injection.digest()
    assert injection.sites == ("down.3", "up.0")
    assert verify_store(whole / "store").sound
    facts = json.loads((whole / "run.json").read_text())
    assert [entry["fingerprint"] for entry in facts["stores"]] == [store.fingerprint]
    assert Run(whole).image_ids() == Run(whole / "live").image_ids()
    assert (whole / "split.json").read_text() == (whole / "live" / "split.json").read_text()


def test_the_head_goes_on_from_the_live_one(whole: Path, tmp_path: Path, world: World) -> None:
    """With a step too small to move it, it ends where it began."""
    still = ("train.learning_rate=1.0e-30", "train.final_learning_rate=0", "train.weight_decay=0")
    world.train(tmp_path / "run", *ITEMS, *still, "train.injection.learning_rate=0.01")
    ours, live = weights(tmp_path / "run")["last"], weights(tmp_path / "run" / "live")["best"]
    head = {name: value for name, value in live.items() if not name.startswith("front.")}
    assert head
    for name, value in head.items():
        torch.testing.assert_close(ours[f"model.{name}"], value, atol=1e-6, rtol=0)
    assert not [name for name in ours if "front" in name]


def test_plain_sd_is_read_from_the_first_store(world: World, whole: Path) -> None:
    found = json.loads(ok("evaluate", whole, "--json").stdout)
    assert {"B-SD", "B-CLIP", "B-SD+CLIP"} <= found["baselines"].keys()
    world.train(whole.parent / "plain", "task=retrieval", "dataset.size=96")
    plain = json.loads(ok("evaluate", whole.parent / "plain", "--json").stdout)
    assert plain["baselines"]["B-SD"] == found["baselines"]["B-SD"]
    plain_store = FeatureStore.open(world.store).fingerprint
    assert found["stores"] == [FeatureStore.open(whole / "store").fingerprint, plain_store]


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("step", "at"), [(1, 3), (2, 1), (3, 0), (3, 2)])
def test_killed_in_any_step_it_ends_the_same(
    world: World,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    at: int,
) -> None:
    out = tmp_path / "run"
    config = load_config(world.config, ITEMS)
    n_saved = 0

    def saved(path: Path, checkpoint: Checkpoint) -> None:
        nonlocal n_saved
        mine = path.parent == (out / "live" if step == 1 else out)
        if step in (1, 3) and mine and path.name == "last.safetensors":
            if n_saved == at:
                raise Died
            n_saved += 1
        save_checkpoint(path, checkpoint)

    def watched(progress: Any) -> None:
        if step == 2 and progress.shards >= at:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr("heads.training.trainer.save_checkpoint", saved)
        with pytest.raises(Died):
            train_cycle(config, [world.store], out, False, images=watched)
    assert "--resume" in complaint(*world.command(out, *ITEMS))
    n_precomputed = []

    def noted(progress: Any) -> None:
        n_precomputed.append(progress.done)

    train_cycle(config, [world.store], out, True, images=noted)
    assert_equal_weights(out / "live", whole / "live")
    assert_equal_weights(out, whole)
    assert verify_store(out / "store").sound
    # What was committed is not computed again.
    assert bool(n_precomputed) is (step < 3)
    if step == 2:
        assert n_precomputed[-1] < 96


def test_a_finished_cycle_is_left_as_it_is(world: World, whole: Path) -> None:
    before = {p: p.read_bytes() for p in whole.rglob("*.safetensors")}
    world.train(whole, *ITEMS, extra=["--resume"])
    assert {p: p.read_bytes() for p in whole.rglob("*.safetensors")} == before
    assert "holds a run already" in complaint(*world.command(whole, *ITEMS))
    line = complaint(*world.command(whole, *ITEMS, "train.cycle.epochs=3", extra=["--resume"]))
    assert "epochs" in line


def test_a_prefix_is_not_computed_for_the_last_store(world: World, tmp_path: Path) -> None:
    """It is for training the injection, which is over."""
    config = load_config(world.config, [*ITEMS, "extraction.prefix=down.3"])
    asked = cycle.cached_config(config, tmp_path / "i.safetensors", [])
    assert asked.extraction.prefix is None
    assert asked.train.injection.sites == () and asked.train.cycle.epochs == 0
    assert asked.train.epochs == 2


def test_a_folder_of_something_else_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in complaint(*world.command(tmp_path, *ITEMS))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_cycle_without_a_trained_injection_is_refused(world: World, tmp_path: Path) -> None:
    items = ("task=retrieval", "train.cycle.epochs=1")
    assert "train.injection.sites" in complaint(*world.command(tmp_path / "run", *items))
    assert not (tmp_path / "run").exists()
