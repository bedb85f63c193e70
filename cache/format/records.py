"""What a store knows of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any


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


RECORD_TYPES: Mapping[str, set[type]] = {
    "id": {str},
    "sha256": {str},
    "width": {int, type(None)},
    "height": {int, type(None)},
}
"""What the values of a record may be, in the order of ``images.jsonl``."""


def have_record_types(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the values of rows with a record's keys are of their types.

    Asked of all at once, because one by one takes most of the time of opening a large store.
    """
    return all(
        set(map(type, map(itemgetter(key), rows))) <= kinds for key, kinds in RECORD_TYPES.items()
    )
