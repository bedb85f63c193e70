"""The device and precision that training runs in, as accelerate sees them."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from configs import TrainConfig
from heads.training.run import RunError


def open_accelerator(settings: TrainConfig, trains: bool = True) -> Accelerator:
    """An accelerator of `train.device`, and of `train.precision` where something is trained.

    Raises RunError for a precision that the device does not have. An earlier accelerator of this
    process is not to be used any more.
    """
    if AcceleratorState._shared_state:
        # It remembers the first run's choice, and this is another run.
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    precision = settings.precision if trains else "no"
    try:
        accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=precision)
    except ValueError as error:
        raise RunError(
            f"train.precision: {precision} does not work here ({error}); set train.precision=no"
        ) from None
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise RunError("train.precision: fp16 needs a GPU; set train.precision=bf16 or no")
    return accelerator
