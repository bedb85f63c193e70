"""The device and precision that training runs in, as accelerate sees them."""

from __future__ import annotations

from datetime import timedelta

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs

from configs import TrainConfig
from heads.training.run import RunError
from pipeline.networks.backbone import keep_float32

PATIENCE = timedelta(hours=6)
"""How long processes that train together wait for one that writes, or computes a last shard or the
metrics of a validation. One that dies is noticed by their launcher."""


def open_accelerator(settings: TrainConfig, trains: bool = True) -> Accelerator:
    """An accelerator of `train.device`, and of `train.precision` where something is trained.

    Raises RunError for a precision that the device does not have. An earlier accelerator of this
    process is not to be used any more.
    """
    if AcceleratorState._shared_state:
        # It remembers the first run's choice, and this is another run.
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    keep_float32()
    precision = settings.precision if trains else "no"
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=precision,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise RunError(
            f"train.precision: {precision} does not work here ({error}); set train.precision=no"
        ) from None
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise RunError("train.precision: fp16 needs a GPU; set train.precision=bf16 or no")
    return accelerator
