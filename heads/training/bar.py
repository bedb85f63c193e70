"""The progress bar of training."""

from __future__ import annotations

from heads.training.trainer import TrainProgress
from pipeline.bar import Bar


class StepBar(Bar):
    """Over training steps, with the last loss and the last validation."""

    unit = "step"

    def __init__(self) -> None:
        super().__init__()
        self._loss = self._validation = ""

    def update(self, progress: TrainProgress) -> None:
        """The listener of `train`."""
        if progress.validation is None:
            self._loss = f"loss {progress.loss:.3f}"
        else:
            metric, value = next(iter(progress.validation.items()))
            self._validation = (
                f", epoch {progress.epoch} of {progress.n_epochs}: {metric} {100 * value:.1f}"
            )
        self.show(progress.step, progress.n_steps, self._loss + self._validation)
        if progress.step == progress.n_steps and progress.validation is not None:
            self.close()
