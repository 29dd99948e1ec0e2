"""What the commands about a trained adapter share: where labelled calls are, and the model that it was trained on."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.cli.flags import Function
from qwenops.cli.help import Flag, Operand
from qwenops.cli.models import NAME, fetch_report, hub_options, open_store
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.config import Settings

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def adapter_argument(function: Function) -> Function:
    """Add the folder of the adapter, and `--model` for what it was trained on."""
    with_model = click.option("--model", cls=Flag, default="", metavar="MODEL", help=NAME)(function)
    return click.argument(
        "adapter",
        cls=Operand,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help=say("Folder of the adapter, as `qwenops finetune train` wrote it."),
    )(with_model)


def calls_flag(function: Function) -> Function:
    """Add `--calls`."""
    return click.option(
        "--calls",
        cls=Flag,
        type=click.Path(path_type=Path, exists=True),
        required=True,
        metavar="PATH",
        help=say("File or folder of calls."),
    )(function)


def data_flags(function: Function) -> Function:
    """Add `--labels`, `--splits` and `--unredacted`."""
    added = click.option(
        "--unredacted", cls=Flag, is_flag=True, help=say("Take calls from which nothing has removed personal data.")
    )(function)
    added = click.option(
        "--splits",
        cls=Flag,
        type=_FILE,
        required=True,
        metavar="PATH",
        help=say("What `qwenops calls split` wrote."),
    )(added)
    return click.option(
        "--labels",
        cls=Flag,
        type=_FILE,
        default=None,
        metavar="PATH",
        help=say("File of labels; without it the calls' own file has them."),
    )(added)


def base_of(adapter: Path, name: str, terminal: Terminal, made: "Settings") -> Path:
    """Return the folder of the model that an adapter was trained on, fetched if it is not here.

    Args:
        adapter: The adapter's folder.
        name: What was typed; empty for what the adapter says.
        terminal: Where progress is shown.
        made: Where models come from.

    Raises:
        ConfigError: Nobody says which model it is.
    """
    from qwenops.classify.train.adapter import open_adapter

    wanted = name or str(open_adapter(adapter).manifest.get("base", {}).get("name", ""))
    if not wanted:
        raise ConfigError(
            say("The adapter does not say on which model it was trained."), hint=say("Name it with --model.")
        )
    with terminal.progress() as report:
        stored = asyncio.run(open_store(terminal).pull(wanted, hub_options(terminal, made), fetch_report(report)))
    return stored.checkpoint
