"""Runs whose files say something else than a run writes: one line, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from heads.training.checkpoint import load_checkpoint
from tests.heads.worlds import World, complaint, ok

BASE = ("task=retrieval", "dataset.size=96", "train.epochs=1")


def change_facts(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a checkpoint with other facts, and the same tensors."""
    facts = dict(load_checkpoint(file).facts)
    change(facts)
    with safe_open(str(file), framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, str(file), metadata={"sketchfusion": json.dumps(facts)})


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    world.train(out, *BASE)
    return out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "3"), ("step", None), ("step", -1), ("step", 1.5), ("step", True),
        ("epoch", []), ("best", "high"), ("best", {}), ("best_epoch", 0.5), ("n_worse", None),
        ("finished", "yes"), ("finished", 1), ("seconds", "long"), ("seconds", None),
        ("scaler", []), ("other", 1), ("step", ...),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_say_how_far_it_is(
    world: World, trained: Path, name: str, value: object
) -> None:
    last = trained / "last.safetensors"
    before = last.read_bytes()
    try:
        change_facts(last, lambda f: f.pop(name) if value is ... else f.update({name: value}))
        line = complaint(*world.command(trained, *BASE, extra=["--resume"]))
    finally:
        last.write_bytes(before)
    assert "last.safetensors" in line and f"({name})" in line and "another folder" in line


def test_the_untouched_run_resumes(world: World, trained: Path) -> None:
    change_facts(trained / "last.safetensors", lambda facts: facts.update(seconds=0))
    ok(*world.command(trained, *BASE, extra=["--resume"]))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "white").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    ("task", "key", "command"),
    [("segmentation", "numbers", "segment"), ("recognition", "classes", "classify")],
)
def test_fitted_numbers_that_are_missing(
    world: World, tmp_path: Path, picture: Path, task: str, key: str, command: str
) -> None:
    run = tmp_path / "run"
    world.train(run, f"task={task}", "train.epochs=1")
    fitted = run / "fitted.json"
    whole = fitted.read_text()
    document = json.loads(whole)
    fitted.write_text(json.dumps({**document, key: type(document[key])()}))
    pictures = [picture] if command == "classify" else [picture, picture]
    line = complaint(command, run, *pictures)
    assert "fitted.json" in line and f"`sketchfusion evaluate {run}`" in line
    ok("evaluate", run, "--no-floors")  # It does as the line says.
    assert fitted.read_text() == whole
    ok(command, run, *pictures)


@pytest.mark.parametrize("command", ["segment", "classify"])
def test_another_task_is_refused_before_anything_is_loaded(
    trained: Path, picture: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*args: object) -> None:
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr("heads.use.opening.load_networks", loaded)
    pictures = [picture] if command == "classify" else [picture, picture]
    line = complaint(command, trained, *pictures)
    needed = "recognition" if command == "classify" else "segmentation"
    assert f"is a run of retrieval; this needs one of {needed}" in line
