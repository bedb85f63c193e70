"""Pictures of the procedural world in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import open_dataset
from pipeline.datasets.base import DatasetError
from pipeline.datasets.shapes import SEEN, UNSEEN_SETS, ShapesDataset
from pipeline.datasets.shapes_folder import main, write_pictures


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of pictures and one of masks."""
    root = tmp_path_factory.mktemp("written")
    pictures, masks = root / "pictures", root / "masks"
    assert write_pictures(pictures, 3, 2, pixels=64, seed=5, masks=masks) == 18
    return pictures, masks


def test_files_are_the_datasets_own_bytes(places: tuple[Path, Path]) -> None:
    world = ShapesDataset(2 * 32 * 3, seed=5, pixels=64)
    written = open_dataset("folder", places[0])
    assert len(written.ids) == 18
    for image_id in written.ids:
        assert written.read(image_id) == world.read(image_id)


def test_labels_survive(places: tuple[Path, Path]) -> None:
    labels = open_dataset("folder", places[0]).annotations.labels
    assert {label.category for label in labels.values()} == {"house", "cat", "bicycle"}
    domains = [label.domain for label in labels.values()]
    assert (domains.count("photo"), domains.count("sketch")) == (6, 12)


def test_sketchy_reads_them_with_sources_and_masks(places: tuple[Path, Path]) -> None:
    world = ShapesDataset(2 * 32 * 3, seed=5, pixels=64).annotations
    read = open_dataset("sketchy", places[0], masks=places[1]).annotations
    photos = [name for name, label in read.labels.items() if label.domain == "photo"]
    assert sorted(read.masks) == sorted(photos)
    for name in photos:
        np.testing.assert_array_equal(read.masks[name](), world.masks[name]())
    for name, label in read.labels.items():
        assert label.source == world.labels[name].source


def test_masks_are_black_and_white_pictures(places: tuple[Path, Path]) -> None:
    mask = np.asarray(Image.open(places[1] / "cat" / "000001.png"))
    assert mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}


def test_every_category_of_the_second_set_has_as_many_instances(tmp_path: Path) -> None:
    assert write_pictures(tmp_path / "new", 34, 1, pixels=32, unseen="second") == 34 * 3
    labels = open_dataset("folder", tmp_path / "new").annotations.labels.values()
    photos = [label.category for label in labels if label.domain == "photo"]
    assert sorted(str(name) for name in photos) == sorted(SEEN + UNSEEN_SETS["second"])


@pytest.mark.parametrize(
    ("numbers", "what"),
    [((0, 2), "categories: 0"), ((33, 2), "categories: 33"), ((3, 0), "instances: 0")],
)
def test_numbers_out_of_range_write_nothing(
    tmp_path: Path, numbers: tuple[int, int], what: str
) -> None:
    with pytest.raises(DatasetError, match=what):
        write_pictures(tmp_path / "new", *numbers)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "pictures" / "mine.png"
    mine.parent.mkdir()
    mine.write_bytes(b"my own")
    monkeypatch.setattr(sys, "argv", ["shapes_folder", str(mine.parent)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "is there already; choose a new folder" in capsys.readouterr().err
    assert [path.name for path in mine.parent.iterdir()] == ["mine.png"]
