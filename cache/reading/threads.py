"""Work on a batch's records, shared among threads: one thread alone does not fill a memory bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_MAX_THREADS = 4
"""With more the memory is no faster, and somebody else may want the cores."""
_BYTES_A_THREAD = 2**22
"""Less is not worth a thread."""


def threads_for(n_bytes: int) -> int:
    """How many threads should copy so much. Never more than torch may use here, so that who
    gives torch one thread (``OMP_NUM_THREADS``, a DataLoader in its workers) gets one."""
    return max(1, min(_MAX_THREADS, torch.get_num_threads(), n_bytes // _BYTES_A_THREAD))


def shared(work: Callable[[T], None], items: Sequence[T], n_threads: int) -> None:
    """Do the work for every item in so many threads, of which the caller's is one.

    None is left when this returns or raises, so nothing has to survive a fork. Where several
    items raise, one of the errors is raised.
    """

    def part(first: int) -> None:
        for item in items[first::n_threads]:
            work(item)

    if n_threads == 1:
        part(0)
        return
    with ThreadPoolExecutor(n_threads - 1) as pool:
        others = [pool.submit(part, first) for first in range(1, n_threads)]
        part(0)
        for other in others:
            other.result()
