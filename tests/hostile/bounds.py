"""A call in a process of its own that may take only so much memory and time."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path


def bounded(function: Callable[[], object], mib: int, seconds: float = 20.0) -> str:
    """What a call gives or raises, as text: `repr` of the result, or `Type: message`.

    Fails where the call wants more than `mib` beside what this process has, or does not return.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(function, mib, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.poll(seconds), f"no answer within {seconds:g} s"
        return str(ours.recv())
    finally:
        process.kill()
        process.join()


def _call(function: Callable[[], object], mib: int, answer: Connection) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        answer.send(repr(function()))
    except BaseException as error:
        answer.send(f"{type(error).__name__}: {error}")
