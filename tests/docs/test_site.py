"""The site is built without warnings and fetches nothing from elsewhere; its API exists."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, ROOT, steps

IDENTIFIERS = sorted(
    {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
)
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Attributes whose address a browser asks for by itself."""


def found(name: str) -> Any:
    """What a dotted name is: an attribute of the longest module in it."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_the_api_has_pages() -> None:
    assert len(IDENTIFIERS) > 80


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_what_the_api_names_can_be_imported_and_is_documented(name: str) -> None:
    assert (found(name).__doc__ or "").strip()


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_what_a_page_imports_is_there(page: Path) -> None:
    for step in steps(page.read_text(encoding="utf-8")):
        if step.kind == "python":
            for line in re.findall(r"^(?:from|import) .*$", step.text, re.MULTILINE):
                exec(line, {})


class Fetches(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in FETCHED:
            self.addresses.append(dict(attrs).get(FETCHED[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [*command, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Fetches()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        outside = [a for a in parser.addresses if re.match(r"(https?:)?//", a)]
        assert not outside, f"{page.name}: {outside}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)[\"' ]*(https?:)?//", sheet.read_text("utf-8"))


def test_the_notebook_is_a_page_with_its_pictures(site: Path) -> None:
    text = (site / "tutorial-notebook.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img [^>]*src="(tutorial-\d+\.png)"', text)
    assert len(pictures) >= 5
    for name in pictures:
        assert (site / name).read_bytes().startswith(b"\x89PNG")
    assert 'href="tutorial-notebook.html"' in (site / "tutorial.html").read_text(encoding="utf-8")


def test_the_api_pages_hold_what_they_name(site: Path) -> None:
    ids = {
        name
        for page in (site / "api").glob("*.html")
        for name in re.findall(r'id="([\w.]+)"', page.read_text(encoding="utf-8"))
    }
    assert not [name for name in IDENTIFIERS if name not in ids]
