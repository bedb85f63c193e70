"""`train` and `evaluate` as commands: what they print, and bad input in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs import load_config
from pipeline.networks.backbone import load_backbone
from pipeline.networks.injection import load_injection
from tests.heads.worlds import World, complaint, ok, run, sets

BASE = ("task=retrieval", "dataset.size=96", "train.epochs=1")


def test_results_go_to_standard_output_and_progress_to_standard_error(
    world: World, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = world.train(out, *BASE, extra=["--json"])
    report = json.loads(result.stdout)
    assert report["run"] == str(out)
    assert (report["epochs"], report["monitor"]) == (1, "map@all")
    assert report["injection"] is None and 0 <= report["best"] <= 1
    assert "features: cached in" in result.stderr
    again = world.train(out, *BASE, extra=["--resume"]).stdout
    assert f"next: sketchfusion evaluate {out}" in again
    assert f"{100 * report['best']:.2f} in epoch 1" in again
    scores = ok("evaluate", out, "--json")
    assert json.loads(scores.stdout)["task"] == "retrieval"
    assert "evaluating" in scores.stderr


def test_without_out_a_run_is_named_after_configuration_and_task(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ok("train", world.config, "--cache", world.store, *sets(*BASE))
    assert (tmp_path / "runs" / "shapes-retrieval" / "best.safetensors").is_file()
    ok("evaluate", "runs/shapes-retrieval", "--no-floors")


@pytest.mark.parametrize(
    ("sites", "written"),
    [("all", 7), ("[up.0, down.3]", 2)],
)
def test_the_trained_injection_is_a_file_that_precompute_reads(
    world: World, tmp_path: Path, sites: str, written: int
) -> None:
    live = world.train(tmp_path / "live", *BASE, f"train.injection.sites={sites}")
    assert "features: live" in live.stderr
    path = tmp_path / "live" / "injection.safetensors"
    assert f"--set extraction.injection={path}" in live.stdout
    backbone = load_backbone(load_config(world.config).backbone)
    injection = load_injection(path, backbone.clip.width, backbone.channels)
    assert len(injection.sites) == written
    # From zero every trained tensor has moved.
    assert all(bool(value.abs().max() > 0) for value in injection.state().values())
    item = f"extraction.injection={path}"
    store = world.precompute(tmp_path / "store", "dataset.size=96", item)
    result = ok(*world.command(tmp_path / "run", *BASE, item, store=store))
    assert "features: cached" in result.stderr
    # Either is refused where the other belongs.
    assert "injection" in complaint(*world.command(tmp_path / "a", *BASE, item))
    assert "injection" in complaint(*world.command(tmp_path / "b", *BASE, store=store))
    # To train on, any store of these images will do: latents know nothing of injection.
    ok(*world.command(tmp_path / "c", *BASE, "train.injection.sites=up", store=store))


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["task=null"], "no task"),
        (["train.protocol=sketchy-104-22"], "did you mean 'sketchy-104-21'"),
        (["train.protocol=nonsense"], "choose from"),
        (["train.protocol=3"], "train.protocol"),
        (["train.protocol=held-out-0"], "no protocol"),
        (["train.protocol=held-out-40"], "hold fewer apart"),
        (["train.variants.app=ap-voc"], "no option 'app'"),
        (["train.variants.ap=voc"], "ap-voc"),
        (["train.variants.ap=[ap-voc]"], "ap-voc"),
        (["train.variants.fold=2"], "no option 'fold'"),
        (["train.variants.name=x"], "no option 'name'"),
        (["train.variants.task=x"], "no option 'task'"),
        (["train.variants.split=x"], "no option 'split'"),
        (["train.variants.seed=x"], "whole number"),
        (["train.variants.a.b=x"], "no option 'a'"),
        (["train.variants=x"], "train.variants"),
        (["train.protocol=held-out-2", "train.variants.unseen=cat"], "list of 2"),
        (["train.protocol=held-out-2", "train.variants.unseen=[cat]"], "must list 2"),
        (["train.protocol=held-out-2", "train.variants.unseen=[1, 2]"], "list of 2"),
        (["train.protocol=held-out-2", "train.variants.unseen=[cat, unicorn]"], "unicorn"),
        (["train.protocol=held-out-2", "train.variants.seed=[1]"], "whole number"),
        (["task=recognition", "train.protocol=tuberlin-3-fold", "train.variants.fold=4"],
         "1 to 3"),
        (["task=recognition", "train.protocol=tuberlin-3-fold", "train.variants.fold=two"],
         "whole number"),
        (["dataset.root=nowhere", "dataset.name=folder", "dataset.size=null",
          "dataset.pixels=null"], "nowhere"),
        (["dataset.name=shape"], "shapes"),
        (["extraction.injection=nowhere.safetensors"], "nowhere.safetensors"),
        (["train.injection.sites=all", "backbone.sd.source=nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_no_folder(
    world: World, tmp_path: Path, items: list[str], says: str
) -> None:
    line = complaint(*world.command(tmp_path / "run", *BASE, *items))
    assert says in line
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_a_file_or_cannot_be_written_is_one_line(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in complaint(*world.command(tmp_path / "file", *BASE))
    assert "file" in complaint(*world.command(tmp_path / "file" / "run", *BASE))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    line = complaint(*world.command(tmp_path, *BASE))
    assert str(tmp_path) in line and "not a run" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    # An empty folder is as good as none.
    (tmp_path / "empty").mkdir()
    world.train(tmp_path / "empty", *BASE)


def test_the_presets_train_by_their_names(tmp_path: Path) -> None:
    """`shapes/retrieval` on the built-in backbone, as the guide shows it."""
    small = sets("dataset.size=96", "extraction.workers=0", "backbone.weights=random")
    result = run("precompute", "shapes/retrieval", "--out", tmp_path / "store", *small)
    assert result.exit_code == 0, result.output
    ok("train", "shapes/retrieval", *small, *sets("train.epochs=1", "train.device=cpu"),
       "--cache", tmp_path / "store", "--out", tmp_path / "run")  # fmt: skip
    assert json.loads(ok("evaluate", tmp_path / "run", "--json").stdout)["n"] == 16


def test_the_second_unseen_set_needs_one_more_key(world: World, tmp_path: Path) -> None:
    """A store of the default world grows by the new categories' images alone."""
    second = ("dataset.size=96", "dataset.unseen=second")
    shutil.copytree(world.store, tmp_path / "store")
    store = ok("precompute", world.config, *sets(*second), "--out", tmp_path / "store", "--json")
    assert json.loads(store.stdout)["n_computed"] == 24
    ok("train", world.config, *sets(*BASE, *second), "--cache", tmp_path / "store",
       "--out", tmp_path / "run")  # fmt: skip
    result = json.loads(ok("evaluate", tmp_path / "run", "--json").stdout)
    assert (result["protocol"], result["n"]) == ("shapes-24-10", 16)
    # Nothing that training sees has changed, so neither has the head.
    world.train(tmp_path / "first", *BASE)
    heads = [load_file(tmp_path / name / "best.safetensors") for name in ("run", "first")]
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
