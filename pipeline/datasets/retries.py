"""Reading again what a disk, mount or network failed to give."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from cache.errors import is_transient
from pipeline.datasets.base import DatasetError

RETRY_PAUSES = (0.1, 1.0)
"""Seconds to wait before each further try."""

T = TypeVar("T")


class LoadingError(DatasetError):
    """Files cannot be read at present; nothing is said about what is in them."""

    @classmethod
    def of(cls, what: str, error: OSError) -> LoadingError:
        """The error for a file or folder, which the message names."""
        return cls(
            f"{what}: cannot be read ({error.strerror or error}); finished shards are kept, run "
            "the same command again when it can be"
        )


def retry_transient(read: Callable[[], T], what: str) -> T:
    """Call `read`, and again after each pause while it fails with a transient OSError.

    Any other OSError passes through at once. Raises LoadingError, which names `what`, if the last
    try fails too.
    """
    for pause in (*RETRY_PAUSES, None):
        try:
            return read()
        except OSError as error:
            if not is_transient(error):
                raise
            if pause is None:
                raise LoadingError.of(what, error) from error
            time.sleep(pause)
    raise AssertionError("unreachable")
