"""Several datasets as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import load_config
from pipeline.datasets import open_dataset
from pipeline.datasets.base import Dataset, DatasetError
from pipeline.datasets.union import UnionDataset
from pipeline.job import open_configured
from tests.tiny import write_images


def folder(root: Path, *classes: str, seed: int = 0) -> Dataset:
    for number, name in enumerate(classes):
        write_images(root / name, 3, seed=seed + number)
    return open_dataset("folder", root)


def test_images_and_annotations_stand_side_by_side(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", "sketch/cat"), folder(tmp_path / "b", "dog", seed=5)
    both = UnionDataset([first, second])
    assert list(both.ids) == [*first.ids, *second.ids]
    for part in (first, second):
        for image_id in part.ids:
            data = both.read(image_id)
            assert data == part.read(image_id)
            assert both.size(image_id, data) == part.size(image_id, data)
            assert both.annotations.labels[image_id] == part.annotations.labels[image_id]
    assert {label.category for label in both.annotations.labels.values()} == {"cat", "dog"}


def test_pairs_and_masks_of_every_part_are_there() -> None:
    worlds = [open_dataset("shapes", None, size=6, seed=0), open_dataset("shapes", None, size=0)]
    both = UnionDataset(worlds)
    assert len(both.annotations.pairs) == 4
    assert set(both.annotations.masks) == set(worlds[0].ids)


def test_one_id_for_two_pictures_is_refused(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", "cat"), folder(tmp_path / "b", "cat", seed=5)
    with pytest.raises(DatasetError, match=r"cat/picture_000.png is in .*a and in .*b"):
        UnionDataset([first, second])


def test_a_configuration_names_further_datasets(tmp_path: Path) -> None:
    folder(tmp_path / "a", "cat")
    folder(tmp_path / "b", "dog")
    further = f"[{{name: folder, root: {tmp_path / 'b'}, limit: 2}}]"
    config = load_config(
        "demo", ["dataset=folder", f"dataset.root={tmp_path / 'a'}", f"dataset.also={further}"]
    )
    dataset = open_configured(config)
    assert len(dataset.ids) == 5
    assert dataset.name == "folder"


def test_decoding_works_in_other_processes(tmp_path: Path) -> None:
    import pickle

    both = UnionDataset([folder(tmp_path / "a", "cat"), folder(tmp_path / "b", "dog")])
    again = pickle.loads(pickle.dumps(both))
    assert again.read(both.ids[-1]) == both.read(both.ids[-1])
