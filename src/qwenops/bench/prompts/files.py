"""The user's own prompts: lines of JSON, and conversations in the format of ShareGPT.

    jsonl      one object a line: "prompt" or "text" (one user message) or "messages"; optional: "system",
               "max_tokens", "arrival" (seconds; on every line or on none)
    sharegpt   a JSON list, or lines, of {"conversations": [{"from": "human", "value": "..."}, ...]}; also
               {"messages": [{"role": "user", "content": "..."}]}; each is cut to a prompt that ends with a question

Records name an item by file and line: an "id" of the user's own may be personal, and is not read. What is wrong is
told with file and line; nothing is skipped silently.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from qwenops.bench.prompts.items import Item, prompt_tokens_of
from qwenops.bench.prompts.lengths import ERROR_RATIO
from qwenops.bench.record import NS_PER_S
from qwenops.errors import ConfigError
from qwenops.generation import Message, Role
from qwenops.text import say

_SPEAKERS: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "system": "system",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileItems:
    """The items of a file, in its order, or in that of their arrival."""

    items: tuple[Item, ...]
    facts: Mapping[str, Any]
    arrivals_ns: tuple[int, ...] | None = None

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.items)

    def item(self, index: int, mark: str) -> Item:  # noqa: ARG002 -- the user's text stays as it is
        """Return the item of that number."""
        return self.items[index]


def read_jsonl(path: Path) -> FileItems:
    """Read lines of JSON.

    Raises:
        ConfigError: The file cannot be read, or a line is no item.
    """
    raw = read_bytes(path)
    items = [_line_item(path, line, data) for line, data in json_lines(path, raw)]
    return gathered(path, raw, items, {})


def read_sharegpt(path: Path, most_tokens: float) -> FileItems:
    """Read conversations, each cut to its longest beginning of at most `most_tokens` that ends with a question.

    Raises:
        ConfigError: The file cannot be read, or what is in it is no conversation.
    """
    raw = read_bytes(path)
    conversations = list(_conversations(path, raw))
    cut = [_cut(messages, most_tokens) for _, messages in conversations]
    items = [
        Item(name=name, messages=kept) for (name, _), kept in zip(conversations, cut, strict=True) if kept is not None
    ]
    left_out = len(conversations) - len(items)
    if not items:
        raise ConfigError(
            say(
                "None of the {number} conversations of {path} begins with a question of at most {tokens:.0f} tokens.",
                number=len(conversations),
                path=path,
                tokens=most_tokens,
            ),
            hint=say("Raise --prompt-tokens; a conversation may have four times as many."),
        )
    return gathered(path, raw, items, {"left_out": left_out, "most_prompt_tokens": round(most_tokens)})


def gathered(path: Path, raw: bytes, items: Sequence[Item], facts: Mapping[str, Any]) -> FileItems:
    """Put the items of a file together; sort them by arrival where they have one.

    Raises:
        ConfigError: There are none, or some have an arrival and some not.
    """
    if not items:
        raise ConfigError(say("{path} holds no prompt.", path=path), hint=say("Give a file with at least one."))
    said = {
        "file_sha256": hashlib.sha256(raw).hexdigest(),
        "num_items": len(items),
        "length_error_ratio": ERROR_RATIO,
        **facts,
    }
    times = [each.arrival_ns for each in items]
    if all(each is None for each in times):
        return FileItems(items=tuple(items), facts=said)
    if (bare := next((place for place, each in enumerate(times) if each is None), None)) is not None:
        raise ConfigError(
            say("{path}: item {name} has no arrival, others have one.", path=path, name=items[bare].name),
            hint=say("Give every item its arrival in seconds, or none."),
        )
    ordered = sorted(items, key=lambda each: each.arrival_ns or 0)
    first_ns = ordered[0].arrival_ns or 0
    shifted = tuple(replace(each, arrival_ns=(each.arrival_ns or 0) - first_ns) for each in ordered)
    return FileItems(items=shifted, facts=said, arrivals_ns=tuple(each.arrival_ns or 0 for each in shifted))


def read_bytes(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            say("Cannot read {path}: {reason}.", path=path, reason=error.strerror or error),
            hint=say("Check the path after the colon; it counts from the folder you are in."),
        ) from None


def text_of(path: Path, raw: bytes) -> str:
    """Return a file's text.

    Raises:
        ConfigError: It is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise wrong(path, line, say("is not UTF-8")) from None


def json_lines(path: Path, raw: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield number and object of each line that is not blank.

    Raises:
        ConfigError: A line is no JSON object.
    """
    for line, text in enumerate(text_of(path, raw).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise wrong(path, line, say("is no JSON ({reason})", reason=error.msg)) from None
        if not isinstance(data, dict):
            raise wrong(path, line, say("is no JSON object"))
        yield line, data


def wrong(path: Path, line: int, what: str) -> ConfigError:
    """Say what is wrong with a line of a file."""
    return ConfigError(
        say("{path}, line {line}: {what}.", path=path, line=line, what=what),
        hint=say("Mend the line or take it out; the documentation of `qwenops bench` shows the formats."),
    )


def messages_of(path: Path, line: int, data: Mapping[str, Any]) -> tuple[Message, ...] | None:
    """Return the conversation that an object holds; None when it holds none.

    Raises:
        ConfigError: It holds one that is wrong.
    """
    if "messages" in data:
        return _messages(path, line, data["messages"])
    for key in ("prompt", "text"):
        if key in data:
            said = data[key]
            if not isinstance(said, str) or not said.strip():
                raise wrong(path, line, say("{key!r} is no text, or an empty one", key=key))
            system = data.get("system")
            if system is not None and not isinstance(system, str):
                raise wrong(path, line, say("{key!r} is no text, or an empty one", key="system"))
            before = (Message(role="system", content=system),) if system else ()
            return (*before, Message(role="user", content=said))
    return None


def positive(path: Path, line: int, data: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number above 0; None when the key is absent.

    Raises:
        ConfigError: It is something else.
    """
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(path, line, say("{key!r} is {value!r}, not a whole number above 0", key=key, value=value))
    return value


def seconds_ns(path: Path, line: int, data: Mapping[str, Any], key: str) -> int | None:
    """Return a time in seconds as nanoseconds; None when the key is absent.

    Raises:
        ConfigError: It is no number, or below 0.
    """
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:  # noqa: PLR2004 -- 30,000 years
        raise wrong(path, line, say("{key!r} is {value!r}, not a number of seconds", key=key, value=value))
    return round(value * NS_PER_S)


def _line_item(path: Path, line: int, data: Mapping[str, Any]) -> Item:
    messages = messages_of(path, line, data)
    if messages is None:
        raise wrong(path, line, say("has none of 'prompt', 'text' and 'messages'"))
    return Item(
        name=f"{path.name}:{line}",
        messages=messages,
        max_tokens=positive(path, line, data, "max_tokens"),
        arrival_ns=seconds_ns(path, line, data, "arrival"),
    )


def _messages(path: Path, line: int, given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise wrong(path, line, say("'messages' is no list, or an empty one"))
    found: list[Message] = []
    for place, each in enumerate(given):
        role = each.get("role") if isinstance(each, dict) else None
        content = each.get("content") if isinstance(each, dict) else None
        if role not in get_args(Role) or not isinstance(content, str):
            raise wrong(path, line, say("message {place} has no known role, or no text", place=place))
        found.append(Message(role=cast("Role", role), content=content))
    return tuple(found)


def _conversations(path: Path, raw: bytes) -> Iterator[tuple[str, tuple[Message, ...]]]:
    text = text_of(path, raw)
    if text.lstrip().startswith("["):
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise wrong(path, error.lineno, say("is no JSON ({reason})", reason=error.msg)) from None
        for place, each in enumerate(data, start=1):
            yield _conversation(path, place, each)
    else:
        for line, each in json_lines(path, raw):
            yield _conversation(path, line, each)


def _conversation(path: Path, place: int, data: Any) -> tuple[str, tuple[Message, ...]]:
    """Return name and messages of one conversation; `place` is its line, or its number in a list."""
    if not isinstance(data, dict):
        raise wrong(path, place, say("is no JSON object"))
    name = f"{path.name}:{place}"
    if "messages" in data:
        return name, _messages(path, place, data["messages"])
    turns = data.get("conversations", data.get("conversation"))
    if not isinstance(turns, list):
        raise wrong(path, place, say("has no list 'conversations' or 'messages'"))
    found: list[Message] = []
    for turn in turns:
        speaker = turn.get("from") if isinstance(turn, dict) else None
        said = turn.get("value") if isinstance(turn, dict) else None
        role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
        if role is None or not isinstance(said, str):
            raise wrong(path, place, say("a turn has no known 'from', or no 'value': {speaker!r}", speaker=speaker))
        found.append(Message(role=role, content=said))
    return name, tuple(found)


def _cut(messages: tuple[Message, ...], most_tokens: float) -> tuple[Message, ...] | None:
    """Return the longest beginning that ends with a question and is not too long."""
    for end in range(len(messages), 0, -1):
        last = messages[end - 1]
        if last.role == "user" and last.content.strip() and prompt_tokens_of(messages[:end]) <= most_tokens:
            return messages[:end]
    return None
