"""benchmarks/torture.py, in short."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from benchmarks.torture import Broken, World, check_killed, compare, flip, torture


def test_killed_flipped_and_shared(torn: World) -> None:
    lines = list(torture(torn, n_kills=10, n_flips=8, n_rounds=1))
    assert [line.partition(":")[0] for line in lines[:4]] == [
        "precompute", "growth", "repair", "training"
    ]  # fmt: skip
    assert "8 of 8 found and repaired (records 2, indexes 2, commits 2, documents 2)" in lines[4]


def test_it_would_notice(torn: World) -> None:
    """A torture that cannot fail proves nothing."""
    store = torn.copy(torn.whole, "noticed")
    flip(store / "sd/t195/s4/c.0.0.0.0", 5)
    with pytest.raises(Broken, match="differs from"):
        compare(store, torn.whole)
    with pytest.raises(Broken, match="damaged by a kill: "):
        check_killed(store)
    (store / "sd/t195/s4/.c.0.0.0.0.abc.tmp").write_bytes(b"")
    shutil.copy(torn.whole / "sd/t195/s4/c.0.0.0.0", store / "sd/t195/s4")
    with pytest.raises(Broken, match=r"abc\.tmp"):
        compare(store, torn.whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_repair_says_how_to_go_on(
    torn: World, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    store = torn.copy(torn.whole, "stopped")
    flip(store / "vae/latent/c.1.0.0.0", 5)

    def stop_at_the_rename() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        replace = os.replace

        def stopped(*paths: Path) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            replace(*paths)

        os.replace = stopped  # type: ignore[assignment]

    torn.commands.log.write_text("")
    process = torn.commands.start(torn.repair(store), stop_at_the_rename)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
    log = torn.commands.log.read_text()
    assert "stopped; nothing is lost, run the same command again" in log
    assert "Traceback" not in log
    torn.commands.finish("repair", torn.repair(store))
    compare(store, torn.whole)
