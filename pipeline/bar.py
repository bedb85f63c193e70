"""Progress on standard error: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from pipeline.compute import Progress


DELAY_SECONDS = 0.5
"""What takes less shows no bar."""
LOG_SECONDS = 30.0
"""Between two lines where nobody watches."""
NO_LIBRARY_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""Environment of a process in which no library shows a bar; tqdm reads it when it is imported."""


@contextmanager
def no_library_bars() -> Iterator[None]:
    """Hide the bars of other libraries, such as diffusers' over the files of a checkpoint.

    Libraries not imported yet, and processes started meanwhile, go by the environment. Everything
    is as before afterwards, except that a tqdm imported meanwhile stays hidden.
    """
    with ExitStack() as undo:
        undo.enter_context(environment(NO_LIBRARY_BARS))
        for name in ("diffusers.utils.logging", "transformers.utils.logging"):
            library = sys.modules.get(name)
            if library is not None and library.is_progress_bar_enabled():
                library.disable_progress_bar()
                undo.callback(library.enable_progress_bar)
        hub = sys.modules.get("huggingface_hub.utils")
        if hub is not None and not hub.are_progress_bars_disabled():
            hub.disable_progress_bars()
            undo.callback(hub.enable_progress_bars)
        yield


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables, for this process and those it starts; undone afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Bar:
    """A tqdm bar that appears with the first news and goes with the last."""

    quiet: ClassVar[bool] = False
    """Whether none of them appears."""
    unit: str

    def __init__(self, unit: str = "") -> None:
        self.unit = unit or self.unit
        self._bar: Any = None

    def show(self, done: int, total: int, words: str = "") -> None:
        """Move the bar to `done` of `total`."""
        from tqdm import tqdm

        if self._bar is None:
            watched = sys.stderr.isatty()
            self._bar = tqdm(
                total=total,
                initial=done,
                unit=self.unit,
                smoothing=0.05,
                delay=DELAY_SECONDS,
                disable=self.quiet,
                dynamic_ncols=watched,
                file=sys.stderr if watched else _Lines(sys.stderr),
                mininterval=0.1 if watched else LOG_SECONDS,
                maxinterval=10 if watched else LOG_SECONDS,
            )
        self._bar.total = total
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


class _Lines:
    """Makes a line of its own of each state of a bar, which a terminal writes over the last."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if text := text.strip():
            self._file.write(f"{text}\n")

    def flush(self) -> None:
        self._file.flush()


class ImageBar(Bar):
    """Over images: one for each precompute, from its first batch to its last."""

    unit = "img"

    def update(self, progress: Progress) -> None:
        """The listener of `precompute`."""
        self.show(progress.done, progress.n_images, progress.shares())
        if progress.done == progress.n_images:
            self.close()
