"""A hook of mkdocs: executed notebooks as pages of the site. Nothing is executed here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_OUTPUT = "{ .text .output .no-copy }"
"""Of a code block: site.css sets it off from what was typed."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let the navigation name notebooks: their pages are `<name>-notebook.md`."""
    config.nav = _renamed(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and the pictures that it shows."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = json.loads(file.content_string)
        page, pictures = as_markdown(notebook, PurePosixPath(file.src_uri).stem)
        folder = PurePosixPath(file.src_uri).parent
        files.append(File.generated(config, _page_of(file.src_uri), content=page))
        for name, data in pictures.items():
            files.append(File.generated(config, str(folder / name), content=data))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to a notebook lead to its page; on other hosts of these files to the notebook."""
    return re.sub(r"\]\(([\w/-]+\.ipynb)\)", lambda found: f"]({_page_of(found[1])})", markdown)


def as_markdown(notebook: Mapping[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook's cells and outputs as a page, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(_fenced(source, "python"))
            for output in cell["outputs"]:
                parts.append(_output(output, stem, pictures))
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def _output(output: Mapping[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _fenced(_ANSI.sub("", "".join(output["text"])), _OUTPUT)
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![What the cell above draws]({name})"
    return _fenced("".join(data.get("text/plain", "")), _OUTPUT)


def _fenced(text: str, language: str) -> str:
    """A code block; nothing for nothing."""
    return f"```{language}\n{text.strip()}\n```" if text.strip() else ""


def _page_of(notebook: str) -> str:
    return str(Path(notebook).with_suffix("")) + "-notebook.md"


def _renamed(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_renamed(item) for item in nav]
    if isinstance(nav, dict):
        return {title: _renamed(item) for title, item in nav.items()}
    return _page_of(nav) if isinstance(nav, str) and nav.endswith(".ipynb") else nav
