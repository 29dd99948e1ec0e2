"""`qwenops completion`: the script that makes a shell complete commands and options."""

import click

from qwenops.cli.help import Operand, Verb
from qwenops.cli.terminal import NAME, Terminal
from qwenops.errors import ConfigError
from qwenops.text import say


@click.command(
    "completion",
    cls=Verb,
    help=say("Print the script that lets a shell complete commands and options."),
    examples=(
        ('eval "$(qwenops completion bash)"', say("In this shell, or in ~/.bashrc.")),
        ("qwenops completion fish > ~/.config/fish/completions/qwenops.fish", say("For fish.")),
    ),
)
@click.argument("shell", cls=Operand, type=click.Choice(("bash", "zsh", "fish")), help=say("The shell."))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script."""
    from click.shell_completion import get_completion_class

    from qwenops.cli.door import COMPLETE

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover -- click knows the three shells above
        raise ConfigError(say("There is no completion for {shell}.", shell=shell))
    script = kind(ctx.find_root().command, {}, NAME, COMPLETE).source()
    ctx.ensure_object(Terminal).show(script)
