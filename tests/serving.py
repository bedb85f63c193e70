"""`sketchfusion serve` as a user starts and stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """The address of a server with these arguments, at a free port; Ctrl-C must end it well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline().strip()
        if not re.fullmatch(r"http://127\.0\.0\.1:\d+/", line):
            raise AssertionError(line + process.stderr.read())
        yield line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.strip().endswith("stopped"), errors
    finally:
        process.kill()
        process.wait()
