"""What the tutorial, the quick starts and the guide tell a reader to type works as it is written.

On fewer pictures and epochs, with the small backbone that is built in.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.datasets.shapes_folder import write_pictures
from tests.docs.pages import ROOT, Step, follow, page, run_command, section, steps

pytestmark = pytest.mark.guide

MINE = """
name: mine
backbone: nano
dataset: {name: folder, root: pictures}
"""
"""The `mine.yaml` of the pages that do not show one, on a laptop."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(folder: Path) -> Path:
    """What pages take for granted: pictures, some of them under other names, and `mine.yaml`."""
    write_pictures(folder / "pictures", n_categories=12, n_instances=3, pixels=192)
    shutil.copy("pictures/sketch/bird/000006-1.png", "sketch.png")
    shutil.copy("pictures/photo/bird/000006.png", "photo.jpg")
    shutil.copytree("pictures/photo/bird", "photos")
    shutil.copytree("pictures/sketch/bird", "sketches")
    Path("mine.yaml").write_text(MINE)
    return folder


def test_the_tutorial_runs_from_its_first_command_to_its_last(folder: Path) -> None:
    todo = steps(page("docs/tutorial.md"))
    left_out = follow(todo)
    assert [line.split()[1] for line in left_out] == ["precompute", "train"]
    used = {step.text.split()[1] for step in todo if step.kind == "command"}
    assert used >= {"plan", "precompute", "cache", "plot", "train", "evaluate"}
    assert used >= {"retrieve", "match", "segment"}
    assert (folder / "runs/segmentation/report.html").is_file()


def test_the_tutorials_tables_are_those_of_the_executed_notebook() -> None:
    printed = {
        line
        for cell in json.loads(page("docs/tutorial.ipynb"))["cells"]
        for output in cell.get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
    }
    tables = [
        block for block in page("docs/tutorial.md").split("```") if " by held-out-3 " in block
    ]
    assert len(tables) == 2
    for table in tables:
        lines = table.strip().splitlines()[1:]  # without the fence's language
        assert len(lines) > 5
        assert set(lines) <= printed


def test_the_sites_quick_start_runs(folder: Path) -> None:
    todo = steps(section(page("docs/index.md"), "Quick start"))
    assert len(todo) == 4 and follow(todo) == []


def test_the_apis_few_lines_run(folder: Path) -> None:
    todo = steps(page("docs/api/index.md"))
    assert [step.kind for step in todo] == ["python"] and follow(todo) == []
    assert (folder / "runs/retrieval/report.html").is_file()


def test_the_readmes_quick_start_runs(pictures: Path) -> None:
    text = section(page("README.md"), "Your own pictures")
    # The file has its name in the text, and a backbone that would be downloaded.
    assert "write `mine.yaml`:\n\n```yaml\nbackbone: sd21-clip-l336 " in text
    text = text.replace("```yaml\n", '```yaml title="mine.yaml"\n').replace(
        "backbone: sd21-clip-l336 ", "backbone: nano "
    )
    todo = steps(text)
    assert len(todo) >= 10 and follow(todo) == []


def test_the_guide_to_training_runs(folder: Path) -> None:
    todo = steps(page("docs/training.md"))
    assert len(todo) == 10 and follow(todo) == []
    assert (folder / "runs/live/injection.safetensors").is_file()


def test_the_guide_to_using_a_run_runs(pictures: Path) -> None:
    run_command("sketchfusion precompute shapes/retrieval --out stores/shapes")
    for task in ("correspondence", "retrieval", "segmentation"):
        run_command(f"sketchfusion train shapes/{task} --cache stores/shapes --out runs/{task}")
    # The page searches this store before it says how to make it.
    run_command("sketchfusion precompute mine.yaml --out stores/mine")
    own = "--set dataset=folder --set dataset.root=pictures --cache stores/mine"
    run_command(f"sketchfusion train shapes/recognition {own} --out runs/recognition")
    todo = steps(page("docs/use.md"))
    assert len(todo) == 11 and follow(todo) == []
    todo = steps(page("docs/serve.md"))
    assert len(todo) == 4 and follow(todo) == []


def test_exchange_and_repair_run(pictures: Path) -> None:
    run_command("sketchfusion precompute mine.yaml --out stores/mine")
    run_command("sketchfusion cache export stores/mine by-image.h5 --format hdf5-images")
    shutil.copytree("stores/mine", "before")
    first, last = [s for s in steps(page("docs/exchange.md")) if s.kind == "python"]
    commands = [s for s in steps(page("docs/exchange.md")) if s.kind == "command"]
    assert len(commands) == 3
    follow([*commands, last])
    # The page's id is made up, and its folder the one of another format.
    run_command("sketchfusion cache export stores/mine folder --format npy")
    code = first.text.replace("cat/1.png", "photo/cat/000001.png")
    follow([Step("python", code)])
    repair = steps(section(page("docs/reliability.md"), "Repair"))
    assert len(repair) == 3 and follow(repair) == []


def test_the_pages_on_what_is_built_in_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("docs/shapes.md", "docs/nano.md"):
        code = [step for step in steps(page(name)) if step.kind == "python"]
        assert len(code) == 1
        monkeypatch.chdir(ROOT)  # nano.md names files of the repository
        follow(code)
