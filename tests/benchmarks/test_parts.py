"""What benchmarks are made of: every contender does the same work, and ratios are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.counting import PeakMemory
from benchmarks.formats import BATCH, FORMATS, Format, random_images, shrunk
from benchmarks.read import written
from benchmarks.released import (
    flow_at,
    plain_descriptors,
    plain_flow,
    released_maps,
)
from benchmarks.sizes import choices, shards
from benchmarks.tables import markdown
from benchmarks.timing import Row, Table, Target, spread, take_turns
from configs import load_config
from heads.aggregation import AggregationNetwork
from heads.matching import correlate, sample_descriptors, soft_argmax
from pipeline.extraction.extract import Extractor
from pipeline.networks.backbone import load_backbone
from pipeline.networks.noise import draw_noise
from tests.heads.worlds import World

SHAPES = shrunk(64)
N = 20
ROWS = [*range(3, N), *range(3)][:BATCH]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    found = written(tmp_path_factory.mktemp("formats"), SHAPES, N)
    return {format_.name: format_ for format_ in found}


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
def test_every_format_gives_the_maps_back(kind: type[Format], formats: dict[str, Format]) -> None:
    if not kind.installed():
        pytest.skip(f"{kind.package} is not installed")
    images = list(random_images(SHAPES, N))
    format_ = formats[kind.name]
    for buffer in format_.buffers.values():
        buffer.zero_()
    format_.open()([ROWS])
    for name, buffer in format_.buffers.items():
        expected = np.stack([maps[name] for maps in images])
        if kind.name == "WebDataset":
            # It chooses which images come; all that come are whole.
            one_each = {row.tobytes() for row in buffer.numpy()}
            assert len(one_each) == BATCH
            assert one_each <= {row.tobytes() for row in expected}
        else:
            np.testing.assert_array_equal(buffer.numpy(), expected[ROWS])


def test_take_turns_is_interleaved_and_times_every_round() -> None:
    order: list[tuple[str, int]] = []
    seconds = take_turns(
        {name: lambda turn, name=name: order.append((name, turn)) for name in "abc"},  # type: ignore[misc]
        rounds=3,
    )
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    for turn in range(-1, 3):
        assert {name for name, number in order[3 * (turn + 1) : 3 * (turn + 2)] if number == turn}
    assert len({order[3 * turn][0] for turn in range(1, 4)}) == 3, "the order rotates"


def test_ratios_are_taken_round_by_round() -> None:
    # A machine that is ten times slower in the second round changes no ratio.
    rows = [Row("ours", "ours", [2.0, 20.0, 2.0]), Row("best", "limit", [1.0, 10.0, 1.0])]
    table = Table("t", "w", rows)
    assert table.speeds("ours") == [0.5, 0.5, 0.5]
    assert "0.5" in table.as_text()
    assert table.as_json()["rows"][0]["speed_of_limit"] == 0.5


def test_targets_say_whether_they_are_met() -> None:
    assert Target("speed", 0.9, 0.95).met
    assert not Target("speed", 0.9, 0.85).met
    assert Target("time", 2, 1.5, at_most=True).met
    assert "MISSED" in Target("time", 2, 2.5, at_most=True).as_text()


def test_spread_is_the_middle_half() -> None:
    assert spread([3, 1]) == (1, 3)
    assert spread([0, 1, 2, 3, 100]) == (1, 3)


def test_peak_memory_counts_what_lives_at_once() -> None:
    given = torch.zeros(1000)
    with PeakMemory() as memory:
        for _ in range(5):
            made = given + 1
            made += 1
            made.view(10, 100)
            del made
    assert memory.peak == given.nbytes
    with PeakMemory() as memory:
        kept = [given + i for i in range(5)]
    assert memory.peak == len(kept) * given.nbytes


def test_the_plain_head_is_ours() -> None:
    torch.manual_seed(0)
    channels = {"sd/t1/s3": 8, "sd/t1/s4": 12}
    network = AggregationNetwork(channels, 16, 9, dropout=0.0, groups=4)
    sketch, photo = (
        {"sd/t1/s3": torch.randn(1, 8, 6, 6), "sd/t1/s4": torch.randn(1, 12, 3, 3)}
        for _ in range(2)
    )
    ours = [network(maps).spatial for maps in (sketch, photo)]
    plain = [plain_descriptors(network, maps) for maps in (sketch, photo)]
    torch.testing.assert_close(plain[0], ours[0], atol=1e-5, rtol=0)
    points = (torch.tensor([[[0, 0], [8, 3], [4, 7]]]) + 0.5) / 9
    rows = soft_argmax(correlate(sample_descriptors(ours[0], points, 1.0), ours[1]), 1.0)
    full = flow_at(plain_flow(*plain, 1.0, 0.02), points, 9, 1.0)
    torch.testing.assert_close(full, rows, atol=1e-5, rtol=0)


def test_the_released_way_gives_our_features(world: World) -> None:
    config = load_config(str(world.config), ["extraction.ensemble=3"])
    backbone = load_backbone(config.backbone)
    extraction = config.extraction
    generator = torch.Generator().manual_seed(0)
    square = torch.randint(256, (1, 3, 64, 64), generator=generator, dtype=torch.uint8)
    arrays = ["vae/latent", *(f"sd/t195/{layer}" for layer in extraction.layers)]
    ours = Extractor(backbone, extraction, None, 4)(square.numpy(), ["ab"], arrays)
    shape = ours["vae/latent"].shape[1:]
    noise = torch.stack([draw_noise(shape, extraction.seed, "ab", 195, draw) for draw in range(3)])
    released = released_maps(backbone, square, noise, 195, extraction.layers, None)
    for layer, values in released.items():
        np.testing.assert_allclose(values.numpy(), ours[f"sd/t195/{layer}"], atol=1e-4)


def test_the_page_holds_the_sizes_that_are_counted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for line in [*choices(), *shards()]:
        assert line in page.splitlines()


def test_a_report_as_markdown() -> None:
    rows = [
        Row("ours", "ours", [2.0, 2.0], {"MiB": 1.5}, note="a note"),
        Row("absent", "peer", note="not installed"),
        Row("best", "limit", [1.0, 1.0]),
    ]
    table = Table("title", "work", rows, [Target("speed", 0.9, 0.5)])
    assert list(markdown(table.as_json())) == [
        "**title**: work",
        "",
        "|  |  | median | x limit (spread) | MiB |",
        "|---|---|---:|---:|---:|",
        "| ours (a note) | ours | 2 s | 0.5 (0.5-0.5) | 1.5 |",
        "| absent (not installed) | peer | - | - |  |",
        "| best | limit | 1 s | 1 (1-1) |  |",
        "",
        "- speed: 0.5 (at least 0.9): **missed**",
    ]
