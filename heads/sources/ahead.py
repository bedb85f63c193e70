"""Reading a batch while the one before it is computed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Read = Callable[[Sequence[str]], dict[str, Tensor]]
"""Gives features by name, of images by their ids."""

N_EXPECTED = 2
"""Batches that are read and not asked for yet; what was expected before them is let go."""


class ReadAhead:
    """Reads expected batches in a thread of its own.

    Args:
        read: reads a batch; called from the thread, and for what nobody expected from the caller's.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._expected: OrderedDict[tuple[str, ...], Future[dict[str, Tensor]]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    def expect(self, ids: Sequence[str]) -> None:
        """Begin to read these images."""
        key = tuple(ids)
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
            if key in self._expected:
                return
            self._expected[key] = self._thread.submit(self._read, key)
            while len(self._expected) > N_EXPECTED:
                self._expected.popitem(last=False)[1].cancel()

    def take(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """What was read of these images, in this order. Raises what reading raised."""
        with self._lock:
            expected = self._expected.pop(tuple(ids), None)
        return self._read(ids) if expected is None else expected.result()
