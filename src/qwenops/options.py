"""How an option is declared: once, as a field of a frozen dataclass.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ServeOptions:
        port: int = option(8000, help="Port to listen on.", minimum=1, maximum=65535)

The key in `qwenops.toml`, the environment variable, the command line's flag, the reference page and the JSON schema all
derive from that field (`config.py` and `cli/` do it). A part takes its own options object; it never sees the others.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Unit(StrEnum):
    """What a number counts; decides how it may be written and how it is printed."""

    NONE = ""
    SECONDS = "s"
    BYTES = "bytes"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """What is known about one option besides its name, type and default."""

    help: str
    unit: Unit = Unit.NONE
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether a running server takes a new value over without a restart."""
    flag: bool = True
    """Whether the command line offers it; flags are a budget."""
    secret: bool = False


def option(  # noqa: PLR0913 -- each keyword is one fact about the option, and all have defaults
    default: Any,
    *,
    help: str,  # noqa: A002 -- the field's word for it
    unit: Unit = Unit.NONE,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    flag: bool = True,
    secret: bool = False,
) -> Any:
    """Declare one option: a dataclass field that carries its own documentation and bounds."""
    spec = OptionSpec(
        help=help,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        choices=choices,
        live=live,
        flag=flag,
        secret=secret,
    )
    return field(default=default, metadata={"option": spec})


def declared(options: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], OptionSpec]]:
    """Yield each declared option of an options class, in order."""
    for each in dataclasses.fields(options):
        spec = each.metadata.get("option")
        if isinstance(spec, OptionSpec):
            yield each, spec
