"""The page of a run: what stands in it, that it stands alone, and that its commands work."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heads.evaluation.evaluate import examine
from heads.evaluation.result import Evaluation
from heads.explain import Confusion, Findings
from heads.report.examples import confusion_section, examples_section
from heads.report.results import results_section
from heads.report.run import run_sections, write_run_report
from heads.report.training import reproduce_section
from heads.training.run import Run
from tests.heads.conftest import Runs
from tests.heads.report.page import Page
from tests.heads.worlds import World, assert_equal_weights, ok


def page_of(path: Path) -> Page:
    """A page that stands alone."""
    text = path.read_text(encoding="utf-8")
    assert len(text) < 3 * 2**20
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    return page


@pytest.fixture(scope="module")
def evaluated(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of recognition after its evaluation."""
    folder = tmp_path_factory.mktemp("evaluated") / "a <b> & 'c'"
    shutil.copytree(runs("recognition"), folder)
    ok("evaluate", folder)
    return folder


def test_training_ends_with_a_page(runs: Runs) -> None:
    folder = runs("retrieval")
    page = page_of(folder / "report.html")
    assert "Not evaluated yet" in page.text and f"sketchfusion evaluate {folder}" in page.text
    assert page.alts == ["learning curve"]
    store = json.loads((folder / "run.json").read_text())["stores"][0]
    assert store["fingerprint"] in page.text and store["recipe"]["unet"] in page.text
    assert "2 of 2" in page.text


def test_evaluation_fills_the_page(evaluated: Path) -> None:
    page = page_of(evaluated / "report.html")
    known = json.loads((evaluated / "evaluation.json").read_text())
    assert known["protocol"] in page.text
    for name in ("B-CLIP", "B-SD", "B-SD+CLIP", "global HOG", "chance"):
        assert name in page.text
    for metrics in (known["metrics"], known["chance"], *known["baselines"].values()):
        for value in metrics.values():
            assert f"{100 * value:.2f}" in page.text
    for line in known["notes"]:
        assert line in page.text
    assert page.alts == [
        "sketches with their likeliest classes",
        "confusion matrix",
        "mixing weights of the layers",
        "learning curve",
    ]
    assert "torch" in page.text and Run(evaluated).weights_digest() in page.text
    assert "Not evaluated" not in page.text


def test_names_are_escaped(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    assert "<b>" not in text and html.escape(evaluated.name) in text


def test_pictures_in_the_page_can_be_decoded(evaluated: Path) -> None:
    kinds = []
    for address in page_of(evaluated / "report.html").addresses:
        kind, _, content = address.partition(";base64,")
        data = base64.b64decode(content, validate=True)
        kinds.append(kind)
        if kind == "data:image/jpeg":
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        else:
            assert data.startswith(b"<?xml") and b"</svg>" in data
    assert kinds == ["data:image/jpeg", *["data:image/svg+xml"] * 3]


def test_the_commands_on_the_page_make_the_run_again(world: World, tmp_path: Path) -> None:
    world.train(tmp_path / "run", "task=fine_grained", "train.seed=3", "train.epochs=1")
    body = reproduce_section(Run(tmp_path / "run")).body
    (block,) = re.findall(r"<code>(.*?)</code>", body, re.DOTALL)
    commands = [shlex.split(html.unescape(line)) for line in block.splitlines()]
    assert [command[:2] for command in commands] == [
        ["sketchfusion", "precompute"],
        ["sketchfusion", "train"],
        ["sketchfusion", "evaluate"],
    ]
    for command in commands:
        ok(*command[1:])
    assert_equal_weights(tmp_path / "run", tmp_path / "run-again")


def test_a_cycle_is_done_again_from_its_first_step(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs("retrieval"), tmp_path / "run")
    shutil.copytree(runs("retrieval"), tmp_path / "run" / "live")
    body = html.unescape(reproduce_section(Run(tmp_path / "run")).body)
    assert f"sketchfusion train {tmp_path}/run/live/config.yaml" in body
    assert "--set train.cycle.epochs=2 --out" in body


def test_a_finished_run_keeps_the_page_of_its_evaluation(world: World, evaluated: Path) -> None:
    before = (evaluated / "report.html").read_bytes()
    ok(*world.command(evaluated, "task=recognition", extra=["--resume"]))
    assert (evaluated / "report.html").read_bytes() == before
    (evaluated / "report.html").unlink()
    ok(*world.command(evaluated, "task=recognition", extra=["--resume"]))
    assert "Not evaluated yet" in page_of(evaluated / "report.html").text
    (evaluated / "report.html").write_bytes(before)


@pytest.mark.parametrize("task", ["correspondence", "fine_grained", "segmentation"])
def test_examining_gives_the_sections_without_writing_a_page(
    runs: Runs, tmp_path: Path, task: str
) -> None:
    folder = shutil.copytree(runs(task), tmp_path / "run")
    before = (folder / "report.html").read_bytes()
    examined = examine(folder, floors=False)
    assert (folder / "report.html").read_bytes() == before
    sections = run_sections(examined.run, examined.evaluation, examined.findings)
    titles = [section.title for section in sections]
    assert titles == [
        "Results",
        "Examples",
        "Mixing weights",
        "Training",
        "Recipe and configuration",
    ]
    write_run_report(examined.run, examined.evaluation, examined.findings)
    page_of(folder / "report.html")


def test_a_page_that_cannot_be_written_does_not_fail_the_training(
    world: World, tmp_path: Path
) -> None:
    items = ("task=retrieval", "train.epochs=1")
    world.train(tmp_path / "run", *items)
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    result = world.train(tmp_path / "run", *items, extra=["--resume"])
    assert "report.html: not written" in result.stderr
    assert (tmp_path / "run" / "best.safetensors").is_file()


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "name": "ours",
        "task": "fine_grained",
        "protocol": "p",
        "variants": {"seed": "0"},
        "split": "test",
        "metrics": {"acc@1": 0.5, "acc@5": 0.75},
        "beside": {"acc@1 over categories": 0.25},
        "baselines": {"B-CLIP": {"acc@1": 0.1}},
        "missing": {"B-SD": "no store <here>"},
        "chance": {"acc@1": 0.02, "acc@5": 0.1},
        "paper": {"SketchFusion": {"acc@1": 0.3185}},
        "n": 1234,
        "stores": ["f"],
        "notes": ["a note"],
    }
    return Evaluation(**(values | changes))


def test_results_say_what_is_missing() -> None:
    body = results_section(evaluation()).body
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    cells = [re.sub(r"<[^>]+>", "|", row).split("|") for row in rows]
    flat = [[cell for cell in row if cell] for row in cells]
    assert flat == [
        ["acc@1", "acc@5"],
        ["this run: ours", "50.00", "75.00"],
        ["B-CLIP", "10.00", "-"],
        ["chance", "2.00", "10.00"],
        ["paper: SketchFusion", "31.85", "-"],
    ]
    assert "p (seed 0)" in body and "1,234 queries" in body and "a note" in body
    assert "no B-SD: no store &lt;here&gt;" in body and "acc@1 over categories: 25.00" in body


def test_missing_pictures_are_said_in_one_line() -> None:
    body = examples_section(Findings(missing="x.png: gone")).body
    assert "There are no pictures: x.png: gone." in body and "<img" not in body


def test_what_is_confused_most_is_named_first() -> None:
    counts = np.array([[5, 1, 0], [4, 2, 0], [0, 0, 3]])
    body = confusion_section(Confusion(("a", "b", "c"), counts)).body
    rows = re.findall(r"<th>(\w)</th><td>(\w)</td><td[^>]*>([^<]+)", body)
    assert rows == [("b", "a", "4 of 6"), ("a", "b", "1 of 6")]
    whole = confusion_section(Confusion(("a", "b"), np.eye(2, dtype=int))).body
    assert "Nothing was taken for anything else" in whole
