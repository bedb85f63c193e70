"""The whole cycle by one configuration: train the injection live, precompute, go on from the cache.

    OUT/live/     the run that trained injection and head together
    OUT/store/    the features with that injection
    OUT/          the run that went on with the head alone

Each step is what its own command does, and is skipped where it is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate.state import PartialState

from cache import StorePath
from configs import Config
from heads.training.experiment import Log
from heads.training.run import Run, RunError
from heads.training.train import TrainReport, train
from heads.training.trainer import TrainListener
from pipeline.compute import Listener
from pipeline.precompute import Part, precompute


def train_cycle(
    config: Config,
    caches: Sequence[StorePath],
    out: Path,
    resume: bool,
    listener: TrainListener | None = None,
    images: Listener | None = None,
    log: Log = lambda line: None,
) -> TrainReport:
    """Run the three steps; `train.injection` is trained first, `train.cycle.epochs` come last.

    Args:
        caches: stores of latents and CLIP tokens to train the injection on.
        listener: told about the progress of training.
        images: told about the progress of the precompute.

    Raises:
        RunError: `train.cycle.epochs` without a site to train. Otherwise as `train` and
            `precompute`.
    """
    if not config.train.injection.sites:
        raise RunError(
            "train.cycle.epochs: without a trained injection there is no cycle; set "
            "train.injection.sites=all, or train.cycle.epochs=0"
        )
    if Run(out).exists and not resume:
        raise RunError(f"{out}: holds a run already; add --resume, or choose another --out")
    if not Run(out).exists:
        Run(out).check_free()
    log("1/3 train injection and head, live")
    live = train(live_config(config), caches, out / "live", resume, listener, log)
    assert live.injection is not None
    log("2/3 precompute with the trained injection")
    plain = Run(live.run).store_paths()
    heads_only = cached_config(config, live.injection, plain)
    _precompute_together(heads_only, out / "store", images, log)
    log("3/3 train the head on the cache")
    return train(heads_only, [out / "store"], out, resume, listener, log, initial=live.run)


def _precompute_together(config: Config, store: Path, listener: Listener | None, log: Log) -> None:
    """Each of the processes that train together computes a part, on its own device."""
    processes = PartialState()
    part = Part(processes.process_index + 1, processes.num_processes)
    precompute(config, store, part, listener=listener, log=log)
    processes.wait_for_everyone()


def live_config(config: Config) -> Config:
    """The first step's configuration."""
    train_part = config.train.model_copy(update={"cycle": type(config.train.cycle)()})
    return config.model_copy(update={"train": train_part})


def cached_config(config: Config, injection: Path, plain: Sequence[StorePath]) -> Config:
    """The last step's configuration: nothing in front of the head is trained any more.

    `plain` are the stores the injection was trained on; the baselines are read from them.
    """
    settings = config.train
    train_part = settings.model_copy(
        update={
            "injection": type(settings.injection)(),
            "cycle": type(settings.cycle)(),
            "epochs": settings.cycle.epochs,
            "caches": (),
            "baseline_caches": (*settings.baseline_caches, *map(str, plain)),
        }
    )
    # A stored prefix is for training an injection, and that is over.
    extraction = config.extraction.model_copy(
        update={"injection": injection.resolve(), "prefix": None}
    )
    return config.model_copy(update={"train": train_part, "extraction": extraction})
