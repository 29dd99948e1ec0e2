"""How an option is declared: once, as a field of a frozen dataclass.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ServeOptions:
        port: int = option(8000, help="Port to listen on.", minimum=1, maximum=65535)

The key in `qwenops.toml`, the environment variable, the command line's flag, the reference page and the JSON schema all
derive from that field (`config.py` and `cli/` do it). A part takes its own options object; it never sees the others.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from qwenops.errors import ConfigError
from qwenops.text import say


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


SECONDS_BY_UNIT: dict[str, float] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES_BY_UNIT: dict[str, int] = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_seconds(text: str) -> float:
    """Read a duration: `30s`, `10m`, `1h30m`, `500ms`, or a bare number of seconds.

    Raises:
        ConfigError: It is no duration.
    """
    total, position = 0.0, 0
    while position < len(text.rstrip()) or not position:
        part = _PART.match(text, position)
        unit = (part[2] or ("s" if not position and part.end() == len(text.rstrip()) else "")) if part else ""
        if part is None or unit not in SECONDS_BY_UNIT:
            raise ConfigError(
                say("{text!r} is no duration.", text=text),
                hint=say("Write a number with {units}, for example 30s, 10m or 1h30m.", units="ms, s, m, h, d"),
            )
        total += float(part[1]) * SECONDS_BY_UNIT[unit]
        position = part.end()
    return total


def parse_bytes(text: str) -> int:
    """Read a size: `4GiB`, `512MiB`, `2.5GB`, or a bare number of bytes. `4G` is refused: it means two things.

    Raises:
        ConfigError: It is no size.
    """
    part = _PART.fullmatch(text.rstrip())
    if part is None or (part[2] or "B") not in BYTES_BY_UNIT:
        raise ConfigError(
            say("{text!r} is no size.", text=text),
            hint=say("Write a number with {units}, for example 4GiB or 512MiB.", units="B, kB, MB, GB, KiB, MiB, GiB"),
        )
    return round(float(part[1]) * BYTES_BY_UNIT[part[2] or "B"])


def format_seconds(seconds: float) -> str:
    """Write a duration so that `parse_seconds` reads the same value: `1h30m`, `2.5s`, `500ms`."""
    if seconds <= 0:
        return "0s"
    if seconds < 1 and math.isclose(seconds * 1000, round(seconds * 1000)):
        return f"{round(seconds * 1000)}ms"
    parts, rest = [], seconds
    for unit in ("d", "h", "m"):
        count = int(rest // SECONDS_BY_UNIT[unit])
        if count:
            parts.append(f"{count}{unit}")
        rest -= count * SECONDS_BY_UNIT[unit]
    if rest or not parts:
        parts.append(f"{rest:.12g}s")
    return "".join(parts)


def format_bytes(num_bytes: int) -> str:
    """Write a size exactly, in the largest binary unit that divides it, so that `parse_bytes` reads the same value."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes and num_bytes % BYTES_BY_UNIT[unit] == 0:
            return f"{num_bytes // BYTES_BY_UNIT[unit]}{unit}"
    return f"{num_bytes}B"


def show_bytes(num_bytes: float) -> str:
    """Write a size for reading, rounded: `596 MiB`, `1.4 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes >= BYTES_BY_UNIT[unit]:
            amount = num_bytes / BYTES_BY_UNIT[unit]
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"  # noqa: PLR2004 -- three digits
    return f"{num_bytes:.0f} B"
