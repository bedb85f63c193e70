"""`sketchfusion completion`: what makes a shell complete commands, options, presets and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from heads.commands.options import examples

PROGRAM = "sketchfusion"
VARIABLE = "_SKETCHFUSION_COMPLETE"


@examples(
    "sketchfusion completion bash >> ~/.bashrc",
    "sketchfusion completion zsh >> ~/.zshrc",
    "sketchfusion completion fish > ~/.config/fish/completions/sketchfusion.fish",
)
@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, presets and configuration keys."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
