"""Configuration: every option by every road, where each value came from, and what is said about a wrong one."""

import enum
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from qwenops import config
from qwenops.config import Declared, Settings, all_options, dump, explain, load, schema, value_of
from qwenops.errors import ConfigError
from qwenops.options import Unit, option, parse_value, show_value

OPTIONS = all_options()


def another(each: Declared) -> tuple[str, Any]:  # noqa: PLR0911 -- one return for each kind of option
    """Return a text and the value it means, other than the option's default."""
    kind, spec = each.type, each.spec
    if isinstance(kind, UnionType):
        kind = next(inner for inner in get_args(kind) if inner is not NoneType)
    if spec.choices:
        chosen = next(choice for choice in spec.choices if choice not in {"", each.default})
        return chosen, chosen
    if kind is bool:
        return ("false", False) if each.default else ("true", True)
    if spec.unit in {Unit.SECONDS, Unit.BYTES}:
        low = int(spec.minimum or 0) + 2048
        low = min(low, int(spec.maximum)) if spec.maximum is not None else low
        if low == each.default:
            low -= 1
        return (f"{low * 1000}ms", float(low)) if spec.unit is Unit.SECONDS else (f"{low}B", low)
    if kind in {int, float}:
        bounds = (spec.minimum, spec.maximum)
        value = next(kind(bound) for bound in (*bounds, 7) if bound is not None and bound != each.default)
        return str(value), value
    if get_origin(kind) is tuple:
        return "one, two", ("one", "two")
    if kind is Path:
        return "some/folder", Path("some/folder")
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        member = next(member for member in kind if member is not each.default)
        return str(member.value), member
    return "another", "another"


def read(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, flags: dict[str, str] | None = None
) -> Settings:
    (tmp_path / "qwenops.toml").write_text(text, "utf-8")
    return load(environ=environ or {}, flags=flags, cwd=tmp_path, user_config=tmp_path / "nowhere")


@pytest.mark.parametrize("each", OPTIONS, ids=lambda each: each.key)
def test_every_option_can_be_set_by_file_by_variable_and_by_flag(each: Declared, tmp_path: Path) -> None:
    text, value = another(each)
    by_file = read(tmp_path, f'[{each.section}]\n{each.path[-1]} = "{text}"\n')
    by_variable = read(tmp_path, environ={each.variable: text})
    by_flag = read(tmp_path, flags={each.key: text})
    for settings, kind in ((by_file, "file"), (by_variable, "environment"), (by_flag, "flag")):
        assert value_of(settings, each) == value != each.default
        assert settings.origins[each.key].kind == kind


@pytest.mark.parametrize("each", OPTIONS, ids=lambda each: each.key)
def test_every_option_says_what_it_is_and_has_a_default_within_its_own_bounds(each: Declared) -> None:
    assert each.spec.help.endswith(".")
    shown = show_value(each.default, each.spec)
    if not each.spec.secret and shown not in {"", "."}:
        assert parse_value(shown, each.type, each.spec, each.key) == each.default


def test_no_two_options_share_a_variable() -> None:
    variables = [each.variable for each in OPTIONS]
    assert len(set(variables)) == len(variables)


def test_no_two_options_of_a_section_share_a_flag() -> None:
    flags = [(each.section, each.flag) for each in OPTIONS if each.flag]
    assert len(set(flags)) == len(flags)


@pytest.mark.proves("A6")
def test_flags_go_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    text = "[serve]\nport = 1001\nhost = '::1'\n[engine]\nthreads = 3\n"
    settings = read(
        tmp_path,
        text,
        environ={"QWENOPS_SERVE_PORT": "1002", "QWENOPS_ENGINE_THREADS": "4"},
        flags={"serve.port": "1003"},
    )
    assert (settings.serve.host, settings.serve.port, settings.engine.threads) == ("::1", 1003, 4)
    rows = {each.option.key: (each.shown, each.origin.kind, each.origin.where) for each in explain(settings)}
    assert rows["serve.port"] == ("1003", "flag", "--port")
    assert rows["engine.threads"] == ("4", "environment", "QWENOPS_ENGINE_THREADS")
    assert rows["serve.host"] == ("::1", "file", str(tmp_path / "qwenops.toml"))
    assert rows["engine.max_running"] == ("16", "default", "")


def test_the_file_that_was_named_goes_before_the_folder_and_that_before_the_users(tmp_path: Path) -> None:
    here, users, named = tmp_path / "here", tmp_path / "users", tmp_path / "named.toml"
    for number, folder in ((1, here), (2, users)):
        folder.mkdir()
        (folder / "qwenops.toml").write_text(f"[serve]\nport = {number}\n", "utf-8")
    named.write_text("[serve]\nport = 3\n", "utf-8")

    def port(**more: Any) -> int:
        arguments: dict[str, Any] = {"environ": {}, "cwd": here, "user_config": users} | more
        return load(**arguments).serve.port

    assert port() == 1
    assert port(cwd=tmp_path) == 2
    assert port(environ={"QWENOPS_CONFIG": str(named)}) == 3
    assert port(file=named) == 3
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        port(file=tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[serve]\nprot = 1\n", "'serve.prot'", "serve.port"),
        ("[serv]\nport = 1\n", "'serv'", "serve"),
        ("serve = 1\n", "'serve'", ""),
        ("[serve]\nport = 70000\n", "serve.port: 70000 is out of bounds", "from 0 to 65535"),
        ("[serve]\nport = 'many'\n", "serve.port: 'many' is not possible", "from 0 to 65535"),
        ("[serve]\nport = 1.5\n", "serve.port: 1.5 is not possible", "number"),
        ("[serve]\nport = true\n", "serve.port: True is not possible", "number"),
        ("[serve.limits]\nmax_wait_s = 'soon'\n", "serve.limits.max_wait_s: 'soon' is no duration", "30s"),
        ("[engine]\nkv_cache_bytes = '4G'\n", "engine.kv_cache_bytes: '4G' is no size", "4GiB"),
        ("[engine]\nkv_precision = 'u4'\n", "engine.kv_precision: 'u4' is not possible", "auto, u8, bf16, f32"),
        ("[engine]\nprefix_cache = 'perhaps'\n", "engine.prefix_cache: 'perhaps'", "true or false"),
        ("[serve\n", "cannot be read", "config init"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_the_value_and_what_was_possible(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_wrong_variable_is_named_and_a_foreign_one_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="QWENOPS_SERVE_PROT") as caught:
        read(tmp_path, environ={"QWENOPS_SERVE_PROT": "1"})
    assert "QWENOPS_SERVE_PORT" in caught.value.hint
    with pytest.raises(ConfigError, match="QWENOPS_SERVE_PORT: 'x'"):
        read(tmp_path, environ={"QWENOPS_SERVE_PORT": "x"})
    # Kubernetes sets such ones for a service called qwenops.
    read(tmp_path, environ={"QWENOPS_PORT": "tcp://10.0.0.1:80", "QWENOPS_SERVICE_HOST": "10.0.0.1", "OTHER": "1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    token: str = option("", help="A secret.", secret=True)
    mode: Literal["a", "b"] | None = option(None, help="A choice or nothing.", choices=("a", "b"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSecret(Settings):
    vault: Vault = field(default_factory=Vault)


def test_a_secret_is_never_shown_never_written_and_can_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "Settings", WithSecret)
    (tmp_path / "token").write_text("hush-hush\n", "utf-8")
    settings = read(tmp_path, environ={"QWENOPS_VAULT_TOKEN_FILE": str(tmp_path / "token")})
    assert isinstance(settings, WithSecret)
    assert settings.vault.token == "hush-hush"
    assert {each.option.key: each.shown for each in explain(settings)}["vault.token"] == "***"
    dump(settings, tmp_path / "out.toml", everything=True)
    assert "hush" not in (tmp_path / "out.toml").read_text("utf-8")
    assert not next(each for each in all_options() if each.key == "vault.token").flag
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path, environ={"QWENOPS_VAULT_TOKEN_FILE": str(tmp_path / "gone")})
    with pytest.raises(ConfigError, match="is not possible"):
        read(tmp_path, "[vault]\ntoken = 5\n")


def test_what_is_dumped_reads_the_same(tmp_path: Path) -> None:
    settings = read(tmp_path, environ={each.variable: another(each)[0] for each in OPTIONS})
    dump(settings, tmp_path / "sub" / "dumped.toml")
    again = load(environ={}, file=tmp_path / "sub" / "dumped.toml")
    for each in OPTIONS:
        assert value_of(again, each) == (each.default if each.spec.secret else value_of(settings, each))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["dumped.toml"]


def test_a_dump_of_everything_lists_each_option_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    dump(Settings(), path, everything=True)
    text = path.read_text("utf-8")
    assert all(f"# {each.path[-1]} = " in text for each in OPTIONS if not each.spec.secret)
    assert all(not leaf for leaf in _leaves(tomllib.loads(text)))


def _leaves(table: dict[str, Any]) -> list[Any]:
    return [leaf for value in table.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_the_schema_knows_every_option() -> None:
    whole = schema()
    json.dumps(whole)
    for each in OPTIONS:
        table = whole
        for name in each.path:
            table = table["properties"][name]
        assert table["description"] == each.spec.help
    assert whole["properties"]["serve"]["properties"]["port"]["maximum"] == 65535
    assert whole["additionalProperties"] is False
