"""Arguments and options that several commands take, and the examples in their help."""

# Heavy packages are imported inside the functions: `--help` should not wait for torch.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from cache import StorePath


def examples(*lines: str) -> Callable[[Any], Any]:
    """Add an Examples section to a command's help."""

    def decorate(command: Any) -> Any:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return decorate


class _ConfigName(click.ParamType):
    """A configuration: a file, or a preset, which a shell completes."""

    name = "config"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from configs import preset_names

        presets = [name for name in preset_names() if name.startswith(incomplete)]
        return [*map(CompletionItem, presets), CompletionItem(incomplete, type="file")]


class _Override(click.ParamType):
    """KEY=VALUE, of which a shell completes the key."""

    name = "override"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from configs import key_names

        return [CompletionItem(f"{key}=") for key in key_names() if key.startswith(incomplete)]


def config_argument(**options: Any) -> Callable[[Any], Any]:
    """CONFIG, a YAML file or the name of a preset."""
    return click.argument("config", type=_ConfigName(), **options)


class StoreType(click.ParamType):
    """Where a store is: a local path, or a URL such as s3://bucket/store."""

    name = "store"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> StorePath:
        if not isinstance(value, str) or "://" not in value:
            return Path(value)
        from cache import store_path

        return store_path(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


STORE = StoreType()


class LocalPath(click.Path):
    """A path on this machine. Of a URL a path would lose a slash, and be a folder called `s3:`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "://" in value:
            self.fail(f"{value}: only stores may lie elsewhere; give a local path", param, ctx)
        return super().convert(value, param, ctx)


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    type=_Override(),
    metavar="KEY=VALUE",
    help="Override one dotted key of the configuration; may be repeated.",
)
cache_option = click.option(
    "--cache",
    "caches",
    multiple=True,
    type=STORE,
    metavar="STORE",
    help="A store to read, local or s3://BUCKET/NAME; may be repeated.",
)
gallery_option = click.option(
    "--gallery",
    type=STORE,
    metavar="PLACE",
    help="A store of the run's recipe, or a folder of photos.  [default: the run's own store]",
)
root_option = click.option(
    "--root",
    type=LocalPath(),
    metavar="DIR",
    help="Where the pictures of a store are, to show them.  [default: the run's dataset]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
