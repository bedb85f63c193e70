"""Runs from before their protocol counted otherwise: evaluated, resumed, and told apart."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from heads.evaluation.evaluate import examine, is_evaluated, reopen
from heads.evaluation.result import Evaluation
from heads.evaluation.table import text_table
from heads.training import trainer
from heads.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from heads.training.run import Run
from heads.training.trainer import validate
from tests.heads.conftest import Runs
from tests.heads.worlds import World, assert_equal_weights, curve, ok

Change = Callable[[dict[str, Any]], object]
WAYS = ("sketch to photo", "photo to sketch")


def rewrite(path: Path, change: Change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def before_versions(folder: Path) -> None:
    """Make a run's documents those of a program that knew no versions of protocols."""
    for name in ("run.json", "evaluation.json"):
        if (folder / name).is_file():
            rewrite(folder / name, lambda document: document.pop("protocol_version"))


def version_notes(evaluation: Evaluation) -> list[str]:
    return [note for note in evaluation.notes if " is version " in note]


def test_an_old_run_gives_the_new_numbers_and_says_so(runs: Runs, tmp_path: Path) -> None:
    """Without training again, and whether or not it was evaluated by the old version."""
    folder = tmp_path / "run"
    shutil.copytree(runs("correspondence"), folder)
    assert json.loads((folder / "run.json").read_text())["protocol_version"] == 2
    expected = examine(folder, floors=False).evaluation
    assert expected.protocol_version == 2 and not version_notes(expected)
    assert "version 2" in text_table(expected).splitlines()[0]
    for name, value in expected.metrics.items():
        there, back = (expected.beside[f"{name} {way}"] for way in WAYS)
        assert value == pytest.approx((there + back) / 2)

    before_versions(folder)
    rewrite(folder / "evaluation.json", lambda document: document["metrics"].update({"pck@10": 1}))
    assert not is_evaluated(Run(folder))
    weights = (folder / "best.safetensors").read_bytes()
    printed = ok("evaluate", folder, "--no-floors").stdout
    (line,) = [line for line in printed.splitlines() if "version 2 now" in line]
    assert "mean of sketch to photo and photo to sketch" in line
    assert "not comparable" in line and "best weights were chosen by version 1" in line
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["metrics"] == expected.metrics and found["protocol_version"] == 2
    assert line in found["notes"] and line in html.unescape((folder / "report.html").read_text())
    assert is_evaluated(Run(folder))
    (folder / "evaluation.json").unlink()
    assert version_notes(examine(folder, floors=False).evaluation) == [line]
    assert (folder / "best.safetensors").read_bytes() == weights


def test_only_what_counts_otherwise_is_spoken_of(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs("retrieval"), folder)
    before_versions(folder)
    found = examine(folder, floors=False).evaluation
    assert found.protocol_version == 1 and not version_notes(found)
    assert "version" not in text_table(found).splitlines()[0]
    # By p-min, its weights are chosen by another metric than the one that is counted otherwise.
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["variants"] = {"precision": "p-min"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (note,) = version_notes(examine(folder, floors=False).evaluation)
    assert "version 1 cut it at K" in note and "weights" not in note
    rewrite(folder / "run.json", lambda document: document.update(protocol_version=7))
    (note,) = version_notes(examine(folder, floors=False).evaluation)
    assert "is version 2 here, not 7" in note


@pytest.mark.parametrize("version", ["2", None, 0, -1, True, 1.5, [2]])
def test_a_version_that_is_no_count_is_the_first(
    runs: Runs, tmp_path: Path, version: object
) -> None:
    shutil.copy(runs("retrieval") / "run.json", tmp_path)
    rewrite(tmp_path / "run.json", lambda document: document.update(protocol_version=version))
    assert Run(tmp_path).protocol_version() == 1


def test_a_resumed_run_compares_validations_of_one_version(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A best result that only the old count could give must not outlive the change."""

    class Died(BaseException):
        pass

    saved = trainer._save

    def die_after_two(*arguments: Any) -> None:
        saved(*arguments)
        if arguments[4].epoch == 2:
            raise Died

    items = ("task=correspondence", "train.epochs=3", "train.patience=2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    world.train(whole, *items)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_save", die_after_two)
        with pytest.raises(Died):
            world.train(stopped, *items)
    before_versions(stopped)
    last = load_checkpoint(stopped / "last.safetensors")
    facts = {**last.facts, "best": 1.0}
    save_checkpoint(stopped / "last.safetensors", Checkpoint(last.tensors, facts))
    result = ok(*world.command(stopped, *items, extra=["--resume"]))
    (line,) = [line for line in result.stderr.splitlines() if "version 2 now" in line]
    run = Run(stopped)
    best = {e["epoch"]: e["validation"]["pck@10"] for e in curve(stopped) if "validation" in e}
    known = load_checkpoint(run.last).facts
    assert known["best"] == pytest.approx(max(best.values())) and known["best"] < 1
    assert f"{100 * max(best[1], best[2]):.2f} pck@10" in line
    assert_equal_weights(whole, stopped)
    learner = reopen(run, lambda line: None).learner
    assert validate(learner)["pck@10"] == pytest.approx(known["best"])
    # A finished run is left as it is, and `evaluate` still says how it was begun.
    again = ok(*world.command(stopped, *items, extra=["--resume"]))
    assert "version 2 now" not in again.stderr
    assert version_notes(examine(stopped, floors=False).evaluation)
