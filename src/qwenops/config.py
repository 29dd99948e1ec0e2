"""Defaults < file < environment < flags: one Settings, read by the command line only.

Each part declares its options once, as fields of its own dataclass. Everything else is derived here from the field
`drain_timeout_s` of the section `serve`: the key `drain_timeout_s` under `[serve]` in `qwenops.toml`, the variable
QWENOPS_SERVE_DRAIN_TIMEOUT_S, the flag `--drain-timeout`. The file is `--config`, else QWENOPS_CONFIG, else
`./qwenops.toml`, else `qwenops.toml` in the user's configuration folder; only the first that exists is read.
"""

import dataclasses
import json
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from qwenops.atomic import write_text
from qwenops.bench.options import BenchOptions
from qwenops.calls.options import CallOptions
from qwenops.classify.options import ClassifyOptions
from qwenops.classify.train.options import TrainOptions
from qwenops.engines.options import EngineOptions
from qwenops.errors import ConfigError
from qwenops.models.hub import HubOptions
from qwenops.options import (
    OptionSpec,
    Unit,
    option,
    parse_value,
    plain_value,
    schema_of,
    show_value,
    walk,
)
from qwenops.serve.options import ServeOptions
from qwenops.state.options import StateOptions
from qwenops.text import say

FILE_NAME = "qwenops.toml"
PREFIX = "QWENOPS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What is served when the command line does not say, and by what."""

    name: str = option("", help="Model to serve: a name such as qwen3:0.6b, or a folder.", flag=False)
    engine: Literal["openvino", "transformers", "fake"] = option(
        "openvino", help="What computes.", choices=("openvino", "transformers", "fake")
    )
    scheme: Literal["int8", "int4", "bf16", "f32"] = option(
        "int8", help="Number format of the weights.", choices=("int8", "int4", "bf16", "f32")
    )
    fallback: str = option("", help="Model that serves, and says so, when this one cannot be loaded.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value came from."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str = ""
    """The file, the variable or the flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of every part. A command hands each part its own object and nothing else."""

    model: ModelChoice = field(default_factory=ModelChoice)
    engine: EngineOptions = field(default_factory=EngineOptions)
    serve: ServeOptions = field(default_factory=ServeOptions)
    hub: HubOptions = field(default_factory=HubOptions)
    bench: BenchOptions = field(default_factory=BenchOptions)
    calls: CallOptions = field(default_factory=CallOptions)
    finetune: TrainOptions = field(default_factory=TrainOptions)
    classify: ClassifyOptions = field(default_factory=ClassifyOptions)
    state: StateOptions = field(default_factory=StateOptions)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """By key (`serve.port`); what is not in it has its default."""
    file: Path | None = None
    """The file that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One option with everything that derives from its field."""

    path: tuple[str, ...]
    spec: OptionSpec
    type: Any
    default: Any

    @property
    def key(self) -> str:
        """As in the file: `serve.port`."""
        return ".".join(self.path)

    @property
    def section(self) -> str:
        """The table of the file: `serve.limits`."""
        return ".".join(self.path[:-1])

    @property
    def variable(self) -> str:
        """As in the environment: `QWENOPS_SERVE_PORT`."""
        return PREFIX + "_".join(self.path).upper()

    @property
    def flag(self) -> str:
        """As on the command line (`--port`); empty when it is no flag."""
        return flag_name(self.path[-1], self.spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One value and where it came from; `shown` hides secrets."""

    option: Declared
    value: Any
    shown: str
    origin: Origin


def flag_name(name: str, spec: OptionSpec) -> str:
    """Return the flag of a field: its unit is written with the value (`--drain-timeout 30s`), not in the name."""
    if not spec.flag or spec.secret:
        return ""
    if isinstance(spec.flag, str):
        return spec.flag
    if spec.unit is Unit.SECONDS:
        name = name.removesuffix("_s")
    if spec.unit is Unit.BYTES:
        name = name.removesuffix("_bytes")
    return "--" + name.replace("_", "-")


def all_options() -> list[Declared]:
    """Return every option of every section, in the order of the file."""
    return [Declared(path=path, spec=spec, type=each.type, default=each.default) for path, each, spec in walk(Settings)]


def find_file(given: Path | None, environ: Mapping[str, str], cwd: Path, user_folder: Path) -> Path | None:
    """Return the file that is read, or None when there is none.

    Raises:
        ConfigError: A file was named, and it is not there.
    """
    named = given or (Path(environ[f"{PREFIX}CONFIG"]) if environ.get(f"{PREFIX}CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(
                say("There is no configuration file {path}.", path=named),
                hint=say("`qwenops config init` writes one with every option and its default."),
            )
        return named
    return next((path for path in (cwd / FILE_NAME, user_folder / FILE_NAME) if path.is_file()), None)


def user_folder() -> Path:
    """Return the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("qwenops"))


def load(
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    file: Path | None = None,
    cwd: Path | None = None,
    user_config: Path | None = None,
) -> Settings:
    """Assemble the settings; `flags` maps keys (`serve.port`) to what was typed.

    Raises:
        ConfigError: A file cannot be read, a key is unknown, or a value is not possible; the message names where.
    """
    known = {each.key: each for each in all_options()}
    path = find_file(file, environ, cwd or Path.cwd(), user_config or user_folder())
    given: dict[str, tuple[Any, Origin]] = {}
    if path is not None:
        given.update(_from_file(path, known))
    given.update(_from_environment(environ, known))
    for key, typed in (flags or {}).items():
        given[key] = (typed, Origin(kind="flag", where=known[key].flag))
    values: dict[tuple[str, ...], Any] = {}
    for key, (raw, origin) in given.items():
        each = known[key]
        where = each.key if origin.kind == "file" else origin.where
        values[each.path] = parse_value(raw, each.type, each.spec, where)
    made: Settings = _build(Settings, (), values)
    return dataclasses.replace(made, origins={key: origin for key, (_, origin) in given.items()}, file=path)


def _build(options: type[Any], path: tuple[str, ...], values: Mapping[tuple[str, ...], Any]) -> Any:
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(options):
        here = (*path, each.name)
        if here in values:
            fields[each.name] = values[here]
        elif isinstance(each.type, type) and dataclasses.is_dataclass(each.type):
            fields[each.name] = _build(each.type, here, values)
    return options(**fields)


def value_of(settings: Settings, each: Declared) -> Any:
    """Return the value that `settings` has for an option."""
    value: Any = settings
    for name in each.path:
        value = getattr(value, name)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It cannot be read or is no TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            say("{path} cannot be read: {reason}.", path=path, reason=error),
            hint=say("`qwenops config init` writes a file that can be."),
        ) from error


def _from_file(path: Path, known: Mapping[str, Declared]) -> Iterator[tuple[str, tuple[Any, Origin]]]:
    origin = Origin(kind="file", where=str(path))
    tables = {each.key[:end] for each in known.values() for end in _dots(each.key)}
    for key, value in _leaves(read_toml(path), "", tables):
        if key in tables:
            raise _no_table(key, path, known)
        if key not in known:
            raise _unknown(key, [*known, *tables], str(path))
        yield key, (value, origin)


def _dots(key: str) -> list[int]:
    return [position for position, letter in enumerate(key) if letter == "."]


def _leaves(table: Mapping[str, Any], prefix: str, tables: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key in tables:
            yield from _leaves(value, f"{key}.", tables)
        else:
            yield key, value


def _from_environment(
    environ: Mapping[str, str], known: Mapping[str, Declared]
) -> Iterator[tuple[str, tuple[Any, Origin]]]:
    by_variable = {each.variable: each for each in known.values()}
    ours = tuple({f"{PREFIX}{each.path[0].upper()}_" for each in known.values()})
    for variable, value in environ.items():
        if not variable.startswith(ours) or not value:
            continue
        each = by_variable.get(variable)
        if each is None:
            secret = by_variable.get(variable.removesuffix("_FILE"))
            if secret is None or not secret.spec.secret:
                raise _unknown(variable, list(by_variable), say("the environment"))
            yield secret.key, (_secret_file(variable, value), Origin(kind="environment", where=variable))
        else:
            yield each.key, (value, Origin(kind="environment", where=variable))


def _secret_file(variable: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            say("{variable} names {path}, which cannot be read.", variable=variable, path=path),
            hint=say("Give this process a file that it may read."),
        ) from error


def _unknown(name: str, possible: list[str], where: str) -> ConfigError:
    near = get_close_matches(name, possible, n=1, cutoff=0.5)
    return ConfigError(
        say("There is no option {name!r} ({where}).", name=name, where=where),
        hint=say("Did you mean {near}?", near=near[0]) if near else say("`qwenops config show` lists every option."),
    )


def _no_table(name: str, path: Path, known: Iterable[str]) -> ConfigError:
    key = next(each for each in known if each.startswith(f"{name}.")).removeprefix(f"{name}.")
    return ConfigError(
        say("{name!r} is a table in {path}, and no value.", name=name, path=path),
        hint=say("Write [{name}] on a line, and below it its options, such as {key} = ...", name=name, key=key),
    )


def explain(settings: Settings) -> list[Explained]:
    """Return each value and where it came from, secrets hidden."""
    found = []
    for each in all_options():
        value = value_of(settings, each)
        origin = settings.origins.get(each.key, Origin(kind="default"))
        found.append(Explained(option=each, value=value, shown=show_value(value, each.spec), origin=origin))
    return found


def dump(settings: Settings, path: Path, *, everything: bool = False) -> None:
    """Write a `qwenops.toml` atomically: what differs from the defaults, or everything with comments.

    Secrets are never written.
    """
    text = "\n".join(_lines(settings, everything=everything)).strip() + "\n"
    write_text(path, text, mode=0o600)


def _lines(settings: Settings, *, everything: bool) -> Iterator[str]:
    if everything:
        yield "# Every option with its default. A line without # counts; flags and variables go before this file."
    by_section: dict[str, list[str]] = {}
    for each in all_options():
        value = value_of(settings, each)
        if each.spec.secret:
            continue
        line = f"{each.path[-1]} = {toml_value(plain_value(value, each.spec))}"
        lines = by_section.setdefault(each.section, [])
        if value != each.default:
            lines.append(line)
        elif everything:
            lines += [f"# {each.spec.help}", f"# {line}"]
    for section, lines in by_section.items():
        if lines:
            yield from ["", f"[{section}]", *lines]


def toml_value(value: Any) -> str:
    """Write one plain value (text, number, truth, list, table) as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def schema() -> dict[str, Any]:
    """Return the JSON schema of `qwenops.toml`."""
    whole = _table()
    for each in all_options():
        table = whole
        for name in each.path[:-1]:
            table = table["properties"].setdefault(name, _table())
        table["properties"][each.path[-1]] = schema_of(each.type, each.spec, each.default)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FILE_NAME, **whole}


def _table() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}
