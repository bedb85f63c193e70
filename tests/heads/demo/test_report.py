"""The report: complete, self-contained, and safe against whatever a name contains."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from cache import ArrayDescription, StoreDescription, VerifyReport
from heads.demo.records import (
    Demonstration,
    InjectionEffect,
    MarkedPicture,
    PicturePair,
    Planned,
    Precomputed,
    Reading,
    Stage1,
    TrainedHead,
    ZarrCheck,
)
from heads.demo.report import write_report
from heads.demo.summary import score_rows, text_summary
from heads.evaluation.evaluate import Examined
from heads.evaluation.result import Evaluation
from heads.explain import Findings
from heads.pca import colour_maps
from heads.tasks import TASKS
from heads.training.experiment import Experiment
from heads.training.run import Run
from tests.heads.report.page import Page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=y>&amp;.png'
ARRAYS = ("sd/t195/s4", "clip/tokens")


def _picture(name: str, n_points: int) -> MarkedPicture:
    rng = np.random.default_rng(n_points)
    pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
    visible = np.arange(n_points) != 0
    return MarkedPicture(name, Image.fromarray(pixels), rng.uniform(0, 12, (n_points, 2)), visible)


def _stage1(name: str = "photo/cat/000001.png") -> Stage1:
    rng = np.random.default_rng(0)
    pair = PicturePair(
        category=name,
        sketch=_picture(name, 8),
        photo=_picture(name, 8),
        maps={array: colour_maps(list(rng.standard_normal((2, 6, 3, 3)))) for array in ARRAYS},
    )
    shapes = {array: ArrayDescription((6, 3, 3), "float16", 480, 51_840) for array in ARRAYS}
    first = Precomputed("First run", 480, ARRAYS, 31.0, 25.0, 1.5, 23.0, 0.5, 40 * 2**20)
    return Stage1(
        dataset="shapes",
        backbone="nano",
        random_weights=True,
        store_name=f"demo/{name}/store",
        planned=Planned(480, 41 * 2**20, 21.0, {"VAE": 10**9, "UNet": 3 * 10**9}, 2, "cpu"),
        runs=(
            first,
            replace(first, title="Again", n_computed=0, arrays=(), wall=1.3, bytes_written=0),
            replace(first, title="One timestep more", arrays=ARRAYS[:1]),
        ),
        n_untouched_files=63,
        n_earlier_files=65,
        store=StoreDescription(
            path=Path("unused"),
            fingerprint="f" * 64,
            recipe={"unet": "u" * 64, "seed": 7, "injection": None},
            provenance={},
            shard_size=64,
            n_images=480,
            n_committed=480,
            quarantined={name: f"cannot be read {name}"},
            computed_by=[],
            arrays=shapes,
            bytes_on_disk=44 * 2**20,
        ),
        verified=VerifyReport((), (), 480, 8, 43 * 2**20),
        verify_seconds=0.25,
        reading=Reading(ARRAYS, 16, 8, 2048, 0.0001, 0.0412, 0.0004),
        zarr=ZarrCheck(n_rows=16, n_equal=16, n_arrays=2),
        timestep=195,
        sheet=(pair, pair),
        examples=(pair,),
    )


def _head(folder: Path, task: str, score: float) -> TrainedHead:
    """A head that reached a score; its pictures are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "epoch": 1, "loss": 0.5}\n'
        '{"step": 2, "epoch": 1, "validation": {"' + TASKS[task].monitor + '": 0.4}}\n'
    )
    metric = TASKS[task].headline
    evaluation = Evaluation(
        name="SD+CLIP, aggregated",
        task=task,
        protocol="shapes",
        variants={},
        split="test",
        metrics={metric: score},
        beside={},
        baselines={"B-SD+CLIP": {metric: 0.31}, "a floor": {metric: 0.2}, "lower": {metric: 0.1}},
        missing={},
        chance={metric: 0.04},
        paper={},
        n=123,
        stores=["f" * 64],
        floors=["a floor", "lower"],
        headline=metric,
        errors={metric: 0.0125},
    )
    findings = Findings(missing="the pictures are gone")
    examined = Examined(Run(folder), cast(Experiment, None), evaluation, findings)
    return TrainedHead(examined, epochs=4, n_reads=1000, seconds=2.5)


def _demonstration(folder: Path, name: str = "photo/cat/000001.png") -> Demonstration:
    return Demonstration(
        stage1=_stage1(name),
        heads=tuple(
            _head(folder / task, task, 0.5 + number / 100) for number, task in enumerate(TASKS)
        ),
        injection=InjectionEffect(
            without=_head(folder / "without", "retrieval", 0.25),
            injected=_head(folder / "injected", "retrieval", 0.45),
            sites=("down.0", "up.2"),
            live_epochs=3,
            n_live=777,
            live_seconds=61.0,
            cycle_seconds=90.0,
        ),
        own=None,
        seconds=200.0,
        machine={"processor": f"Imaginary {name}", "torch": "9.9.9"},
        made="2030-01-02 03:04",
    )


@pytest.fixture
def demonstration(tmp_path: Path) -> Demonstration:
    return _demonstration(tmp_path / "runs")


@pytest.fixture
def page(tmp_path: Path, demonstration: Demonstration) -> str:
    path = tmp_path / "new" / "report.html"
    write_report(path, demonstration)
    return path.read_text(encoding="utf-8")


def test_everything_is_in_the_report(page: str) -> None:
    read = Page(page)
    expected = [
        "480 images to do, 41 MiB, about 21 s on cpu",
        "480 images computed, 2 arrays, 40 MiB written",
        "63 of 65 earlier files untouched",
        "19.2 images/s",  # 480 images in 25 s
        "412 times faster",
        "16 of 16 rows from 2 arrays equal",
        "compute 23 s",
        "0.04 % of an array's largest value",
        "6 x 3 x 3",
        "float16",
        "108 B",  # 51,840 bytes of 480 images
        "VAE 1 GFLOP",
        "f" * 64,
        "u" * 64,
        "sketchfusion precompute demo",
        "9.9.9",
        "2030-01-02 03:04",
        "correspondence, pck@10",
        "segmentation, miou",
        "777 images in 1 min 1 s",
        "the pictures are gone",
        *ARRAYS,
    ]
    for text in expected:
        assert text in read.text, text
    # Two pairs on the sheet, seven of eight points visible; a pair with two maps of each array.
    assert read.tags.count("circle") == 2 * 2 * 7
    assert read.tags.count("image") == 2 * 2
    # One more for the learning curves.
    assert read.tags.count("img") == 2 + 2 * len(ARRAYS) + 1


def test_the_heads_stand_beside_baselines_the_best_floor_and_chance(
    demonstration: Demonstration,
) -> None:
    row = score_rows(demonstration)[0]
    assert row == [
        "correspondence, pck@10", "50.00 ± 1.25", "-", "-", "-", "31.00", "-", "-", "20.00", "4.00",
    ]  # fmt: skip
    text = text_summary(demonstration, Path("demo/report.html"))
    assert "SD's layers, no injection         25.00" in text
    assert "SD's layers, trained injection    45.00" in text
    # 1,000 reads of each of five heads at 41.2 ms.
    assert "would have taken 3 min 26 s more" in text


def test_random_weights_are_said_to_mean_nothing(
    page: str, tmp_path: Path, demonstration: Demonstration
) -> None:
    assert "These networks have not learned anything" in page
    stage1 = replace(demonstration.stage1, random_weights=False)
    write_report(tmp_path / "trained.html", replace(demonstration, stage1=stage1))
    trained = (tmp_path / "trained.html").read_text(encoding="utf-8")
    assert "These networks have not learned anything" not in trained


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    read = Page(page)
    assert read.addresses
    assert all(address.startswith("data:image/") for address in read.addresses)
    without_pictures = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*", "", page)
    for forbidden in ("http", "//", "@import", "url(", "<script", "<link", "file:"):
        assert forbidden not in without_pictures, forbidden
    assert "prefers-color-scheme: dark" in page


def test_names_cannot_break_out(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, _demonstration(tmp_path / "hostile", HOSTILE))
    plain, hostile = Page(page), Page(path.read_text(encoding="utf-8"))
    assert hostile.tags == plain.tags
    assert hostile.attributes == plain.attributes
    assert HOSTILE in hostile.text


def test_a_store_that_was_there_already(tmp_path: Path, demonstration: Demonstration) -> None:
    nothing = replace(demonstration.stage1.runs[0], n_computed=0, arrays=(), bytes_written=0)
    stage1 = replace(demonstration.stage1, runs=(nothing, nothing, nothing))
    path = tmp_path / "report.html"
    write_report(path, replace(demonstration, stage1=stage1))
    text = Page(path.read_text(encoding="utf-8")).text
    assert "from an earlier demonstration" in text
    assert "Nothing was left to compute" in text


def test_a_world_without_pairs_still_gives_a_report(
    tmp_path: Path, demonstration: Demonstration
) -> None:
    path = tmp_path / "report.html"
    stage1 = replace(demonstration.stage1, sheet=(), examples=())
    write_report(path, replace(demonstration, stage1=stage1))
    assert "No pairs to show" in Page(path.read_text(encoding="utf-8")).text
