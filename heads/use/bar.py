"""Progress over a gallery's photos, for a terminal."""

from __future__ import annotations

from pipeline.bar import Bar


class PhotoBar(Bar):
    """From the first photo that is described to the last."""

    unit = "img"

    def update(self, done: int, total: int) -> None:
        """The listener of `open_gallery`."""
        self.show(done, total, "")
