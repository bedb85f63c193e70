"""Progress bars for a terminal, on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.compute import Progress


class Bar:
    """A tqdm bar that appears with the first news and goes with the last."""

    unit: str

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, done: int, total: int, words: str) -> None:
        """Move the bar to `done` of `total`."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, unit=self.unit, smoothing=0.05, dynamic_ncols=True
            )
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is; the next news begins another."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ImageBar(Bar):
    """Over images: one for each precompute, from its first batch to its last."""

    unit = "img"

    def update(self, progress: Progress) -> None:
        """The listener of `precompute`."""
        self.show(progress.done, progress.n_images, progress.shares())
        if progress.done == progress.n_images:
            self.close()
