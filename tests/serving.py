"""`sketchfusion serve` as a user starts and stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """The address of a server with these arguments, at a free port; Ctrl-C must end it well."""
    with tempfile.TemporaryFile("w+") as errors:  # Of a pipe that nobody empties it would stall.
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "serve", *map(str, arguments), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )

        def said() -> str:
            errors.seek(0)
            return errors.read()

        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", line), line + said()
            yield line
            process.send_signal(signal.SIGINT)
            process.wait(60)
            assert process.returncode == 130 and said().strip().endswith("stopped"), said()
        finally:
            process.kill()
            process.wait()
