"""Every benchmark runs at a tiny size, and its tables have our row, the peers' and the limit's.

Nothing here looks at a clock: times are for people.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import benchmarks.live
import benchmarks.train
from configs.load import load_config
from tests.heads.worlds import World, ok, sets

SMALL_HEAD = ["--width", "16", "--grid", "6", "--side", "6", "--shrink", "32"]


def report(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of a benchmark, whose tables were printed as well."""
    file = tmp_path / "report.json"
    printed = ok("bench", *arguments, "--rounds", "1", "--json", file).output
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["benchmark"] == arguments[0]
    assert found["machine"]["cores"]
    for table in found["tables"]:
        assert table["title"] in printed
        for row in table["rows"]:
            assert row["name"] in printed
    return found


def kinds(table: dict[str, Any]) -> set[str]:
    """The kinds of a table's rows that were measured or counted."""
    return {row["kind"] for row in table["rows"] if row.get("note") != "not installed"}


def assert_complete(found: dict[str, Any], n_tables: int) -> None:
    assert len(found["tables"]) == n_tables
    for table in found["tables"]:
        assert kinds(table) == {"ours", "peer", "limit"}, table["title"]
        timed = [row for row in table["rows"] if "rounds" in row]
        assert all(min(row["rounds"]) > 0 for row in timed)
        if timed:
            assert all(row["speed_of_limit"] > 0 for row in timed)
        else:
            assert any("TFLOP" in key for row in table["rows"] for key in row)


@pytest.fixture
def preset(world: World, tmp_path: Path) -> str:
    """The test world's correspondence, as a configuration file."""
    document = yaml.safe_load(world.config.read_text()) | {"task": "correspondence"}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document))
    load_config(str(path))
    return str(path)


def test_read(tmp_path: Path) -> None:
    found = report(tmp_path, "read", "--images", "32", "--shrink", "64", "--folder", str(tmp_path))
    *tables, warm, cold = found["tables"]
    assert_complete({"tables": tables}, 5)
    for table in (warm, cold):  # As float32, of fewer bytes.
        assert kinds(table) == {"ours", "limit"}
        disk = {row["name"]: row["MiB on disk"] for row in table["rows"]}
        assert disk["int8 store"] <= 0.6 * disk["float16 store"] + 1
    names = {row["name"] for row in found["tables"][0]["rows"]}
    assert {"this store", "zarr-python", "tensorstore", "zarrs", "WebDataset", "LMDB"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_write(tmp_path: Path) -> None:
    found = report(tmp_path, "write", "--images", "70", "--shrink", "64")
    assert_complete(found, 1)
    held = {row["name"]: row["of a shard"] for row in found["tables"][0]["rows"]}
    # A shard is streamed; zarr-python needs it whole.
    assert held["zarr-python, sharded"] > 1


def test_precompute(tmp_path: Path, preset: str) -> None:
    found = report(tmp_path, "precompute", preset, "--images", "48")
    assert_complete(found, 1)


@pytest.fixture
def counted_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the built-in backbone instead of the paper's; two sets of sites instead of four."""
    for module in (benchmarks.train, benchmarks.live):
        monkeypatch.setattr(module, "PAPER", ("nano", 64, 12))
    two = {label: benchmarks.live.SITE_SETS[label] for label in ("all", "up.2")}
    monkeypatch.setattr(benchmarks.live, "SITE_SETS", two)


@pytest.mark.usefixtures("counted_small")
def test_train(tmp_path: Path, preset: str) -> None:
    chosen = sets("extraction.ensemble=2", "extraction.store_dtype=float16")
    found = report(tmp_path, "train", preset, "--full-size", *chosen)
    assert_complete(found, 5)
    pair = {row["name"]: row for row in found["tables"][1]["rows"]}
    assert pair["ours, head on the store"]["GFLOP"] == pair["head on maps in memory"]["GFLOP"]
    assert pair["released"]["GFLOP"] > pair["ours, head on the store"]["GFLOP"]


@pytest.mark.usefixtures("counted_small")
def test_live(tmp_path: Path, preset: str) -> None:
    found = report(tmp_path, "live", preset, "--images", "96")
    assert_complete(found, 5)
    by_sites = found["tables"][-1]["rows"][:2]
    # The later the first trained site, the less is left to compute; that is exact.
    left = [row["from prefix"] for row in by_sites]
    assert left == sorted(left, reverse=True)
    assert by_sites[0]["checkpointed GiB"] < by_sites[0]["peak GiB"]


def test_heads(tmp_path: Path) -> None:
    found = report(tmp_path, "heads", *SMALL_HEAD)
    assert_complete(found, 4)
    assert all(target["met"] for table in found["tables"] for target in table["targets"])
    resizing = {row["name"]: row["GFLOP"] for row in found["tables"][0]["rows"]}
    assert resizing["1x1 before resizing"] < resizing["resizing first"]


def test_scale(tmp_path: Path) -> None:
    sizes = ["--sizes", "64,130", "--open", "300", "--gallery", "200"]
    found = report(tmp_path, "scale", *sizes)
    tables = found["tables"]
    assert [table["title"].split(",")[0] for table in tables] == [
        "precompute with a stand-in for the networks",
        "opening and planning",
        "search",
        "search",
    ]
    assert_complete(found, 4)


def test_sizes_are_numbers(tmp_path: Path) -> None:
    from tests.heads.worlds import run

    result = run("bench", "scale", "--sizes", "many")
    assert result.exit_code != 0
    assert "1000,10000" in result.output
