"""Configurations from a stranger: valid, or one line that says what is wrong."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import Config, ConfigError, load_config
from configs.load import HERE
from tests.heads.worlds import complaint
from tests.hostile.mutate import EFFORT, damaged, damaged_json

BASE = "backbone: nano\ndataset: {name: shapes, size: 4}\n"
LETTERS = "abcdefghi"


def aliases(inside: str) -> str:
    """Nine times nine times nine ... of the first line."""
    lines = [f"{c}: &{c} {inside % ','.join([f'*{p}'] * 9)}\n" for p, c in pairwise(LETTERS)]
    return "a: &a {x: 1}\n" + "".join(lines)


REFUSED = {
    "aliases of aliases": (aliases("[%s]"), "more than 10,000 values"),
    "merged aliases": (aliases("{<<: [%s]}"), "more than 10,000 values"),
    "a document inside itself": (
        "backbone: nano\ndataset: &d {name: folder, also: [*d]}\n",
        "inside &d",
    ),
    "a tag": (BASE + "name: !!int ''\n", "the tag"),
    "code": (BASE + "name: !!python/object/apply:os.system [ls]\n", "the tag"),
    "a huge number": (BASE + f"extraction: {{seed: 0x{'f' * 5000}}}\n", "5,002 digits"),
    "base sixty": (BASE + f"extraction: {{seed: {'1:' * 2000}1.5}}\n", "4,003 digits"),
    "deep": (BASE + "x: " + "[" * 50_000, "deeper than 50"),
    "deep blocks": (BASE + "? " * 50_000, "deeper than 50"),
    "large": (BASE + "#" * 300_000, "larger than 256 KiB"),
    "NUL": (BASE + 'name: "a\\0b"\n', "control character"),
    "a terminal's code": (BASE + 'name: "\\e[31m"\n', "control character"),
    "half a character": (BASE + 'name: "\\uD800"\n', "control character"),
    "a line break": (BASE.replace("shapes", '"a\\nb"'), "dataset.name: holds a control"),
    "a path as name": (BASE + "name: ../../elsewhere\n", "name: must be a short name"),
    "twins": (BASE + BASE, "backbone is there twice"),
    "not a number": (BASE + "extraction: {seed: .nan}\n", "extraction.seed"),
    "truth": (BASE + "extraction: {seed: true}\n", "extraction.seed"),
    "beyond floats": (BASE + "train: {learning_rate: 1e999}\n", "train.learning_rate"),
    "a key that is none": (BASE + "1: 2\n", "strings"),
    "two documents": (BASE + "---\na: 1\n", "not valid YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_short_line_at_once(tmp_path: Path, name: str) -> None:
    text, says = REFUSED[name]
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    start = time.process_time()
    line = complaint("plan", path)
    assert says in line and len(line) < 500
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["\ufeff" + BASE, BASE.replace("\n", "\r\n")])
def test_marks_and_line_ends_of_other_systems(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8", newline="")
    assert load_config(tmp_path / "c.yaml").dataset.size == 4


def test_an_alias_stands_for_its_value(tmp_path: Path) -> None:
    text = "backbone: nano\ndataset: {name: shapes, size: &n 4, seed: *n}\n"
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml").dataset.seed == 4


def test_a_home_of_nobody_stays_a_path(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backbone: nano\ndataset: {name: folder, root: ~nobody0/x}")
    assert load_config(tmp_path / "c.yaml").dataset.root == Path("~nobody0/x")
    config = load_config(tmp_path / "c.yaml", ["dataset.root=~nobody0/y"])
    assert config.dataset.root == Path("~nobody0/y")


def loads_or_says_why(path: Path, *overrides: str) -> None:
    try:
        assert isinstance(load_config(path, overrides), Config)
    except ConfigError as error:
        assert str(error) and len(" ".join(str(error).split())) < 1000


@pytest.mark.parametrize("preset", ["demo", "shapes/segmentation", "paper/sketchy-fine-grained"])
def test_damaged_presets(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "c.yaml"
    for data in damaged((HERE / f"{preset}.yaml").read_bytes(), 60, seed=1):
        path.write_bytes(data)
        loads_or_says_why(path)


def test_damaged_values(tmp_path: Path) -> None:
    """JSON is YAML too, but for what it escapes."""
    whole = load_config("shapes/correspondence").model_dump(mode="json")
    for document in damaged_json(whole, 80, seed=2):
        (tmp_path / "c.yaml").write_text(json.dumps(document))
        loads_or_says_why(tmp_path / "c.yaml")


KEYS = st.sampled_from(
    [*Config.model_fields, "sd", "clip", "timm", "source", "root", "also", "sites", "<<", "x", "~"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60 * EFFORT, deadline=None, derandomize=True, database=None)
@given(document=st.dictionaries(KEYS, VALUES, max_size=6), key=KEYS, value=VALUES)
def test_any_document_and_any_override(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], key: str, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps({"backbone": "nano", "dataset": {"name": "folder"}, **document}))
    loads_or_says_why(path, f"{key}={json.dumps(value)}")


@settings(max_examples=80 * EFFORT, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    loads_or_says_why(path)
