"""Flags that derive from the options of the parts, and the settings that come of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from qwenops.cli.help import Flag
from qwenops.cli.terminal import Terminal
from qwenops.config import Declared, Settings, all_options, load
from qwenops.options import Unit, show_value
from qwenops.text import say

Function = TypeVar("Function", bound=Callable[..., Any])

_TYPED = "qwenops.flags"
_METAVARS = {Unit.SECONDS: "DURATION", Unit.BYTES: "SIZE", Unit.TOKENS: "TOKENS"}


def json_flag(function: Function) -> Function:
    """Add `--json`."""
    return click.option("--json", "as_json", cls=Flag, is_flag=True, help=say("Print one JSON document."))(function)


def option_flags(
    *sections: str, without: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> Callable[[Function], Function]:
    """Add a flag for each option of these sections that has one; `settings` finds what was typed.

    Args:
        sections: First parts of their keys, such as `serve`.
        without: Keys that this command leaves out.
        only: When there are any, the only keys that it takes.
    """

    def add(function: Function) -> Function:
        for each in reversed(all_options()):
            wanted = each.key in only if only else each.key not in without
            if each.flag and each.path[0] in sections and wanted:
                function = _as_flag(each)(function)
        return function

    return add


def _as_flag(each: Declared) -> Callable[[Function], Function]:
    def remember(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:  # noqa: FBT001 -- click calls it
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            ctx.meta.setdefault(_TYPED, {})[each.key] = str(value)

    shown = show_value(each.default, each.spec)
    name = each.key.replace(".", "__")
    common: dict[str, Any] = {"cls": Flag, "expose_value": False, "callback": remember, "help": each.spec.help}
    if each.type is bool:
        both = f"{each.flag}/--no-{each.flag.removeprefix('--')}"
        return click.option(name, both, default=each.default, show_default=True, **common)
    if each.spec.choices:
        common["metavar"] = "[" + "|".join(choice for choice in each.spec.choices if choice) + "]"
    else:
        common["metavar"] = _METAVARS.get(each.spec.unit) or _metavar({each.type, *get_args(each.type)})
    # The text is parsed with the file's and the environment's, so that all three are refused in the same words.
    return click.option(name, each.flag, default=shown, show_default=bool(shown), **common)


def _metavar(kinds: set[Any]) -> str:
    if kinds & {int, float}:
        return "N"
    return "PATH" if Path in kinds else "TEXT"


def settings(ctx: click.Context) -> Settings:
    """Return the settings for this call: defaults, file, environment and what was typed."""
    terminal = ctx.find_root().obj
    assert isinstance(terminal, Terminal)  # noqa: S101 -- the root command put it there
    return load(environ=terminal.environ, flags=typed_flags(ctx), file=terminal.config_file)


def typed_flags(ctx: click.Context) -> dict[str, str]:
    """Return what was typed for options of the parts, by their keys."""
    return dict(ctx.meta.get(_TYPED, {}))
