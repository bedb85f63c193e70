"""The demonstration from end to end on a dozen images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zarr

from cache import FeatureStore, StoreError, verify_store
from heads.demo import run_demo
from pipeline.compute import Progress

SIZE = 12
OVERRIDES = [f"dataset.size={SIZE}", "extraction.workers=0", "extraction.shard_size=4"]


class Demo(NamedTuple):
    out: Path
    text: str
    lines: list[str]
    done: list[int]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("demo")
    lines: list[str] = []
    done: list[int] = []

    def listen(progress: Progress) -> None:
        done.append(progress.done)

    text = run_demo(out, listen, lines.append, OVERRIDES)
    yield Demo(out, text, lines, done)
    torch.set_num_threads(threads)


def test_the_text_tells_what_happened(demo: Demo) -> None:
    assert f"{SIZE} images computed, 9 arrays" in demo.text
    assert "0 images computed, nothing left to do" in demo.text
    assert f"{SIZE} images computed, 3 arrays" in demo.text
    untouched = re.search(r"(\d+) of (\d+) earlier files untouched", demo.text)
    assert untouched and untouched[1] == untouched[2]
    rows = re.search(r"(\d+) of (\d+) rows equal", demo.text)
    assert rows and rows[1] == rows[2] == str(12 * 8)  # arrays, rows of each
    assert "random weights" not in demo.text
    assert str(demo.out / "report.html") in demo.text


def test_progress_is_told(demo: Demo) -> None:
    # Two runs have something to do; each ends with all images.
    assert demo.done.count(SIZE) == 2
    assert [line[:3] for line in demo.lines if not line.startswith(" ")] == [
        f"{step}/5" for step in range(1, 6)
    ]


def test_the_store_is_sound_and_has_grown(demo: Demo) -> None:
    path = demo.out / "store"
    assert verify_store(path).sound
    store = FeatureStore.open(path)
    assert len(store) == SIZE
    assert {"sd/t100/s3", "sd/t195/s5", "sd/t400/s4", "clip/tokens"} <= set(store.arrays)
    values = np.asarray(zarr.open_array(path / "sd/t400/s4", mode="r")[3])
    assert np.isfinite(values).all()
    own = store.read([store.ids[3]], ["sd/t400/s4"])["sd/t400/s4"][0]
    np.testing.assert_array_equal(values, own)


def test_the_report_shows_the_pictures(demo: Demo) -> None:
    page = (demo.out / "report.html").read_text(encoding="utf-8")
    store = FeatureStore.open(demo.out / "store")
    assert store.fingerprint in page
    for name in store.arrays:
        assert name in page
    # Four instances of four categories; the maps of s5, s4, s3 and CLIP for both of each pair.
    assert page.count("<figcaption>") - 1 == 4
    assert page.count('class="cells"') == 4 * 4 * 2
    assert "These networks have not learned anything" not in page


def test_again_it_skips_what_is_there_and_refuses_damage(demo: Demo) -> None:
    shard = demo.out / "store" / "sd/t195/s3/c.0.0.0.0"
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    done: list[int] = []
    lines: list[str] = []

    def listen(progress: Progress) -> None:
        done.append(progress.done)

    with pytest.raises(StoreError, match=r"damaged .*s3.*; remove the folder"):
        run_demo(demo.out, listen, lines.append, OVERRIDES)
    assert done == []
    assert sum("0 images computed, nothing left to do" in line for line in lines) == 3
