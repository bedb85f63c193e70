"""Quiet, verbose, progress in a log, completion: what is the same for all commands."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from cli import main
from configs import SDConfig
from pipeline.bar import Bar
from pipeline.networks.checkpoints import BackboneError
from pipeline.networks.stable_diffusion import load_stable_diffusion
from tests import tiny
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


# --- what libraries print -------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose UNet lies in several files, so that diffusers has a bar to show."""
    root = tmp_path_factory.mktemp("sharded")
    tiny.save_tiny_sd(root / "sd", unet_shard_size="1MB")
    model, weights = tiny.save_tiny_clip(root / "clip", image_size=64)
    tiny.write_images(root / "pictures", 1)
    config = {
        "backbone": {
            "sd": {"source": str(root / "sd")},
            "clip": {"model": str(model), "pretrained": str(weights)},
            "resolution": 64,
        },
        "dataset": {"name": "folder", "root": str(root / "pictures")},
        "extraction": {"device": "cpu", "workers": 0},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def test_no_bar_of_a_library_where_ours_would_not_show(
    sharded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def shown_in_python() -> bool:
        load_stable_diffusion(SDConfig(source=str(sharded / "sd")))
        return "Loading checkpoint shards" in capfd.readouterr().err

    assert shown_in_python()
    command = ("precompute", sharded / "config.yaml", "--out")
    assert ok(*command, tmp_path / "quiet", "--quiet").stderr == ""
    log = ok(*command, tmp_path / "log").stderr  # which no terminal shows
    assert "loading backbone" in log and "Loading" not in log and "\r" not in log
    assert capfd.readouterr().err == ""
    assert shown_in_python()


@pytest.mark.parametrize(("flag", "silent"), [("--quiet", True), ("--verbose", False)])
def test_quiet_hides_the_warnings_of_libraries(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, flag: str, silent: bool
) -> None:
    reports: list[bool] = []

    def load(*arguments: object) -> None:
        warnings.warn("a weight is not used", UserWarning, stacklevel=1)
        reports.append(logging.getLogger("diffusers.models").isEnabledFor(logging.WARNING))
        assert logging.getLogger("diffusers.models").isEnabledFor(logging.ERROR)
        raise BackboneError("no weights")

    monkeypatch.setattr("pipeline.plan.make_plan", load)
    variables = dict(os.environ)
    assert "no weights" in run("plan", "demo", flag).stderr
    assert reports == [not silent] and len(recwarn) == (not silent)
    assert dict(os.environ) == variables
    assert logging.getLogger("diffusers.models").isEnabledFor(logging.WARNING)


def test_bars_of_libraries_that_are_imported_later_are_hidden() -> None:
    """As in every command: nothing is imported when its flags are read."""
    script = (
        "from cli import main; import click\n"
        "@main.command()\n"
        "def load():\n"
        "    from tqdm import tqdm; import subprocess, sys\n"
        "    list(tqdm(range(3)))\n"
        "    child = 'from tqdm import tqdm; list(tqdm(range(3)))'\n"
        "    subprocess.run([sys.executable, '-c', child], check=True)\n"
        "main(['load', '--quiet'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
