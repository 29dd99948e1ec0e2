"""What the server can be told. Options marked live are taken over by a reload; the others need a restart."""

import dataclasses
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwenops.errors import ConfigError
from qwenops.observe.options import LogOptions
from qwenops.options import Unit, option, walk
from qwenops.text import say


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """What one request may ask for, and how much may wait."""

    max_body_bytes: int = option(
        2 * 1024**2, help="Longest body of a request.", unit=Unit.BYTES, minimum=1024, live=True, flag=False
    )
    body_timeout_s: float = option(
        30.0,
        help="Longest time for the body of a request to arrive.",
        unit=Unit.SECONDS,
        minimum=0.1,
        live=True,
        flag=False,
    )
    max_prompt_tokens: int = option(
        0, help="Longest prompt; 0 is what the engine's context holds.", unit=Unit.TOKENS, minimum=0, live=True
    )
    max_output_tokens: int = option(
        0, help="Longest answer; 0 is what the engine's context holds.", unit=Unit.TOKENS, minimum=0, live=True
    )
    max_stop_strings: int = option(
        16, help="Stop strings of one request.", minimum=0, maximum=256, live=True, flag=False
    )
    max_choices: int = option(8, help="Answers to one prompt (`n`).", minimum=1, maximum=128, live=True, flag=False)
    queue_requests: int = option(
        256, help="Requests that may wait; more are refused with 503.", minimum=0, maximum=100_000, live=True
    )
    queue_tokens: int = option(
        262_144,
        help="Prompt tokens that may wait; more are refused with 503.",
        unit=Unit.TOKENS,
        minimum=0,
        live=True,
        flag=False,
    )
    key_concurrency: int = option(
        0,
        help="Requests that one key may have open at the same time, waiting ones counted; 0 is no limit.",
        minimum=0,
        live=True,
        flag=False,
    )
    max_wait_s: float = option(
        120.0, help="Longest wait for a free place.", unit=Unit.SECONDS, minimum=0.1, live=True, flag=False
    )
    max_request_s: float = option(
        0.0,
        help="Longest time from arrival to the last token; 0 is no limit.",
        unit=Unit.SECONDS,
        minimum=0,
        live=True,
        flag=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What a request means that does not say; Qwen3's own recommendation without thinking."""

    max_tokens: int = option(512, help="Tokens of an answer.", unit=Unit.TOKENS, minimum=1, live=True, flag=False)
    temperature: float = option(0.7, help="0 is greedy.", minimum=0.0, maximum=2.0, live=True, flag=False)
    top_p: float = option(0.8, help="Probability mass kept.", minimum=0.0, maximum=1.0, live=True, flag=False)
    top_k: int = option(20, help="Tokens kept; 0 keeps all.", minimum=0, live=True, flag=False)
    min_p: float = option(
        0.0, help="Least probability kept, relative to the best.", minimum=0.0, maximum=1.0, live=True, flag=False
    )
    repetition_penalty: float = option(
        1.0, help="Above 1 discourages repetition.", minimum=0.1, maximum=10.0, live=True, flag=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """Who may call."""

    database: Path | None = option(
        None, help="SQLite file of API keys (`qwenops keys`); without keys a loopback server is open.", flag=False
    )
    file: Path | None = option(
        None, help="File with one API key a line, or JSON; for containers (a mounted secret).", flag=False
    )
    metrics: Literal["open", "key"] = option(
        "open", help="Whether /metrics needs a key with the metrics scope.", choices=("open", "key"), flag=False
    )
    allow_public_without_keys: bool = option(
        False, help="Serve on a public address without any key. Everyone who reaches the port may use it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve one engine over HTTP."""

    host: str = option("127.0.0.1", help="Address to listen on.")
    port: int = option(8000, help="Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    drain_delay_s: float = option(
        5.0,
        help="Time between not ready and closing the listener, in which balancers learn of it.",
        unit=Unit.SECONDS,
        minimum=0,
        maximum=300,
        live=True,
        flag=False,
    )
    drain_timeout_s: float = option(
        60.0,
        help="Time for requests in flight to finish once the listener is closed.",
        unit=Unit.SECONDS,
        minimum=0,
        maximum=3600,
        live=True,
        flag=False,
    )
    keep_alive_s: float = option(
        75.0, help="Time an idle connection is kept.", unit=Unit.SECONDS, minimum=1, flag=False
    )
    reload_poll_s: float = option(
        5.0,
        help="Time between two looks at the configuration file; 0 looks only when told to.",
        unit=Unit.SECONDS,
        minimum=0,
        flag=False,
    )
    cors_origins: tuple[str, ...] = option((), help="Web origins that may call from a browser.", flag=False)
    metrics_compat: Literal["", "vllm"] = option(
        "", help="Also export metrics under the names of this server.", choices=("", "vllm")
    )
    limits: LimitOptions = field(default_factory=LimitOptions)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    keys: KeyOptions = field(default_factory=KeyOptions)
    log: LogOptions = field(default_factory=LogOptions)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_open_door(options: ServeOptions, *, num_keys: int) -> None:
    """Refuse to listen on a public address without keys.

    Raises:
        ConfigError: Anyone could use the server.
    """
    if num_keys or is_loopback(options.host) or options.keys.allow_public_without_keys:
        return
    raise ConfigError(
        say("Listening on {host} without an API key would let anyone use this server.", host=options.host),
        hint=say(
            "Create a key with `qwenops keys create NAME`, or set QWENOPS_API_KEYS_FILE, or listen on 127.0.0.1; "
            "`--allow-public-without-keys` overrides this."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One option that two sets of options disagree on."""

    key: str
    old: Any
    new: Any
    live: bool


def differences(old: ServeOptions, new: ServeOptions) -> tuple[Difference, ...]:
    """List the options whose values differ, by their dotted keys, in the order of their declaration."""
    found = []
    for path, _, spec in walk(ServeOptions):
        before, after = at(old, path), at(new, path)
        if before != after:
            hidden = "***" if spec.secret else None
            found.append(Difference(key=".".join(path), old=hidden or before, new=hidden or after, live=spec.live))
    return tuple(found)


def take_live(old: ServeOptions, new: ServeOptions) -> ServeOptions:
    """Return `old` with the live options of `new`."""
    merged: ServeOptions = _merge(old, new)
    return merged


def at(options: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path of field names."""
    for name in path:
        options = getattr(options, name)
    return options


def _merge(old: Any, new: Any) -> Any:
    changed: dict[str, Any] = {}
    for each in dataclasses.fields(old):
        spec = each.metadata.get("option")
        before, after = getattr(old, each.name), getattr(new, each.name)
        if spec is None:
            changed[each.name] = _merge(before, after)
        elif spec.live:
            changed[each.name] = after
    return dataclasses.replace(old, **changed)
