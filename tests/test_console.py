"""Quiet, verbose, progress in a log, completion: what is the same for all commands."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main
from pipeline.bar import Bar
from tests.heads.worlds import ROOT, World, ok, run


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_the_common_options(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.epilog and f"sketchfusion {name}" in command.epilog
    options = {option for param in command.params for option in param.opts}
    assert {"-q", "--quiet", "-v", "--verbose"} <= options
    shown = ok(*name.split(), "--help").stdout
    assert "Examples:" in shown and "\x1b" not in shown


def test_quiet_leaves_results_and_errors(world: World, tmp_path: Path) -> None:
    loud = world.train(tmp_path / "loud", "task=retrieval", "train.epochs=1")
    quiet = world.train(tmp_path / "quiet", "task=retrieval", "train.epochs=1", extra=["--quiet"])
    assert world.store.name in loud.stderr and quiet.stderr == "" and quiet.stdout
    assert not Bar.quiet
    failed = run("plan", "no-such-preset", "--quiet")
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: ")


def test_verbose_says_where_an_error_was_met() -> None:
    plain, verbose = (run("plan", "no-such-preset", *more) for more in ([], ["-v"]))
    assert "Traceback" not in plain.stderr
    assert "Traceback" in verbose.stderr and "configs/load.py" in verbose.stderr
    assert verbose.stderr.endswith(plain.stderr)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("plan", "Error: Missing argument 'CONFIG'; see `sketchfusion plan --help`"),
        ("plna", "Error: No such command 'plna'. Did you mean 'plan'? See `sketchfusion --help`"),
        ("cache prune x", "Error: say what to drop: --timestep or --array, or else --temporary; "
         "see `sketchfusion cache prune --help`"),
    ],
)  # fmt: skip
def test_a_mistyped_command_is_one_line(words: str, line: str) -> None:
    typed = run(*words.split())
    assert typed.exit_code == 2 and typed.stdout == ""
    assert typed.stderr.replace("main", "sketchfusion").strip() == line


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bar.DELAY_SECONDS", 0.0)
    for seconds, expected in ((0.0, 12), (3600.0, 2)):
        monkeypatch.setattr("pipeline.bar.LOG_SECONDS", seconds)
        log = io.StringIO()
        monkeypatch.setattr(sys, "stderr", log)
        with Bar("img") as bar:
            for done in range(1, 11):
                bar.show(done, 10, f"read {done}%")
        lines = log.getvalue().splitlines()
        assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()
        assert 2 <= len(lines) <= expected and "10/10" in lines[-1] and "read 10%" in lines[-1]


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    answer = subprocess.run(
        [sys.executable, "-c", "from cli import main; main(prog_name='sketchfusion')"],
        env={
            **os.environ,
            "_SKETCHFUSION_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition(",")[2] for line in answer.stdout.splitlines()]


def test_a_shell_completes_commands_presets_and_keys() -> None:
    assert completed("sketchfusion", "pre") == ["precompute"]
    assert "shapes/retrieval" in completed("sketchfusion", "plan", "shapes/")
    assert completed("sketchfusion", "plan", "demo", "--set", "extraction.time") == [
        "extraction.timesteps="
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_program(shell: str) -> None:
    script = ok("completion", shell).stdout
    assert "_SKETCHFUSION_COMPLETE" in script and "sketchfusion" in script


def test_bash_accepts_the_script(tmp_path: Path) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(ok("completion", "bash").stdout)
    subprocess.run(["bash", "-n", script], check=True)
