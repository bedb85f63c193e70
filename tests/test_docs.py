"""What README and docs tell a reader to type exists; what they link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from cli import main
from configs import load_config, preset_names
from heads.protocols.paper import paper_numbers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented_commands() -> list[str]:
    """Every `sketchfusion …` in a code block or in backquotes, without its comment."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += re.findall(r"^(?: {4}|\$ )?(sketchfusion [^#\n`]+)", text, re.MULTILINE)
        found += re.findall(r"`(sketchfusion [^`\n]+)`", text)
    return sorted({" ".join(command.split()) for command in found})


def test_the_readme_names_commands() -> None:
    assert len(documented_commands()) >= 5


@pytest.mark.parametrize("line", documented_commands())
def test_a_documented_command_exists_with_its_options(line: str) -> None:
    # [--option VALUE] is how an optional part is written in a table.
    words = shlex.split(line.replace("[", "").replace("]", "").replace("…", ""))[1:]
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        name = words.pop(0).rstrip(",")
        assert name in command.commands, f"{line}: no command {name}"
        command = command.commands[name]
    options = {option for param in command.params for option in param.opts}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


PAPER = [name for name in preset_names() if name.startswith("paper/")]
COLUMNS = ("B-CLIP", "B-DINO", "B-DINOv2", "B-SD", "B-SD+CLIP", "SketchFusion")


@pytest.mark.parametrize("name", PAPER)
def test_the_figures_to_expect_are_the_papers(name: str) -> None:
    config = load_config(name)
    assert config.task is not None
    # What is trained as the released code does stands in the benchmark's own row.
    released = config.train.protocol == "sketchfusion-release"
    paper = paper_numbers(config.task, "psc6k-official" if released else config.train.protocol)
    metrics = ["acc@1", "acc@5"] if paper is None else list(paper.results["SketchFusion"])
    cells = [f"`{name}`", f"`{config.train.protocol}`", " / ".join(f"`{m}`" for m in metrics)]
    for column in COLUMNS:
        numbers = () if paper is None else paper.results[column].values()
        cells.append(" / ".join(f"{100 * number:.2f}" for number in numbers) or "-")
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(cells)} |" in page
    for command in ("train", "evaluate"):
        assert re.search(rf"^    sketchfusion {command} .*{name.partition('/')[2]}", page, re.M)
