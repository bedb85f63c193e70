"""The tutorial's notebook: its cells run, and what is committed is what they gave."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS

NOTEBOOK = DOCS / "tutorial.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
FEWER = {"n_instances=8": "n_instances=3", "train.epochs=10": "train.epochs=1"}
"""What is changed in the cells, so that they take less time."""


@pytest.mark.guide
def test_its_cells_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "\n".join("".join(cell["source"]) for cell in CODE)
    for given, fewer in FEWER.items():
        assert given in source
        source = source.replace(given, fewer)
    names: dict[str, Any] = {}
    exec(compile(source, NOTEBOOK.name, "exec"), names)
    assert names["store"].quarantined == {} and len(names["store"]) == 108
    assert (tmp_path / "masks.png").is_file()


def test_it_was_executed_from_top_to_bottom_without_an_error() -> None:
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    outputs = [output for cell in CODE for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds == {"execute_result", "stream"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5


def test_it_is_small_and_tells_nothing_of_the_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    plain = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(tmp|home|root|usr|var|work|Users|opt)\b", plain)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", plain)
