"""The tutorial and the quick starts work as they are written, on fewer pictures and epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.datasets.shapes_folder import write_pictures
from tests.docs.pages import DOCS, ROOT, Step, outputs, run_command, section, steps

NEEDS_WEIGHTS = "backbone=sd21-clip-l336"
"""What begins with a download, except that `plan` needs none."""


def smaller(words: list[str]) -> list[str]:
    """Arguments that make a command short: the last of several counts."""
    if "pipeline.datasets.shapes_folder" in words:
        return ["--instances", "3"]
    if words[1] == "train":
        return ["--set", "train.epochs=1", "--set", "train.width=32"]
    if "dataset.size=384" in words:
        return ["--set", "dataset.size=96"]
    return []


def follow(page: list[Step]) -> list[str]:
    """Do what a page says, in the working directory; the commands that were left out."""
    written, left_out = [], []
    for step in page:
        if step.kind == "file":
            Path(step.name).write_text(step.text)
        elif step.kind == "python":
            exec(compile(step.text.replace("size=384", "size=96"), "page", "exec"), {})
        elif NEEDS_WEIGHTS in step.text and not step.text.startswith("sketchfusion plan "):
            left_out.append(step.text)
        else:
            run_command(step.text, smaller)
            written += outputs(step.text) if " plan " not in step.text else []
    missing = [path for path in written if not path.exists()]
    assert written and not missing, missing
    return left_out


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial_runs_from_its_first_command_to_its_last(folder: Path) -> None:
    page = list(steps((DOCS / "tutorial.md").read_text(encoding="utf-8")))
    left_out = follow(page)
    assert [line.split()[1] for line in left_out] == ["precompute", "train"]
    used = {step.text.split()[1] for step in page if step.kind == "command"}
    assert used >= {"plan", "precompute", "cache", "plot", "train", "evaluate"}
    assert used >= {"retrieve", "match", "segment"}
    assert (folder / "runs/segmentation/report.html").is_file()


def test_the_tutorials_tables_are_those_of_the_executed_notebook() -> None:
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    printed = {
        line
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
    }
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    tables = [block for block in page.split("```") if " by held-out-3 " in block]
    assert len(tables) == 2
    for table in tables:
        lines = table.strip().splitlines()[1:]  # the fence's language
        assert len(lines) > 5
        assert set(lines) <= printed


def test_the_sites_quick_start_runs(folder: Path) -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert follow(list(steps(section(text, "Quick start")))) == []


def test_the_apis_few_lines_run(folder: Path) -> None:
    page = list(steps((DOCS / "api" / "index.md").read_text(encoding="utf-8")))
    assert [step.kind for step in page] == ["python"]
    exec(compile(page[0].text.replace("size=384", "size=96"), "page", "exec"), {})
    assert (folder / "runs/retrieval/report.html").is_file()


def test_the_readmes_quick_start_runs(folder: Path) -> None:
    write_pictures(folder / "pictures", n_categories=12, n_instances=3)
    shutil.copy(folder / "pictures/sketch/bird/000006-1.png", "sketch.png")
    text = section((ROOT / "README.md").read_text(encoding="utf-8"), "Your own pictures")
    # The file has its name in the text, and a backbone that would be downloaded.
    assert "write `mine.yaml`:\n\n```yaml\nbackbone: sd21-clip-l336 " in text
    text = text.replace("```yaml\n", '```yaml title="mine.yaml"\n').replace(
        "backbone: sd21-clip-l336 ", "backbone: nano "
    )
    assert follow(list(steps(text))) == []
