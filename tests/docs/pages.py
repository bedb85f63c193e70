"""What a page tells its reader to do, in order: files to write, commands to type, code to run."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.heads.worlds import ok

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_STEP = re.compile(
    r'^```yaml title="(?P<file>[^"]+)"\n(?P<yaml>.*?)^```$'
    r"|^```python\n(?P<python>.*?)^```$"
    r"|^ {4}(?P<command>(?:sketchfusion|python -m) [^\n]+)$",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One thing to do: a file's text with its name, a command's line, or a piece of Python."""

    kind: Literal["file", "command", "python"]
    text: str
    name: str = ""


def steps(text: str) -> Iterator[Step]:
    """The steps of a page of Markdown."""
    for found in _STEP.finditer(text):
        if found["file"]:
            yield Step("file", found["yaml"], found["file"])
        elif found["python"]:
            yield Step("python", found["python"])
        else:
            yield Step("command", found["command"].partition(" #")[0].strip())


def section(text: str, title: str) -> str:
    """The text below a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def python_blocks(page: Path) -> list[str]:
    """The page's pieces of Python."""
    return _CODE.findall(page.read_text(encoding="utf-8"))


def run_command(line: str, smaller: Callable[[list[str]], list[str]]) -> None:
    """Run a command of a page in this process and folder; it must succeed.

    `smaller` gives further arguments, so that a test does not take as long as the real thing.
    """
    words = shlex.split(line)
    words += smaller(words)
    if words[0] == "sketchfusion":
        ok(*words[1:])
        return
    before = sys.argv
    sys.argv = words[2:]
    try:
        importlib.import_module(words[2]).main()
    finally:
        sys.argv = before


def outputs(line: str) -> list[Path]:
    """What a command was asked to write with --out."""
    words = shlex.split(line)
    return [Path(words[i + 1]) for i, word in enumerate(words) if word == "--out"]
