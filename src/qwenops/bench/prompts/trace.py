"""Traffic that was recorded somewhere: when each request came, and how long it was or what it said.

Recognised by their columns or keys:

    ours        JSON lines: "arrival" (seconds) with "prompt", "text" or "messages", or with "prompt_tokens"; optional
                "max_tokens". CSV: arrival, prompt_tokens, max_tokens
    Mooncake    JSON lines: "timestamp" (milliseconds), "input_length", "output_length", "hash_ids" (blocks of 512
                tokens; equal ids are equal text here too, so a prefix cache finds what it found there)
    Azure       CSV: TIMESTAMP (date and time), ContextTokens, GeneratedTokens
    BurstGPT    CSV: Timestamp (seconds), "Request tokens", "Response tokens"

Where only lengths are known, the text is a synthetic call of that length. A request without an answer there is left
out, and counted.
"""

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwenops.bench.prompts.calls import VERSION, Dice, make_call
from qwenops.bench.prompts.files import (
    json_lines,
    messages_of,
    positive,
    read_bytes,
    seconds_ns,
    text_of,
    wrong,
)
from qwenops.bench.prompts.items import Item, synthetic_messages
from qwenops.bench.prompts.lengths import ERROR_RATIO, REPLY_TOKENS, TEMPLATE_TOKENS
from qwenops.bench.prompts.phrases import SpokenLanguage
from qwenops.bench.record import NS_PER_S
from qwenops.errors import ConfigError
from qwenops.generation import Message
from qwenops.text import say

MOONCAKE_BLOCK_TOKENS = 512

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One request of a trace; it has messages, or a length."""

    line: int
    arrival_ns: int
    prompt_tokens: int = 0
    max_tokens: int | None = None
    messages: tuple[Message, ...] | None = None
    blocks: tuple[int, ...] = ()
    """Of equal text, `MOONCAKE_BLOCK_TOKENS` each; the last one may be cut."""


class TraceItems:
    """The requests of a trace in the order of their arrival; text is made when it is asked for."""

    def __init__(
        self, name: str, rows: Sequence[_Row], language: SpokenLanguage, speed: float, facts: Mapping[str, Any]
    ) -> None:
        """Sort the rows and count their times from the first one, at the wanted speed."""
        self._name = name
        self._rows = sorted(rows, key=lambda each: each.arrival_ns)
        self._language: SpokenLanguage = language
        first_ns = self._rows[0].arrival_ns
        self.arrivals_ns: Sequence[int] = tuple(round((each.arrival_ns - first_ns) / speed) for each in self._rows)
        self.facts: Mapping[str, Any] = facts

    @property
    def number(self) -> int:
        """How many requests there are."""
        return len(self._rows)

    def item(self, index: int, mark: str) -> Item:
        """Return the request of that number."""
        row = self._rows[index]
        return Item(
            name=f"{self._name}:{row.line}",
            messages=row.messages or self._made(row, mark),
            max_tokens=row.max_tokens,
            arrival_ns=self.arrivals_ns[index],
        )

    def _made(self, row: _Row, mark: str) -> tuple[Message, ...]:
        if not row.blocks:
            dice = Dice("trace", VERSION, self._language, row.line)
            return synthetic_messages(self._language, row.prompt_tokens, dice, mark)
        left = row.prompt_tokens - TEMPLATE_TOKENS - REPLY_TOKENS
        pieces: list[str] = []
        for block in row.blocks:
            tokens = min(left, MOONCAKE_BLOCK_TOKENS)
            if tokens <= 0:
                break
            pieces.append(_block(self._language, block, tokens))
            left -= tokens
        return (Message(role="user", content="\n".join(pieces)),)


def read_trace(path: Path, *, language: SpokenLanguage = "zh", speed: float = 1.0) -> TraceItems:
    """Read a trace.

    Args:
        path: The file.
        language: Of the text where the trace has lengths alone.
        speed: 2 sends in half of the time.

    Raises:
        ConfigError: The file cannot be read, or is no trace that is known.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise ConfigError(say("A speed of {speed} replays nothing.", speed=speed), hint=say("Give a number above 0."))
    raw = read_bytes(path)
    first = text_of(path, raw).lstrip()[:1]
    kind, rows = _json_rows(path, raw) if first == "{" else _csv_rows(path, raw)
    answered = [each for each in rows if each.max_tokens != 0]
    if not answered:
        raise ConfigError(say("{path} holds no request.", path=path), hint=say("Give a file with at least one."))
    facts = {
        "trace": kind,
        "file_sha256": hashlib.sha256(raw).hexdigest(),
        "num_items": len(answered),
        "left_out": len(rows) - len(answered),
        "speed": speed,
        "language": language,
        "generator_version": VERSION,
        "length_error_ratio": ERROR_RATIO,
    }
    return TraceItems(path.name, answered, language, speed, facts)


@lru_cache(maxsize=4096)
def _block(language: SpokenLanguage, number: int, tokens: int) -> str:
    """Return the text of a block; a shorter one of the same number begins alike."""
    return make_call(language, tokens, Dice("block", VERSION, language, number))


def _json_rows(path: Path, raw: bytes) -> tuple[str, list[_Row]]:
    kinds: set[str] = set()
    rows: list[_Row] = []
    for line, data in json_lines(path, raw):
        mooncake = "input_length" in data
        kinds.add("mooncake" if mooncake else "qwenops")
        rows.append(_mooncake_row(path, line, data) if mooncake else _own_row(path, line, data))
    return "+".join(sorted(kinds)), rows


def _own_row(path: Path, line: int, data: Mapping[str, Any]) -> _Row:
    arrival_ns = seconds_ns(path, line, data, "arrival")
    messages = messages_of(path, line, data)
    tokens = positive(path, line, data, "prompt_tokens")
    if arrival_ns is None or (messages is None and tokens is None):
        raise wrong(path, line, say("needs 'arrival', and one of 'prompt', 'text', 'messages' and 'prompt_tokens'"))
    return _Row(
        line=line,
        arrival_ns=arrival_ns,
        prompt_tokens=tokens or 0,
        max_tokens=positive(path, line, data, "max_tokens"),
        messages=messages,
    )


def _mooncake_row(path: Path, line: int, data: Mapping[str, Any]) -> _Row:
    blocks = data.get("hash_ids", [])
    if not isinstance(blocks, list) or not all(isinstance(each, int) for each in blocks):
        raise wrong(path, line, say("'hash_ids' is no list of whole numbers"))
    return _Row(
        line=line,
        arrival_ns=round(_number(path, line, data.get("timestamp"), "timestamp") * _NS_PER_MS),
        prompt_tokens=_whole(path, line, data.get("input_length"), "input_length"),
        max_tokens=_whole(path, line, data.get("output_length", 0), "output_length"),
        blocks=tuple(blocks),
    )


def _csv_rows(path: Path, raw: bytes) -> tuple[str, list[_Row]]:
    reader = csv.reader(text_of(path, raw).splitlines())
    heading = [each.strip().lower() for each in next(reader, [])]
    for kind, (columns, moment) in _CSV_KINDS.items():
        if all(each in heading for each in columns):
            places = [heading.index(each) for each in columns]
            return kind, list(_read_rows(path, reader, places, columns, moment))
    raise wrong(
        path,
        1,
        say(
            "no known columns among {found}; known are {known}",
            found=", ".join(heading) or "-",
            known="; ".join(", ".join(columns) for columns, _ in _CSV_KINDS.values()),
        ),
    )


def _read_rows(
    path: Path, reader: Any, places: Sequence[int], columns: Sequence[str], moment: Callable[[str], int | None]
) -> Iterator[_Row]:
    for cells in reader:
        if not cells:
            continue
        line = reader.line_num
        if len(cells) <= max(places):
            raise wrong(path, line, say("has {found} columns, too few", found=len(cells)))
        at, prompt, answer = (cells[place].strip() for place in places)
        arrival_ns = moment(at)
        if arrival_ns is None:
            raise wrong(path, line, say("{key!r} is {value!r}, no time", key=columns[0], value=at))
        yield _Row(
            line=line,
            arrival_ns=arrival_ns,
            prompt_tokens=_whole(path, line, prompt, columns[1]),
            max_tokens=_whole(path, line, answer, columns[2]),
        )


def _seconds(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return round(value * NS_PER_S) if math.isfinite(value) else None


def _date(text: str) -> int | None:
    """Read a date with time; digits beyond microseconds are kept."""
    whole, _, fraction = text.partition(".")
    digits = "".join(each for each in fraction if each.isdigit())
    zone = fraction[len(digits) :]
    try:
        read = datetime.fromisoformat(whole + zone)
    except ValueError:
        return None
    aware = read if read.tzinfo else read.replace(tzinfo=UTC)
    return int(aware.timestamp()) * NS_PER_S + int(digits[:9].ljust(9, "0"))


_CSV_KINDS: Mapping[str, tuple[tuple[str, str, str], Callable[[str], int | None]]] = {
    "azure": (("timestamp", "contexttokens", "generatedtokens"), _date),
    "burstgpt": (("timestamp", "request tokens", "response tokens"), _seconds),
    "qwenops": (("arrival", "prompt_tokens", "max_tokens"), _seconds),
}


def _number(path: Path, line: int, value: Any, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise wrong(path, line, say("{key!r} is {value!r}, not a number from 0", key=key, value=value))
    return number


def _whole(path: Path, line: int, value: Any, key: str) -> int:
    return round(_number(path, line, value, key))
