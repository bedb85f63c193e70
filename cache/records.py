"""What a store knows of an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRecord:
    """One image of a collection: a line of ``images.jsonl`` and a row of every array."""

    id: str
    """Path relative to the collection's root, with forward slashes; unique in a store."""
    sha256: str
    """Hex digest of the file's bytes."""
    width: int | None
    """Pixels; None where the size is unknown (an unreadable file)."""
    height: int | None
    """Pixels; None where the size is unknown."""
