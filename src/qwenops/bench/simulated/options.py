"""What a simulated server can be told, and the text that tells it: `simulated:?slots=4&decode_tokens_per_s=20`."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

from qwenops.errors import ConfigError
from qwenops.options import Unit, option, parse_seconds, parse_value, show_value, walk
from qwenops.text import say

PREFIX = "simulated:"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOptions:
    """How the server works. A rate of 0 takes no time."""

    model: str = option("simulated", help="Name of the model it says it serves.")
    prefill_tokens_per_s: float = option(800.0, help="Prompt tokens read per second, alone.", minimum=0.0)
    decode_tokens_per_s: float = option(40.0, help="Tokens written per second, alone.", minimum=0.0)
    contention: float = option(
        0.1,
        help="How much the running ones queue for each other: n of them are n / (1 + contention (n - 1) + "
        "coherence n (n - 1)) times as fast as one; 1 is processor sharing, 0 no sharing.",
        minimum=0.0,
        maximum=1.0,
    )
    coherence: float = option(
        0.01,
        help="How much each pair of them costs; the knee is at sqrt((1 - contention) / coherence).",
        minimum=0.0,
        maximum=1.0,
    )
    slots: int = option(4, help="Requests computed at the same time.", minimum=1, maximum=4096)
    queue_limit: int = option(512, help="Requests that may wait; the next one is shed.", minimum=0)
    shed_status: Literal["429", "503"] = option("503", help="How it is shed.", choices=("429", "503"))
    retry_after_s: float = option(1.0, help="When shed ones are told to come back.", unit=Unit.SECONDS, minimum=0.0)
    context_tokens: int = option(32768, help="Prompt and answer together.", unit=Unit.TOKENS, minimum=64)
    cache_tokens: int = option(
        0,
        help="Size of the prefix cache; what it holds depends on the past, so with one no idle moment is a new start.",
        unit=Unit.TOKENS,
        minimum=0,
    )
    service: Literal["work", "exponential", "fixed"] = option(
        "work",
        help="What a request costs: its tokens (work), or service_s on average or exactly.",
        choices=("work", "exponential", "fixed"),
    )
    service_s: float = option(1.0, help="The cost of a request, alone.", unit=Unit.SECONDS, minimum=0.0)
    first_share: float = option(
        0.2, help="Of service_s: the part before the first token, if there are more.", minimum=0.0, maximum=1.0
    )
    spread: float = option(
        0.0, help="Standard deviation of the logarithm of a request's cost.", minimum=0.0, maximum=3.0
    )
    answer_tokens: int = option(
        0, help="Median length of an answer; 0 writes as many as are asked for.", unit=Unit.TOKENS, minimum=0
    )
    answer_spread: float = option(
        0.0, help="Standard deviation of the logarithm of that length.", minimum=0.0, maximum=3.0
    )
    thinking_tokens: int = option(
        16, help="Tokens of reasoning before the answer, where thinking is on.", unit=Unit.TOKENS, minimum=0
    )
    bundle: int = option(1, help="Tokens that are sent together.", minimum=1, maximum=1024)
    freeze: tuple[str, ...] = option((), help="When it stands still: 5s@10s is 5 s long and begins after 10 s.")
    stall_ratio: float = option(0.0, help="Share of answers with a pause in the middle.", minimum=0.0, maximum=1.0)
    stall_s: float = option(1.0, help="Length of that pause, alone.", unit=Unit.SECONDS, minimum=0.0)
    drift_per_h: float = option(0.0, help="How much dearer requests become in an hour: 0.1 is 10 %.", minimum=-1.0)
    memory_bytes: int = option(1 << 30, help="Memory it says it uses.", unit=Unit.BYTES, minimum=0)
    leak_bytes_per_h: int = option(0, help="What it loses in an hour.", unit=Unit.BYTES, minimum=0)
    seed: int = option(1, help="Makes every draw repeatable.", minimum=0)
    virtual: bool = option(False, help="Whether time is virtual: hours pass in seconds, and no network is used.")

    @property
    def freezes_ns(self) -> tuple[tuple[int, int], ...]:
        """When it stands still: begin and end of each, in nanoseconds since it began, in order, without overlap.

        Raises:
            ConfigError: One of them is no such text.
        """
        found: list[tuple[int, int]] = []
        for begin, end in sorted(_window_ns(each) for each in self.freeze):
            if found and begin <= found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((begin, end))
        return tuple(found)

    @property
    def regenerates(self) -> bool:
        """Whether it forgets everything when it falls idle, so that a run can be continued from such a moment."""
        return self.cache_tokens == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, and how events are written. Those of writing concern the HTTP server alone."""

    fault_ratio: float = option(
        1.0, help="Share of the requests that the faults below befall.", minimum=0.0, maximum=1.0
    )
    status: int = option(0, help="Answer with this status, 400 to 599, instead; 0 answers.", minimum=0, maximum=599)
    retry_after: str = option("", help="Its Retry-After: seconds, or a date.")
    cut_after: int | None = option(None, help="Break the connection after this many chunks of content.", minimum=0)
    malformed_after: int | None = option(None, help="Send half a JSON object after this many.", minimum=0)
    error_after: int | None = option(None, help="Send an error in place of a chunk after this many.", minimum=0)
    empty: bool = option(False, help="End well and say nothing.")
    hang_after: int | None = option(None, help="Send nothing more after this many chunks, and do not end.", minimum=0)
    slow_headers_s: float = option(
        0.0, help="Wait so long before the head of the response.", unit=Unit.SECONDS, minimum=0.0
    )
    line_end: Literal["lf", "crlf", "cr"] = option("lf", help="How lines end.", choices=("lf", "crlf", "cr"))
    comments: bool = option(False, help="Send comments between events, as proxies and keep-alives do.")
    multiline: bool = option(False, help="Spread the JSON of an event over several data lines.")
    split_bytes: int = option(0, help="Send so many bytes at a time, also within a character; 0 whole events.")
    blank_end: bool = option(True, help="Whether a blank line follows the last event.")
    done: bool = option(True, help="Whether [DONE] ends a stream.")
    role_chunk: bool = option(True, help="Whether a chunk with nothing but the role comes first.")
    usage: bool = option(True, help="Whether usage is told where it was asked for.")
    reasoning: Literal["field", "reasoning", "in_band"] = option(
        "field",
        help="Where reasoning stands: in reasoning_content (field), in reasoning, or as <think> in the content.",
        choices=("field", "reasoning", "in_band"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """All that a target text says."""

    server: SimulatedOptions = field(default_factory=SimulatedOptions)
    faults: Faults = field(default_factory=Faults)


def parse_simulated(text: str) -> Simulated:
    """Read `simulated:` or `simulated:?name=value&name=value`.

    Raises:
        ConfigError: It is no such text, a name is unknown or there twice, or a value is not possible.
    """
    if not text.startswith(PREFIX):
        raise ConfigError(
            say("{text!r} is no simulated server.", text=text), hint=say("Write simulated:?slots=4, for example.")
        )
    query = text.removeprefix(PREFIX).removeprefix("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError(
            say("{text!r} cannot be read.", text=text), hint=say("Write name=value with & between them.")
        ) from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise ConfigError(say("{name} is there twice.", name=name), hint=say("Give it once."))
        given[name] = value
    server, faults = _taken(SimulatedOptions, given), _taken(Faults, given)
    if given:
        raise ConfigError(
            say("A simulated server knows no {name}.", name=", ".join(sorted(given))),
            hint=say("It knows: {known}.", known=", ".join(name for name, _default, _help in parameters())),
        )
    made = Simulated(server=SimulatedOptions(**server), faults=Faults(**faults))
    _ = made.server.freezes_ns  # a wrong one is told now
    return made


def format_simulated(simulated: Simulated) -> str:
    """Write the target text that `parse_simulated` reads as the same, with what differs from the default."""
    from urllib.parse import urlencode

    pairs = []
    for options in (simulated.server, simulated.faults):
        for (name,), declared, spec in walk(type(options)):
            value = getattr(options, name)
            if value != declared.default:
                pairs.append((name, ",".join(value) if isinstance(value, tuple) else show_value(value, spec)))
    return PREFIX + ("?" + urlencode(pairs, safe="@,:") if pairs else "")


def parameters() -> tuple[tuple[str, str, str], ...]:
    """Return the one table of what a target text may say: name, default, help."""
    return tuple(
        (path[0], show_value(declared.default, spec), spec.help)
        for options in (SimulatedOptions, Faults)
        for path, declared, spec in walk(options)
    )


def _taken(options: type[Any], given: dict[str, str]) -> Mapping[str, Any]:
    """Take what belongs to `options` out of `given`, as values."""
    kinds = typing.get_type_hints(options)
    specs = {path[0]: spec for path, _declared, spec in walk(options)}
    names = [each.name for each in dataclasses.fields(options) if each.name in given]
    return {name: parse_value(given.pop(name), kinds[name], specs[name], name) for name in names}


def _window_ns(text: str) -> tuple[int, int]:
    length, at, begin = text.partition("@")
    if not at:
        raise ConfigError(
            say("{text!r} does not say when it begins.", text=text), hint=say("Write 5s@10s: 5 s long, after 10 s.")
        )
    begin_ns = round(parse_seconds(begin) * 1e9)
    return begin_ns, begin_ns + round(parse_seconds(length) * 1e9)
