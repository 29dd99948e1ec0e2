"""Flags that derive from the options of the parts, and the settings that come of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from qwenops.cli.help import Flag
from qwenops.cli.terminal import Terminal
from qwenops.config import Declared, Settings, all_options, load
from qwenops.options import Unit, parse_value, show_value, walk
from qwenops.text import say

Function = TypeVar("Function", bound=Callable[..., Any])
Options = TypeVar("Options")

_TYPED = "qwenops.flags"
_OWN = "qwenops.own_flags"
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
                function = _as_flag(each, _TYPED)(function)
        return function

    return add


def own_flags(kind: type[Any]) -> Callable[[Function], Function]:
    """Add a flag for each option of an object that only this command takes; `own_options` makes the object."""

    def add(function: Function) -> Function:
        for path, each, spec in reversed(list(walk(kind))):
            declared = Declared(path=(kind.__name__, *path), spec=spec, type=each.type, default=each.default)
            if declared.flag:
                function = _as_flag(declared, _OWN)(function)
        return function

    return add


def own_options(ctx: click.Context, kind: type[Options]) -> Options:
    """Return the options that `own_flags` took, as they were typed.

    Raises:
        ConfigError: A value is not possible.
    """
    typed: dict[str, str] = ctx.meta.get(_OWN, {})
    made: Any = kind()
    for path, each, spec in walk(kind):
        declared = Declared(path=(kind.__name__, *path), spec=spec, type=each.type, default=each.default)
        if declared.key in typed:
            made = _with(made, path, parse_value(typed[declared.key], each.type, spec, declared.flag))
    result: Options = made
    return result


def _with(options: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return an options object with another value at a path of field names."""
    name, *rest = path
    return replace(options, **{name: _with(getattr(options, name), tuple(rest), value) if rest else value})


def _as_flag(each: Declared, where: str) -> Callable[[Function], Function]:
    def remember(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:  # noqa: FBT001 -- click calls it
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            ctx.meta.setdefault(where, {})[each.key] = str(value)

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
