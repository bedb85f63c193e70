"""What a page tells its reader to do, in order: files to write, commands to type, code to run."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn
from fastapi.testclient import TestClient

from tests.heads.worlds import ok, sets

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NEEDS_WEIGHTS = "backbone=sd21-clip-l336"
"""What begins with a download, except that `plan` needs none."""

_STEP = re.compile(
    r'^```yaml title="(?P<file>[^"]+)"\n(?P<yaml>.*?)^```$'
    r"|^```python\n(?P<python>.*?)^```$"
    r"|^ {4}(?P<command>(?:sketchfusion|python -m) [^\n]+)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """One thing to do: a file's text with its name, a command's line, or a piece of Python."""

    kind: Literal["file", "command", "python"]
    text: str
    name: str = ""


def page(name: str) -> str:
    """A page's text, by its path under the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The text below a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def steps(text: str) -> list[Step]:
    """The steps of a page of Markdown."""
    return list(_steps(text))


def _steps(text: str) -> Iterator[Step]:
    for found in _STEP.finditer(text):
        if found["file"]:
            yield Step("file", found["yaml"], found["file"])
        elif found["python"]:
            yield Step("python", found["python"])
        else:
            yield Step("command", found["command"].partition(" #")[0].strip())


def follow(todo: Iterable[Step]) -> list[str]:
    """Do what a page says, in the working directory, with fewer pictures and epochs.

    Everything must succeed, and what commands were asked to write must be there. Returns the
    commands that were left out because they need weights from the hub.
    """
    written: list[Path] = []
    left_out = []
    for step in todo:
        if step.kind == "file":
            Path(step.name).write_text(step.text)
        elif step.kind == "python":
            exec(compile(step.text.replace("size=384", "size=96"), "page", "exec"), {})
        elif NEEDS_WEIGHTS in step.text and not step.text.startswith("sketchfusion plan "):
            left_out.append(step.text)
        else:
            run_command(step.text)
            written += _outputs(step.text)
    missing = [path for path in written if not path.exists()]
    assert not missing, missing
    return left_out


def run_command(line: str) -> None:
    """Run a command of a page in this process and folder; it must succeed."""
    words = shlex.split(line)
    words += _smaller(words)
    if words[:2] == ["sketchfusion", "serve"]:
        _serve([word for word in words[1:] if word != "--open"])
        return
    if words[0] == "sketchfusion":
        ok(*words[1:])
        return
    before = sys.argv
    sys.argv = words[2:]
    try:
        importlib.import_module(words[2]).main()
    finally:
        sys.argv = before


def _serve(words: list[str]) -> None:
    """A server that is asked for its page and a photo, and stops: no process, no waiting."""

    def answer(server: uvicorn.Server, sockets: object) -> None:
        app: Any = server.config.app
        with TestClient(app, base_url="http://127.0.0.1") as client:
            assert "<canvas" in client.get("/").text
            assert client.get("/api/about").json()["photos"] > 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn.Server, "run", answer)
        ok(*words, "--port", "0")


def _smaller(words: list[str]) -> list[str]:
    """Further arguments that make a command short: the last of several counts."""
    if "pipeline.datasets.shapes_folder" in words:
        return ["--instances", "3"]
    fewer = []
    if words[1] == "train":
        fewer += ["train.epochs=1", "train.width=32"]
        if "train.cycle.epochs=10" in words:
            fewer.append("train.cycle.epochs=1")
    drawn = any(word.startswith("shapes/") for word in words) and "dataset=folder" not in words
    if words[1] in ("precompute", "train") and drawn:
        fewer.append("dataset.size=96")
    return sets(*fewer)


def _outputs(line: str) -> list[Path]:
    """What a command was asked to write with --out; a plan writes nothing."""
    words = shlex.split(line)
    if words[1] == "plan":
        return []
    return [Path(words[i + 1]) for i, word in enumerate(words) if word == "--out"]
