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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

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
    flag: bool | str = True
    """Whether the command line offers it (flags are a budget), or the name it has there, such as `--log-dir`."""
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
    flag: bool | str = True,
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
    return field(default=default, metadata={"option": spec}, repr=not secret)


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


def show_number(value: float, digits: int = 3) -> str:
    """Write a number for reading: so many digits that count, thousands apart, never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = min(12, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_bytes(num_bytes: float) -> str:
    """Write a size for reading, rounded: `596 MiB`, `1.4 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes >= BYTES_BY_UNIT[unit]:
            amount = num_bytes / BYTES_BY_UNIT[unit]
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"  # noqa: PLR2004 -- three digits
    return f"{num_bytes:.0f} B"


def walk(
    options: type[Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dataclasses.Field[Any], OptionSpec]]:
    """Yield each option with its path, going into the fields that are options objects themselves, in order."""
    for each in dataclasses.fields(options):
        spec = each.metadata.get("option")
        if isinstance(spec, OptionSpec):
            yield (*path, each.name), each, spec
        elif isinstance(each.type, type) and dataclasses.is_dataclass(each.type):
            yield from walk(each.type, (*path, each.name))


TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


def parse_value(raw: Any, kind: Any, spec: OptionSpec, name: str) -> Any:
    """Turn what a file, a variable or a flag holds into the value of a field of type `kind`.

    Args:
        raw: Text, or what TOML made of it.
        kind: The field's type: bool, int, float, str, Path, an Enum, a Literal, a tuple of one of them, a mapping of
            text to one of them, or one of them or None.
        spec: Bounds, unit and choices.
        name: How the user called it (`serve.port`, `--port`, QWENOPS_SERVE_PORT), for messages.

    Raises:
        ConfigError: It cannot be such a value; the message has the name, the value and what was possible.
    """
    shown = "***" if spec.secret else raw
    try:
        value = _convert(raw, kind, spec)
    except (ValueError, TypeError):
        raise ConfigError(
            say("{name}: {value!r} is not possible.", name=name, value=shown),
            hint=say("It must be {possible}.", possible=possible_values(kind, spec)),
        ) from None
    except ConfigError as error:
        raise ConfigError(say("{name}: {reason}", name=name, reason=error.message), hint=error.hint) from None
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, int | float) and not isinstance(each, bool) and not _within(each, spec):
            raise ConfigError(
                say("{name}: {value} is out of bounds.", name=name, value=shown),
                hint=say("It must be {possible}.", possible=possible_values(kind, spec)),
            )
    return value


def _within(value: float, spec: OptionSpec) -> bool:
    low = -math.inf if spec.minimum is None else spec.minimum
    return low <= value <= (math.inf if spec.maximum is None else spec.maximum)


def _convert(raw: Any, kind: Any, spec: OptionSpec) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        if raw is None or raw in {"", "none"}:
            return None
        (kind,) = (each for each in inner if each is not NoneType)
        return _convert(raw, kind, spec)
    if origin is tuple:
        parts = [part.strip() for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
        return tuple(_convert(part, inner[0], spec) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = [part.partition("=")[::2] for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
        return {str(key).strip(): _convert(value, inner[1], spec) for key, value in dict(pairs).items()}
    value = _convert_one(raw, kind, origin, spec)
    if spec.choices and str(value) not in spec.choices:
        raise ValueError
    return value


def _convert_one(raw: Any, kind: Any, origin: Any, spec: OptionSpec) -> Any:
    if kind is bool:
        return _truth(raw)
    if kind in {int, float}:
        return _number(raw, kind, spec.unit)
    if not isinstance(raw, str):
        raise TypeError
    if origin is Literal:
        if raw not in get_args(kind):
            raise ValueError
        return raw
    return Path(raw).expanduser() if kind is Path else kind(raw)


def _truth(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.lower() not in TRUE | FALSE:
        raise ValueError
    return raw.lower() in TRUE


def _number(raw: Any, kind: type[int] | type[float], unit: Unit) -> float:
    if isinstance(raw, bool):
        raise TypeError
    if isinstance(raw, str) and unit is Unit.BYTES:
        return parse_bytes(raw)
    if isinstance(raw, str) and unit is Unit.SECONDS:
        raw = parse_seconds(raw)
    value = kind(raw)
    if (isinstance(raw, float) and value != raw) or not math.isfinite(value):
        raise ValueError
    return value


def possible_values(kind: Any, spec: OptionSpec) -> str:
    """Say in a few words what an option may be: `one of u8, bf16, f32`, `a number from 1 to 65535`."""
    if spec.choices:
        return say("one of {choices}", choices=", ".join(spec.choices))
    word = _kind_of_value(kind, spec.unit)
    if spec.minimum is not None and spec.maximum is not None:
        low, high = plain_value(spec.minimum, spec), plain_value(spec.maximum, spec)
        return say("{what} from {low} to {high}", what=word, low=low, high=high)
    if spec.minimum is not None:
        return say("{what}, at least {low}", what=word, low=plain_value(spec.minimum, spec))
    return word


def _kind_of_value(kind: Any, unit: Unit) -> str:
    kinds = {kind, *get_args(kind)}
    if bool in kinds:
        return say("true or false")
    if Path in kinds:
        return say("a path")
    if get_origin(kind) is tuple:
        return say("texts with commas between them")
    words = {
        Unit.SECONDS: say("a duration such as 30s or 10m"),
        Unit.BYTES: say("a size such as 4GiB"),
        Unit.TOKENS: say("a number of tokens"),
        Unit.NONE: say("a number") if {int, float} & kinds else say("text"),
    }
    return words[unit]


def plain_value(value: Any, spec: OptionSpec) -> Any:
    """Return a value as a file would hold it: durations and sizes as text with their unit, paths as text."""
    if isinstance(value, tuple):
        return [plain_value(each, spec) for each in value]
    if isinstance(value, Mapping):
        return {key: plain_value(each, spec) for key, each in value.items()}
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if spec.unit is Unit.SECONDS:
            return format_seconds(value)
        return format_bytes(int(value)) if spec.unit is Unit.BYTES else value
    return "" if value is None else str(value)


def show_value(value: Any, spec: OptionSpec) -> str:
    """Return a value for reading; a secret only says whether it is set."""
    if spec.secret:
        return "***" if value else ""
    plain = plain_value(value, spec)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, list):
        return ", ".join(str(each) for each in plain)
    if isinstance(plain, Mapping):
        return ", ".join(f"{key}={each}" for key, each in plain.items())
    return str(plain)


def schema_of(kind: Any, spec: OptionSpec, default: Any) -> dict[str, Any]:
    """Return the JSON schema of one option in a file."""
    found: dict[str, Any] = {"description": spec.help}
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        found |= {"type": "array", "items": {"type": "string"}}
    elif isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        found |= {"type": "object"}
    elif spec.choices:
        found |= {"enum": list(spec.choices)}
    elif kind is bool:
        found |= {"type": "boolean"}
    elif spec.unit in {Unit.SECONDS, Unit.BYTES}:
        found |= {"type": ["string", "number"]}
    elif {int, float} & {kind, *inner}:
        found |= {"type": "integer" if int in {kind, *inner} else "number"}
    else:
        found |= {"type": "string"}
    bounded = found.get("type") in ("integer", "number", ["string", "number"])
    if bounded and spec.minimum is not None:
        found["minimum"] = spec.minimum
    if bounded and spec.maximum is not None:
        found["maximum"] = spec.maximum
    if not spec.secret:
        found["default"] = plain_value(default, spec)
    return found
