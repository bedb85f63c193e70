"""How long a training step waits for the store: the last table of `sketchfusion bench train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Kind, Row, Table, Target, take_turns
from cache import FeatureStore
from configs import Config
from heads.sources import CachedFeatures
from heads.tasks import Located
from heads.training.experiment import open_experiment

N_BATCHES = 8
STORE, AHEAD, FILES, MEMORY = (
    "step from the store",
    "step from the store, read ahead",
    "step from one .pt an image",
    "step from memory",
)
KINDS: dict[str, Kind] = {STORE: "ours", AHEAD: "ours", FILES: "peer", MEMORY: "limit"}


def waiting(config: Config, store: Path, folder: Path, rounds: int, device: torch.device) -> Table:
    """What reading takes of a training step, in batches of the configuration's size."""
    work = _Steps(config, store, folder, device)
    seconds = take_turns(
        {name: lambda turn, name=name: work.epoch(name) for name in KINDS},  # type: ignore[misc]
        rounds,
    )
    shares = {
        name: float(np.median(np.divide(work.waited[name][-rounds:], seconds[name])))
        for name in (STORE, AHEAD, FILES)
    }
    rows = [
        Row(
            name,
            kind,
            [s / len(work.batches) for s in seconds[name]],
            {"waits": f"{100 * shares[name]:.2f} %"} if name in shares else {},
        )
        for name, kind in KINDS.items()
    ]
    # The trainer reads ahead beside a GPU, where that costs nothing.
    used = AHEAD if work.source.reads_ahead else STORE
    target = Target("share of a step that waits for the store", 0.05, shares[used], at_most=True)
    title = "waiting for the store while a head trains"
    what = f"a step of {config.train.batch_size} pairs, forward and backward, on {device}"
    return Table(title, what, rows, [target])


class _Steps:
    """Training steps over the same batches, with maps from wherever."""

    def __init__(self, config: Config, store: Path, folder: Path, device: torch.device) -> None:
        experiment = open_experiment(config, [store], device, lambda line: None)
        self.learner, self.task = experiment.learner.to(device).train(), experiment.task
        assert isinstance(experiment.source, CachedFeatures)
        self.source = experiment.source
        self.ahead = CachedFeatures(experiment.stores, self.source.arrays, device)
        self.ahead.reads_ahead = True
        self.device = device
        batches: list[list[Any]] = self.task.batches(torch.Generator().manual_seed(0))
        self.batches = [(batch, self.task.images(batch)) for batch in batches[:N_BATCHES]]
        self.memory = {ids: self.source.maps(ids) for _, ids in self.batches}
        self.waited: dict[str, list[float]] = {name: [] for name in KINDS}
        self.folder = folder
        self._save_files(FeatureStore.open(store))
        self._read: dict[str, Callable[[tuple[str, ...]], dict[str, Tensor]]] = {
            STORE: self.source.maps,
            AHEAD: self.ahead.maps,
            FILES: self._from_files,
            MEMORY: lambda ids: self.memory[ids],
        }

    def epoch(self, kind: str) -> None:
        """All steps once."""
        read, waited = self._read[kind], 0.0
        if kind == AHEAD:
            self.ahead.expect(self.batches[0][1])
        for number, (batch, ids) in enumerate(self.batches):
            if kind == AHEAD and number + 1 < len(self.batches):
                self.ahead.expect(self.batches[number + 1][1])
            start = time.perf_counter()
            maps = read(ids)
            self._wait()
            waited += time.perf_counter() - start
            self._step(batch, ids, maps)
            self._wait()
        self.waited[kind].append(waited)

    def _step(self, batch: Sequence[Any], ids: tuple[str, ...], maps: dict[str, Tensor]) -> None:
        self.learner.zero_grad(set_to_none=True)
        found = Located.of(ids, self.learner.aggregation(maps))
        self.task.loss(batch, found, self.learner.layers).backward()  # type: ignore[no-untyped-call]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _save_files(self, store: FeatureStore) -> None:
        for image_id in {i for _, ids in self.batches for i in ids}:
            found = store.read([image_id], self.source.arrays)
            torch.save({name: v[0].clone() for name, v in found.items()}, self._file(image_id))

    def _from_files(self, ids: tuple[str, ...]) -> dict[str, Tensor]:
        loaded = [torch.load(self._file(image_id)) for image_id in ids]
        return {
            name: torch.stack([one[name] for one in loaded]).to(self.device).float()
            for name in self.source.arrays
        }

    def _file(self, image_id: str) -> Path:
        return self.folder / f"{image_id.replace('/', '-')}.pt"
