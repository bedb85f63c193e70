"""One training pair and one image as the released code does them, beside ours at equal ensemble.

    python benchmarks/train.py [CONFIG] [--set extraction.ensemble=32] [--rounds 3] [--json FILE]

Timed on the configured backbone with the same weights and pictures; operations are counted on the
same runs, and for the paper's sizes on its own architecture without numbers. The last table says
how long a training step waits for the store. Optimiser steps are left out: they are the same for
all.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import bench
from benchmarks.counting import LAYERS, N_POINTS, blueprint, flops, layer_maps, on_meta
from benchmarks.head import convolutions
from benchmarks.released import flow_at, plain_descriptors, plain_flow, released_maps
from benchmarks.timing import Fact, Kind, Report, Row, Table, Target, take_turns
from benchmarks.waiting import waiting
from configs import Config, load_config
from heads.aggregation import AggregationNetwork
from heads.matching import correlate, end_point_error, sample_descriptors, soft_argmax
from heads.sources import LiveFeatures
from heads.tasks import Located
from heads.training.experiment import Experiment, open_experiment
from pipeline.extraction.arrays import layer_array
from pipeline.networks.backbone import load_backbone, pick_device
from pipeline.networks.injection import Injection
from pipeline.networks.noise import draw_noise
from pipeline.networks.unet import LAYER_SITE
from pipeline.pictures.images import letterbox
from pipeline.precompute import precompute

PAPER = ("sd21-clip-l336", 1280, 60)
PAPER_DRAWS = 32
SEVERAL = 8
"""Pairs a step, as in the presets of the procedural world."""
IN_BATCHES = f"ours, head on the store, {SEVERAL} pairs a step"
CPU = torch.device("cpu")


def measure(
    name: str,
    overrides: Sequence[str],
    rounds: int,
    folder: Path | None = None,
    full_size: bool = False,
) -> Report:
    """All tables; `name` and `overrides` choose a correspondence configuration.

    `full_size` adds one turn at the paper's sizes, with random weights: minutes and 8 GB.
    """
    chosen = ["train.features=[sd]", "train.device=cpu", "extraction.device=cpu"]
    config = load_config(name, [*chosen, *overrides])
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = Path(place, "store")
        precompute(config, store)
        pair = _Pair(name, [*chosen, *overrides], store)
        tables = [_counted(), pair.training(rounds), pair.image(rounds)]
        tables.append(waiting(config, store, Path(place), rounds, pick_device("auto")))
    if full_size:
        tables.append(_full_size())
    settings: dict[str, Fact] = {
        "backbone": config.backbone.label,
        "draws": config.extraction.ensemble,
    }
    return Report("train", {**settings, "rounds": rounds}, tables)


def opened(config: Config, store: Path) -> Experiment:
    """An experiment on a store, ready to train."""
    experiment = open_experiment(config, [store], CPU, lambda line: None)
    experiment.learner.train()
    return experiment


def _counted() -> Table:
    """A pair at the paper's sizes, counted."""
    name, width, grid = PAPER
    plan = blueprint(load_config("demo", [f"backbone={name}"]).backbone, width, grid)
    backbone, network, draws = plan.backbone, plan.network, PAPER_DRAWS

    def features() -> object:
        noise, injection = plan.latents(draws), plan.injection
        return released_maps(
            backbone, plan.square(), noise, 5, LAYERS, injection, plan.encode_prompt
        )

    def plain_head() -> None:
        maps = layer_maps(plan)
        sketch, photo = (plain_descriptors(network, maps) for _ in range(2))
        flow = plain_flow(sketch, photo, 1.0, 0.02)
        flow.sum().backward()  # type: ignore[no-untyped-call]

    def head(maps: Callable[[], dict[str, Tensor]]) -> None:
        plan.loss(*(network(maps()).spatial for _ in range(2))).backward()  # type: ignore[no-untyped-call]

    def live() -> dict[str, Tensor]:
        features, state = plan.start(plan.latents(1), plan.tokens(1), "down.0")
        return plan.finish(features, state, plan.tokens(1), "down.0")

    with on_meta():
        cached = flops(lambda: head(lambda: layer_maps(plan)))
        one_draw = flops(lambda: head(live))
        counts = {
            "released": 2 * flops(features) + flops(plain_head),
            f"ours live, {draws} draws": cached + draws * (one_draw - cached),
            "ours live, one fresh draw a step": one_draw,
            "ours, head on the store": cached,
        }
    released = counts["released"]
    rows = [
        Row(
            name,
            "peer" if name == "released" else "ours",
            facts={"TFLOP": n / 1e12, "times fewer": released / n},
        )
        for name, n in counts.items()
    ]
    rows.append(Row("the head's own", "limit", facts={"TFLOP": cached / 1e12}))
    targets = [
        Target("head on the store, times fewer FLOPs", 150, released / cached),
        Target("live, one draw, times fewer FLOPs", 35, released / one_draw),
    ]
    work = f"{PAPER[0]}, head {width} x {grid} x {grid}, {draws} draws, forward and backward"
    return Table("operations of a training pair at the paper's sizes", work, rows, targets)


def _full_size() -> Table:
    """A pair at the paper's sizes, one draw and one turn; further draws are extrapolated."""
    name, width, grid = PAPER
    config = load_config("demo", [f"backbone={name}", "backbone.weights=random"]).backbone
    backbone = load_backbone(config)
    torch.manual_seed(0)
    injection = Injection(backbone.clip.width, backbone.channels)
    side = config.resolution
    square = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    noise = torch.randn_like(backbone.encode_latents(square))
    channels = {layer: backbone.channels[LAYER_SITE[layer]] for layer in LAYERS}
    network = AggregationNetwork(channels, width, grid)
    points = torch.rand(1, N_POINTS, 2)
    maps: dict[str, Tensor] = {}

    def released(turn: int) -> None:
        for _ in range(2):
            maps.update(released_maps(backbone, square, noise, 195, LAYERS, injection))
        sketch, photo = (plain_descriptors(network, maps) for _ in range(2))
        plain_flow(sketch, photo, 1.0, 0.02).sum().backward()  # type: ignore[no-untyped-call]

    def further_draw(turn: int) -> None:
        for _ in range(2):
            backbone.unet_features(backbone.encode_latents(square), noise, 195, LAYERS)

    def ours(turn: int) -> None:
        sketch, photo = (network(maps).spatial for _ in range(2))
        rows = correlate(sample_descriptors(sketch, points, 1.0), photo)
        soft_argmax(rows, 1.0).sum().backward()  # type: ignore[no-untyped-call]

    def bare(turn: int) -> None:
        (convolutions(network, maps) + convolutions(network, maps)).backward()  # type: ignore[no-untyped-call]

    ways = {
        "released, 1 draw": released,
        "of which each further draw": further_draw,
        "ours, head on maps of a store": ours,
        "the head's convolutions alone": bare,
    }
    seconds = take_turns(ways, 1, warm_up=0)
    first, each, own = (seconds[way][0] for way in list(ways)[:3])
    whole = first + (PAPER_DRAWS - 1) * each
    kinds: tuple[Kind, ...] = ("peer", "peer", "ours", "limit")
    rows = [Row(way, kind, seconds[way]) for kind, way in zip(kinds, ways, strict=True)]
    notes = [
        f"measured at one draw: {first / own:.3g} times less time",
        f"extrapolated to {PAPER_DRAWS} draws: {whole:.0f} s, {whole / own:.3g} times less time",
    ]
    work = f"{name} with random weights, head {width} x {grid} x {grid}, one turn"
    return Table("a training pair at the paper's sizes", work, rows, notes=notes)


class _Pair:
    """One training pair of the world, and each way to its gradients."""

    def __init__(self, name: str, overrides: Sequence[str], store: Path) -> None:
        one = [*overrides, "train.batch_size=1"]
        live = [*one, "train.injection.sites=all", "train.injection.init=random"]
        self.config = load_config(name, one)
        self.cached = opened(self.config, store)
        self.live = opened(load_config(name, live), store)
        self.fresh = opened(load_config(name, [*live, "train.injection.noise=fresh"]), store)
        batches: list[list[Any]] = self.cached.task.batches(torch.Generator().manual_seed(0))
        self.batch = batches[0]
        self.several = [pair for batch in batches[:SEVERAL] for pair in batch]
        self.ids = self.cached.task.images(self.batch)
        self.maps = self.cached.source.maps(self.ids)
        source = self.live.source
        assert isinstance(source, LiveFeatures)
        self.backbone = source.backbone
        self.injection: Injection = source.injection
        extraction = self.config.extraction
        self.draws, self.timestep = extraction.ensemble, extraction.timesteps[0]

    def training(self, rounds: int) -> Table:
        """The table of a training pair."""
        ways: dict[str, Callable[[], Tensor]] = {
            "released": self.released_loss,
            f"ours live, {self.draws} draws": lambda: self.live.learner(self.batch),
            "ours live, one fresh draw a step": lambda: self.fresh.learner(self.batch),
            "ours, head on the store": lambda: self.cached.learner(self.batch),
            IN_BATCHES: lambda: self.cached.learner(self.several),
            "head on maps in memory": self.head_loss,
        }
        n_pairs = {IN_BATCHES: len(self.several)}
        table = self._timed("one training pair, forward and backward", ways, rounds, n_pairs)
        by_name = {row.name: row for row in table.rows}
        fewer = float(by_name[IN_BATCHES].facts["times fewer"])
        targets = [
            # The released code takes one pair a step; a head on a store takes several.
            Target(f"{IN_BATCHES}, times less time", 100, table.speed(IN_BATCHES, "released")),
            Target(f"{IN_BATCHES}, times fewer FLOPs", 150, fewer),
        ]
        notes = ["released: the prompt is not encoded here (nano has no text encoder)"]
        return replace(table, targets=targets, notes=notes)

    def image(self, rounds: int) -> Table:
        """The table of one image's features."""
        image_id = self.ids[0]
        noise = self.noise(image_id)
        square = self.square(image_id)
        layers = self.config.extraction.layers
        with torch.no_grad():
            z0 = self.backbone.encode_latents(square)
            projected = self.injection.project(self.backbone.encode_clip(square)[0])
        rows = torch.zeros(self.draws, dtype=torch.long)

        def unet(latents: Tensor) -> dict[str, Tensor]:
            return self.backbone.unet_features(
                latents[rows], noise, self.timestep, layers, projected, rows
            )

        def ours() -> object:
            latents = self.backbone.encode_latents(square)
            with torch.no_grad():
                self.injection.project(self.backbone.encode_clip(square)[0])
            return {name: value.mean(0) for name, value in unet(latents).items()}

        ways: dict[str, Callable[[], object]] = {
            "released": lambda: self.released_maps(image_id),
            "ours, the VAE once": ours,
            "bare UNet, all draws": lambda: unet(z0),
        }
        return self._timed("features of one image", ways, rounds)

    def released_loss(self) -> Tensor:
        """The pair's loss by the released way; dropout and target noise as in training."""
        network = self.cached.learner.aggregation
        assert isinstance(network, AggregationNetwork)
        pair, frame = self.batch[0], self.cached.task.frame
        sketch, photo = (
            plain_descriptors(network, self.released_maps(name))
            for name in (pair.sketch, pair.photo)
        )
        flow = plain_flow(sketch, photo, 1.0, 0.02)
        points = frame.to_square(pair.sketch, pair.sketch_points).float()[None]
        target = frame.to_square(pair.photo, pair.photo_points).float()[None]
        found = flow_at(flow, points.nan_to_num(0.5), network.grid, 1.0)
        return end_point_error(found, target, pair.visible[None], 1 / network.grid)

    def released_maps(self, image_id: str) -> dict[str, Tensor]:
        """Maps by array name, from the picture."""
        maps = released_maps(
            self.backbone,
            self.square(image_id),
            self.noise(image_id),
            self.timestep,
            self.config.extraction.layers,
            self.injection,
        )
        return {layer_array(self.timestep, layer): value for layer, value in maps.items()}

    def head_loss(self) -> Tensor:
        """The loss of maps that are there: what no way can do without."""
        learner = self.cached.learner
        found = Located.of(self.ids, learner.aggregation(self.maps))
        loss: Tensor = learner.task.loss(self.batch, found, learner.layers)
        return loss

    def square(self, image_id: str) -> Tensor:
        """The picture read and decoded, uint8 [1, 3, R, R]."""
        dataset, config = self.cached.dataset, self.config
        picture = dataset.decode(image_id, dataset.read(image_id))
        square = letterbox(picture, config.backbone.resolution, config.extraction.pad)
        return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))[None]

    def noise(self, image_id: str) -> Tensor:
        """[E, 4, h, w]."""
        shape = self.live.stores[0].arrays["vae/latent"].shape
        return torch.stack(
            [draw_noise(shape, 0, image_id, self.timestep, draw) for draw in range(self.draws)]
        )

    def _timed(
        self,
        title: str,
        ways: dict[str, Callable[[], Any]],
        rounds: int,
        n_pairs: Mapping[str, int] = {},
    ) -> Table:
        def once(way: Callable[[], Any]) -> None:
            for experiment in (self.cached, self.live, self.fresh):
                experiment.learner.zero_grad(set_to_none=True)
            result = way()
            if isinstance(result, Tensor):
                result.backward()  # type: ignore[no-untyped-call]

        each = {name: n_pairs.get(name, 1) for name in ways}
        counted = {
            name: flops(lambda way=way: once(way)) / each[name]  # type: ignore[misc]
            for name, way in ways.items()
        }
        turns = take_turns(
            {name: lambda turn, way=way: once(way) for name, way in ways.items()},  # type: ignore[misc]
            rounds,
        )
        seconds = {name: [s / each[name] for s in times] for name, times in turns.items()}
        limit = list(ways)[-1]
        rows = []
        for name in ways:
            kind: Kind = "limit" if name == limit else "peer" if name == "released" else "ours"
            less = float(np.median(np.divide(seconds["released"], seconds[name])))
            facts: dict[str, Fact] = {
                "GFLOP": counted[name] / 1e9,
                "times fewer": counted["released"] / counted[name],
                "times less time": less,
            }
            rows.append(Row(name, kind, seconds[name], facts))
        return Table(title, f"{self.config.backbone.label}, {self.draws} draws", rows)


if __name__ == "__main__":
    bench(["train", *sys.argv[1:]])
