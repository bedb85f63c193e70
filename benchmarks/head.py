"""The head's exact shortcuts beside the plain forms, mixed precision, and batches of pairs.

    python benchmarks/head.py [--width 1280] [--grid 60] [--side 42] [--rounds 3] [--json FILE]

Random maps of the paper's layers; nothing is approximated but by `train.precision`, which is off
unless it is set. Each table's limit is the convolutions or the product that no form can do without.
"""

# Not called heads.py: a script's folder comes first on the path, and `heads` is the package.
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.command import bench
from benchmarks.counting import N_POINTS, flops
from benchmarks.released import flow_at, plain_descriptors, plain_flow
from benchmarks.timing import Kind, Report, Row, Table, Target, take_turns
from heads.aggregation import AggregationNetwork, Bottleneck, layer_of
from heads.matching import correlate, sample_descriptors, soft_argmax

CHANNELS = {"sd/t195/s3": 640, "sd/t195/s4": 1280, "sd/t195/s5": 1280}
BATCHES = (1, 2, 4)
"""Pairs in a step."""


def measure(
    width: int = 1280, grid: int = 60, side: int = 42, shrink: int = 1, rounds: int = 3
) -> Report:
    """Four tables. `side` is that of the largest map; `shrink` divides the maps' channels."""
    torch.manual_seed(0)
    channels = {name: n // shrink for name, n in CHANNELS.items()}
    network = AggregationNetwork(channels, width, grid, dropout=0.0)

    def maps(n: int) -> dict[str, Tensor]:
        sides = dict(zip(channels, (side, (side + 1) // 2, (side + 3) // 4), strict=True))
        return {name: torch.randn(n, c, sides[name], sides[name]) for name, c in channels.items()}

    tables = [
        _resizing(network, maps(1), rounds),
        _rows_only(width, grid, rounds),
        _precision(network, maps(1), rounds),
        _batches(network, maps, rounds),
    ]
    settings = {"width": width, "grid": grid, "side": side, "shrink": shrink, "rounds": rounds}
    return Report("heads", settings, tables)


Way = Callable[[], Any]


def _rows(ways: dict[str, tuple[Kind, Way]], rounds: int, per: Sequence[int] = ()) -> list[Row]:
    """A row a way, with its operations; `per` divides both."""
    shares = list(per) or [1] * len(ways)
    counted = {name: flops(way) for name, (_, way) in ways.items()}
    seconds = take_turns(
        {name: lambda turn, way=way: way() for name, (_, way) in ways.items()},  # type: ignore[misc]
        rounds,
    )
    return [
        Row(name, kind, [s / n for s in seconds[name]], {"GFLOP": counted[name] / n / 1e9})
        for n, (name, (kind, _)) in zip(shares, ways.items(), strict=True)
    ]


def _back(network: AggregationNetwork, output: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    output.sum().backward()  # type: ignore[no-untyped-call]


def convolutions(network: AggregationNetwork, maps: dict[str, Tensor]) -> Tensor:
    """The blocks' convolutions at the sizes of the fast form, and nothing between them."""
    total = torch.zeros(())
    for name, layer_map in maps.items():
        block = network.blocks[layer_of(name)]
        assert isinstance(block, Bottleneck)
        inner = block.conv1.out_channels
        hidden = torch.zeros(len(layer_map), inner, network.grid, network.grid)
        total = total + block.conv1(layer_map).sum() + block.shortcut(layer_map).sum()
        total = total + block.conv3(block.conv2(hidden)).sum()
    return total


def _resizing(network: AggregationNetwork, maps: dict[str, Tensor], rounds: int) -> Table:
    ways: dict[str, tuple[Kind, Way]] = {
        "1x1 before resizing": ("ours", lambda: _back(network, network(maps).spatial)),
        "resizing first": ("peer", lambda: _back(network, plain_descriptors(network, maps))),
        "the convolutions alone": ("limit", lambda: _back(network, convolutions(network, maps))),
    }
    rows = _rows(ways, rounds)
    with torch.no_grad():
        apart = float((network(maps).spatial - plain_descriptors(network, maps)).abs().max())
    targets = [Target("largest difference of a descriptor", 1e-5, apart, at_most=True)]
    return Table("aggregation, one image, forward and backward", _size(network), rows, targets)


def _rows_only(width: int, grid: int, rounds: int) -> Table:
    sketch, photo = (
        F.normalize(torch.randn(1, width, grid, grid), dim=1).requires_grad_() for _ in range(2)
    )
    cells = torch.randint(grid, (1, N_POINTS, 2))
    points = (cells + 0.5) / grid

    def ours() -> Tensor:
        return soft_argmax(correlate(sample_descriptors(sketch, points, 1.0), photo), 1.0)

    def plain() -> Tensor:
        return flow_at(plain_flow(sketch, photo, 1.0, 0.02), points, grid, 1.0)

    def product() -> Tensor:
        return sample_descriptors(sketch, points, 1.0)[0] @ photo[0].flatten(1)

    def back(way: Callable[[], Tensor]) -> Way:
        return lambda: way().sum().backward()  # type: ignore[no-untyped-call]

    ways: dict[str, tuple[Kind, Way]] = {
        "keypoints' rows": ("ours", back(ours)),
        "full correlation": ("peer", back(plain)),
        "the rows' product alone": ("limit", back(product)),
    }
    rows = _rows(ways, rounds)
    with torch.no_grad():
        apart = float((ours() - plain()).abs().max())
    targets = [Target("largest difference of a point, share of the side", 1e-5, apart, True)]
    work = f"{N_POINTS} points of a pair, {width} x {grid} x {grid}"
    return Table("correlation and soft-argmax, forward and backward", work, rows, targets)


def _precision(network: AggregationNetwork, maps: dict[str, Tensor], rounds: int) -> Table:
    def mixed() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = network(maps).spatial
        return found

    ways: dict[str, tuple[Kind, Way]] = {
        "float32, the default": ("ours", lambda: _back(network, network(maps).spatial)),
        "bfloat16, train.precision=bf16": ("ours", lambda: _back(network, mixed())),
        "resizing first, float32": (
            "peer",
            lambda: _back(network, plain_descriptors(network, maps)),
        ),
        "the convolutions alone, float32": (
            "limit",
            lambda: _back(network, convolutions(network, maps)),
        ),
    }
    rows = _rows(ways, rounds)
    with torch.no_grad():
        apart = float((network(maps).spatial - mixed()).abs().max())
    notes = [f"largest difference of a descriptor's channel in bfloat16: {apart:.2g}"]
    work = _size(network)
    return Table("mixed precision, one image, forward and backward", work, rows, notes=notes)


def _batches(
    network: AggregationNetwork, maps: Callable[[int], dict[str, Tensor]], rounds: int
) -> Table:
    def forward_and_back(batch: dict[str, Tensor]) -> Way:
        return lambda: _back(network, network(batch).spatial)

    made = {n: maps(2 * n) for n in BATCHES}
    ways: dict[str, tuple[Kind, Way]] = {}
    for n, batch in made.items():
        ways[f"{n} pair{'s' * (n > 1)} at once"] = ("ours", forward_and_back(batch))
    ways["resizing first, 1 pair"] = (
        "peer",
        lambda: _back(network, plain_descriptors(network, made[1])),
    )
    ways["the convolutions alone, 1 pair"] = (
        "limit",
        lambda: _back(network, convolutions(network, made[1])),
    )
    rows = _rows(ways, rounds, per=[*BATCHES, 1, 1])
    return Table("batches of pairs, forward and backward, a pair", _size(network), rows)


def _size(network: AggregationNetwork) -> str:
    width = next(iter(network.blocks.values())).conv3.out_channels  # type: ignore[union-attr]
    return f"3 layers to {width} x {network.grid} x {network.grid}"


if __name__ == "__main__":
    bench(["heads", *sys.argv[1:]])
