"""The demonstration from end to end on a small world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from cache import FeatureStore, StoreError, verify_store
from heads.demo.story import run_demo
from heads.tasks import TASKS
from heads.training.trainer import TrainProgress
from pipeline.compute import Progress
from pipeline.datasets.base import DatasetError

SIZE = 192
OVERRIDES = [f"dataset.size={SIZE}", "extraction.workers=0", "train.epochs=1"]


class Demo(NamedTuple):
    out: Path
    text: str
    lines: list[str]
    images: list[int]
    steps: list[int]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    for name in ("photo/a.png", "photo/b.png", "sketch/c.png"):
        path = root / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 64, 3), np.uint8)).save(path)
    (root / "mine" / "photo" / "broken.png").write_bytes(b"no picture")
    lines: list[str] = []
    images: list[int] = []
    steps: list[int] = []

    def seen(progress: Progress) -> None:
        images.append(progress.done)

    def trained(progress: TrainProgress) -> None:
        steps.append(progress.step)

    text = run_demo(root / "out", root / "mine", seen, trained, lines.append, OVERRIDES)
    yield Demo(root / "out", text, lines, images, steps)
    torch.set_num_threads(threads)


def test_the_text_tells_what_happened(demo: Demo) -> None:
    for task, metric in ((task, TASKS[task].headline) for task in TASKS):
        assert re.search(rf"{task.replace('_', '-')}, {metric} +\d+\.\d\d", demo.text)
    assert re.search(r"SD's layers, trained injection +\d+\.\d\d", demo.text)
    assert f"{SIZE} images computed, 6 arrays" in demo.text
    assert "random weights" not in demo.text
    assert str(demo.out / "report.html") in demo.text


def test_progress_is_told(demo: Demo) -> None:
    # The first run, the timestep that is added, and the store of the injection.
    assert demo.images.count(SIZE) == 3
    assert demo.steps
    assert [line.split(":")[0] for line in demo.lines if not line.startswith(" ")] == [
        "stage 1",
        "stage 2",
        "stage 2",
        "your pictures",
    ]


def test_the_store_is_sound_and_has_grown(demo: Demo) -> None:
    path = demo.out / "store"
    assert verify_store(path).sound
    store = FeatureStore.open(path)
    assert len(store) == SIZE
    assert {"sd/t195/s5", "sd/t400/s4", "clip/tokens"} <= set(store.arrays)
    values = np.asarray(zarr.open_array(path / "sd/t400/s4", mode="r")[3])
    assert np.isfinite(values).all()
    own = store.read([store.ids[3]], ["sd/t400/s4"])["sd/t400/s4"][0]
    np.testing.assert_array_equal(values, own)


def test_the_injection_was_trained_and_made_a_store_of_its_own(demo: Demo) -> None:
    run = demo.out / "runs" / "retrieval-injected"
    injected = FeatureStore.open(run / "store")
    assert injected.recipe.fields["injection"] is not None
    plain = FeatureStore.open(demo.out / "store")
    (image_id,) = injected.ids[:1]
    array = "sd/t195/s4"
    ours, theirs = (store.read([image_id], [array])[array] for store in (injected, plain))
    assert not torch.equal(ours, theirs)


def test_the_report_shows_the_pictures(demo: Demo) -> None:
    page = (demo.out / "report.html").read_text(encoding="utf-8")
    store = FeatureStore.open(demo.out / "store")
    assert store.fingerprint in page
    for name in store.arrays:
        assert name in page
    # 32 categories; the maps of s5, s4, s3 and CLIP for both of each of six pairs.
    assert page.count('class="pair"') == 32
    assert page.count('class="cells"') == 6 * 4 * 2
    # Matches, two retrievals, masks, guesses, the injected retrieval, the user's maps and ranking.
    assert page.count("data:image/jpeg") == 8
    assert "photo/broken.png" in page
    assert "There are no pictures" not in page


def test_each_run_has_a_report_of_its_own(demo: Demo) -> None:
    for task in TASKS:
        assert "Results" in (demo.out / "runs" / task / "report.html").read_text(encoding="utf-8")


def test_again_it_skips_what_is_there_and_refuses_damage(demo: Demo) -> None:
    shard = demo.out / "store" / "sd/t195/s3/c.0.0.0.0"
    sound = shard.read_bytes()
    damaged = bytearray(sound)
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    images: list[int] = []
    steps: list[int] = []
    lines: list[str] = []
    with pytest.raises(StoreError, match=r"damaged .*s3.*; remove the folder"):
        run_demo(
            demo.out,
            None,
            lambda progress: images.append(progress.done),
            lambda progress: steps.append(progress.step),
            lines.append,
            OVERRIDES,
        )
    assert images == steps == []
    assert sum("0 images computed, nothing left to do" in line for line in lines) == 3
    shard.write_bytes(sound)


def test_a_folder_that_is_not_there_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        run_demo(
            tmp_path / "out",
            tmp_path / "nowhere",
            lambda progress: None,
            lambda progress: None,
            lambda line: None,
            OVERRIDES,
        )
    assert not (tmp_path / "out").exists()
