"""`sketchfusion demo` as one function: both stages on a small world, measured, checked and shown.

OUT/store        the features of plain SD and CLIP
OUT/runs/…       a run for each head, and the one that trained an injection
OUT/pictures     the features of the user's own pictures
OUT/report.html  the report
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from configs import load_config
from heads.demo.own import own_config, show_own
from heads.demo.records import Demonstration
from heads.demo.report import write_report
from heads.demo.stage1 import run_stage1, shown_arrays
from heads.demo.stage2 import INJECTED_TASK, Stage2
from heads.demo.summary import text_summary
from heads.machine import describe_machine
from heads.training.experiment import Log
from heads.training.trainer import TrainListener
from pipeline.compute import Listener


def run_demo(
    out: Path,
    pictures: Path | None,
    images: Listener,
    steps: TrainListener,
    log: Log,
    overrides: Sequence[str] = (),
) -> str:
    """Run the demonstration into `out` and return its figures as text.

    Run again, it goes on with what is there and says so.

    Args:
        pictures: a folder of the user's own pictures for the report, or None.
        images: told about the progress of each precompute.
        steps: told about the progress of each training.
        log: told about each step in one line.
        overrides: `a.b=c` settings on top of the `demo` preset; those of `train` reach all heads.

    Raises:
        ConfigError, DatasetError, StoreError, RunError, OSError: with one line on what to do.
    """
    started = time.perf_counter()
    config = load_config("demo", overrides)
    own_pictures = None if pictures is None else own_config(config, pictures)
    store = out / "store"
    log("stage 1: features of every image, once")
    stage1 = run_stage1(config, store, images, log)
    log("stage 2: five heads on the one store")
    trained = [line for line in overrides if line.startswith("train.")]
    stage2 = Stage2(config, store, out / "runs", trained, images, steps, log)
    heads = stage2.heads()
    log("stage 2: the injection, trained live; then a new store, and the head on it")
    injection = stage2.injection()
    own = None
    if own_pictures is not None:
        log(f"your pictures: {pictures}")
        run = out / "runs" / INJECTED_TASK
        own = show_own(own_pictures, out / "pictures", run, shown_arrays(config), images)
    demonstration = Demonstration(
        stage1=stage1,
        heads=heads,
        injection=injection,
        own=own,
        seconds=time.perf_counter() - started,
        machine=describe_machine(),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    report = out / "report.html"
    write_report(report, demonstration)
    return text_summary(demonstration, report)
