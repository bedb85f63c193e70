"""How all commands speak: errors as one line, notes unless --quiet, tracebacks with --verbose.

Results go to standard output, progress and notes to standard error.
"""

# Heavy packages are imported inside the commands: `--help` should not wait for torch.
from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from pipeline.bar import Bar, environment, no_library_bars


class Terminated(BaseException):
    """SIGTERM arrived: unwind like Ctrl-C, so that an unfinished shard is rolled back."""


class Commands(click.Group):
    """A command group that turns the library's errors into one line and an exit code.

    Every command of it, and of the groups in it, takes --quiet and --verbose.
    """

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        super().add_command(cmd, name)
        _add_options(cmd)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            _speak()
            return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as stop:
            kept = _KEPT.get(ctx.invoked_subcommand or "", "")
            click.echo(f"\nstopped{kept}", err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise _Misused(error) from None
        except user_errors() as error:
            raise _one_line(str(error)) from None
        except BrokenPipeError:
            raise  # Who read the output, such as `head`, has enough; click ends quietly.
        except OSError as error:
            if error.filename is None and error.strerror is None:
                raise
            raise _one_line(_os_error(error)) from None
        finally:
            _spoken.update(quiet=False, verbose=False)
            Bar.quiet = False
            _silenced.close()


class _Misused(click.ClickException):
    """A command that was typed wrong: one line that says where to read how it is typed."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        command = "sketchfusion" if error.ctx is None else error.ctx.command_path
        message = " ".join(error.format_message().split()).rstrip(".")
        see = " See" if message.endswith("?") else "; see"
        super().__init__(f"{message}{see} `{command} --help`")


def _one_line(message: str) -> click.ClickException:
    """An error for the terminal; with --verbose, after where it was met."""
    from cache.units import printable

    if _spoken["verbose"]:
        traceback.print_exc()
    return click.ClickException(printable(" ".join(message.split())))


_spoken = {"quiet": False, "verbose": False}
"""How much the command that runs says."""
_silenced = ExitStack()
"""What keeps libraries silent while it runs."""


def _speak(**how: bool) -> None:
    """Begin a command, or take account of one of its flags."""
    _spoken.update(how)
    quiet, verbose = _spoken["quiet"], _spoken["verbose"]
    Bar.quiet = quiet
    _silenced.close()
    if quiet and not verbose:
        _silenced.enter_context(_no_warnings())
    if quiet or not sys.stderr.isatty():
        # Ours are lines now and then in a log; theirs would be one line without end.
        _silenced.enter_context(no_library_bars())
    if verbose:
        logging.basicConfig(level=logging.INFO)


_ERRORS_ALONE = {
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
}
"""Environment of worker processes whose libraries report errors alone."""


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Hide the warnings that libraries issue or log, here and in processes started meanwhile."""
    before = logging.root.manager.disable
    with environment(_ERRORS_ALONE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


def _on_flag(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        assert param.name is not None
        _speak(**{param.name: True})


def _add_options(command: click.Command) -> None:
    """--quiet and --verbose for a command, or for all that a group has."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _add_options(below)
        return
    for *names, help_ in (
        ("-q", "--quiet", "No notes, progress or warnings: results and errors alone."),
        ("-v", "--verbose", "Also what libraries log, and where an error was met."),
    ):
        option = click.Option(
            names, is_flag=True, expose_value=False, callback=_on_flag, help=help_
        )
        command.params.append(option)


_SHARDS_KEPT = "; finished shards are kept, and the same command goes on from there"
_KEPT = {
    "precompute": _SHARDS_KEPT,
    "demo": _SHARDS_KEPT,
    "cache": "; nothing is lost, run the same command again",
    "train": "; the last checkpoint is kept, and the same command with --resume goes on from there",
}
"""What a command that was stopped leaves behind."""

_USER_ERRORS = (
    ("cache.errors", "StoreError"),
    ("configs.load", "ConfigError"),
    ("heads.explain.opened", "ExplainError"),
    ("heads.plots.style", "PlotError"),
    ("heads.statistics.choices", "ChoiceError"),
    ("heads.training.checkpoint", "CheckpointError"),
    ("heads.protocols.base", "ProtocolError"),
    ("heads.training.run", "RunError"),
    ("heads.serve.run", "ServeError"),
    ("heads.sources.base", "SourceError"),
    ("heads.tasks.base", "TaskError"),
    ("heads.use.pictures", "UseError"),
    ("pipeline.networks.checkpoints", "BackboneError"),
    ("pipeline.datasets.base", "DatasetError"),
    ("pipeline.workers.cluster", "ClusterError"),
    ("pipeline.extraction.extract", "ExtractionError"),
    ("pipeline.networks.injection", "InjectionError"),
    ("pipeline.networks.unet", "UnsupportedUNet"),
)


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that mean bad input or a full machine rather than a bug.

    Only of modules that have been imported: no other could have raised one, and importing them
    here would make a typing error wait for torch.
    """
    return tuple(
        getattr(sys.modules[module], name) for module, name in _USER_ERRORS if module in sys.modules
    )


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = "; free some space and run the same command again" if error.errno == 28 else ""
    return f"{where}{error.strerror or error}{hint}"


def note(line: str) -> None:
    """Print a line beside the results, unless --quiet forbids it."""
    if not _spoken["quiet"]:
        click.echo(line, err=True)
