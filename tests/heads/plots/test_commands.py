"""`sketchfusion plot`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cache import FeatureStore
from tests.heads.conftest import Runs
from tests.heads.worlds import World, complaint, ok, run


def test_every_figure_of_a_run(runs: Runs, tmp_path: Path) -> None:
    figures = {
        "matches": ["correspondence", "--n", "2"],
        "masks": ["segmentation", "--n", "2"],
        "retrieval": ["fine_grained", "--n", "2", "--hits", "3"],
        "confusion": ["recognition"],
        "mixing": ["retrieval"],
        "curves": ["retrieval"],
    }
    for kind, (task, *options) in figures.items():
        path = tmp_path / f"{kind}.png"
        result = ok("plot", kind, runs(task), *options, "--out", path)
        assert result.stdout.strip() == str(path)
        with Image.open(path) as image:
            assert min(image.size) > 150


def test_figures_of_a_store(world: World, tmp_path: Path) -> None:
    maps, spectrum = tmp_path / "deep" / "maps.svg", tmp_path / "spectrum.pdf"
    ok("plot", "pca", world.store, "--config", world.config, "--n", "1", "--out", maps)
    assert maps.read_text().startswith("<?xml")
    ids = FeatureStore.open(world.store).ids
    ok("plot", "pca", world.store, "--image", ids[0], "--image", ids[9], "--out", maps)
    ok("plot", "spectrum", world.store, "--n", "8", "--out", spectrum)
    assert spectrum.read_bytes().startswith(b"%PDF")


def test_the_spectrum_of_a_run(runs: Runs, tmp_path: Path) -> None:
    path = tmp_path / "spectrum.svg"
    ok("plot", "spectrum", "--run", runs("retrieval"), "--n", "8", "--out", path)
    assert path.is_file()


def test_curves_of_several_runs(runs: Runs, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    ok("plot", "curves", runs("retrieval"), runs("recognition"), "--out", path)
    assert path.is_file()


@pytest.mark.parametrize("kind", ["matches", "masks", "confusion"])
def test_a_run_of_another_task_is_one_clear_line(runs: Runs, tmp_path: Path, kind: str) -> None:
    line = complaint("plot", kind, runs("retrieval"), "--out", tmp_path / "x.png")
    assert "a run of retrieval has no" in line
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_clear_line(world: World, runs: Runs, tmp_path: Path) -> None:
    run_folder = runs("retrieval")
    assert "saved as .png" in complaint("plot", "mixing", run_folder, "--out", tmp_path / "x.gif")
    assert "not a run" in complaint("plot", "curves", tmp_path)
    line = complaint("plot", "retrieval", run_folder, "--image", "no.png", "--out", "x.png")
    assert "no.png: not in the run's test part" in line
    assert "--config" in complaint("plot", "pca", world.store)
    assert "no.png" in complaint("plot", "pca", world.store, "--image", "no.png")
    for arguments in (["spectrum"], ["spectrum", str(world.store), "--run", str(run_folder)]):
        result = run("plot", *arguments)
        assert result.exit_code == 2 and "--run" in result.output
    result = run("plot", "pca", world.store, "--set", "dataset.size=2")
    assert result.exit_code == 2 and "--config" in result.output
