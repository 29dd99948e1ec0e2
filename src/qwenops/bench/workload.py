"""What to ask: a numbered, repeatable sequence of prompts, and what a prefix cache may find in it.

    warm    warm-up requests and measured ones share the workload's beginning; items repeat as the workload has them
    cold    every prompt is distinct and the run has a beginning of its own, which warm-up requests do not have: at
            first a cache finds nothing, then what this very traffic has left there
    bust    a unique marker stands at the start of every prompt, so a cache never finds anything

Which of the three it was stands in the facts of every result. A server that was asked the same before would find it
again; the salt, which a run draws once and records, is part of every marker. Synthetic calls carry a marker in every
policy, as the number of the call. What the user's file holds is sent as it is when the policy is `warm`; in the
other two a marker of a dozen characters goes before it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl

from qwenops.bench.options import BenchOptions
from qwenops.bench.prompts.calls import Dice
from qwenops.bench.prompts.items import Item, Items, SyntheticCalls, prompt_tokens_of, synthetic_messages
from qwenops.bench.prompts.phrases import SpokenLanguage
from qwenops.bench.segment import SEGMENT_ITEMS
from qwenops.errors import ConfigError
from qwenops.generation import Message, Messages, SamplingParams
from qwenops.text import Text, say

_SHOWN_ITEMS = 50
"""From how many items the facts are made at most."""
_MARK_CHARACTERS = 12
_NO_MARK = "#" + "0" * _MARK_CHARACTERS
"""As long as a marker is."""
_SHAREGPT_SPREAD = 4
"""A conversation may have so many times --prompt-tokens."""
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it lie as far apart from one another as can be, however many there are."""
_HAN_SHARE = 0.2
"""A text with more Chinese characters than this counts as Chinese."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request as the workload has it."""

    item: str
    """Which item it is: the same text and lengths in every run of this workload and seed, apart from markers."""
    messages: Messages
    sampling: SamplingParams
    prompt_hash: str
    """Of exactly what is sent."""
    arrival_ns: int | None = None
    """When the trace sent it, after the trace's first request and at the wanted speed."""


class Workload(Protocol):
    """A sequence of requests; the same index gives the same request."""

    @property
    def name(self) -> str:
        """As the user named it."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a result must say about it: kind, cache policy, seed, lengths, hash of the content."""
        ...

    @property
    def arrivals_ns(self) -> Sequence[int] | None:
        """When a trace sent its requests, from 0; None where the workload has no times."""
        ...

    def ask(self, index: int) -> Ask:
        """Return the measured request of that number, from 0 without end."""
        ...

    def warmup(self, index: int) -> Ask:
        """Return the warm-up request of that number; it is none of the measured ones."""
        ...


def open_workload(options: BenchOptions, *, salt: str = "") -> "MarkedWorkload":
    """Open the workload that `options.workload` names; files are read whole, once.

    Args:
        options: Which workload, its seed, lengths and cache policy.
        salt: Part of every marker; a run that must not find what an earlier one left in a cache gives its own.

    Raises:
        ConfigError: There is no such workload, or its file is wrong; the message names the file and the line.
    """
    kind, _, place = options.workload.partition(":")
    try:
        opener = _KINDS[kind]
    except KeyError:
        raise ConfigError(
            say("There is no workload called {name!r}.", name=options.workload),
            hint=say("Use one of {known}.", known="calls-zh, calls-en, jsonl:FILE, sharegpt:FILE, trace:FILE"),
        ) from None
    return MarkedWorkload(options, kind, opener(options, place), salt=salt)


class MarkedWorkload:
    """Items, asked under a cache policy; a `Workload`."""

    def __init__(self, options: BenchOptions, kind: str, items: Items, *, salt: str, apart: bool = False) -> None:
        """Look at some of the items, for their lengths and their language; `apart` as `salted` makes it."""
        self.name = options.workload
        self._options = options
        self._kind = kind
        self._items = items
        self._salt = salt
        self._apart = apart
        number = items.number or _SHOWN_ITEMS
        shown = [items.item(each, _NO_MARK) for each in range(0, number, math.ceil(number / _SHOWN_ITEMS))]
        self._language: SpokenLanguage = _language_of(shown)
        lengths = sorted(prompt_tokens_of(each.messages) for each in shown)
        self._median_tokens = lengths[len(lengths) // 2]
        sampling = self._sampling(shown[0])
        self.facts: Mapping[str, Any] = MappingProxyType(
            {
                "kind": kind,
                "cache": options.cache,
                "seed": options.seed,
                "salt": salt,
                **items.facts,
                "content_hash": _hash([_plain(each.messages) for each in shown]),
                "estimated_prompt_tokens": {
                    "least": round(lengths[0]),
                    "median": round(self._median_tokens),
                    "most": round(lengths[-1]),
                },
                "max_tokens": options.max_tokens,
                "force_length": options.force_length,
                "thinking": options.thinking,
                "temperature": sampling.temperature,
            }
        )

    @property
    def arrivals_ns(self) -> Sequence[int] | None:
        """When a trace sent its requests."""
        return self._items.arrivals_ns

    def salted(self, salt: str) -> "MarkedWorkload":
        """Return the same items with other markers, which find nothing in a cache that others have left there.

        Items of a file, which are otherwise asked as they stand, get one behind the beginning that they share.
        """
        return MarkedWorkload(self._options, self._kind, self._items, salt=salt, apart=True)

    def ask(self, index: int) -> Ask:
        """Return the measured request of that number."""
        number = self._items.number
        item = self._items.item(_item_number(index, number), self._mark("item", index))
        match self._options.cache:
            case "bust":
                item = _marked_first(item, self._mark("bust", index))
            case "cold":
                if number is not None:
                    item = _marked_last(item, self._mark("distinct", index))
                item = _marked_first(item, self._mark("cold", "measure"))
            case "warm":
                if self._apart and number is not None:
                    item = _marked_behind_beginning(item, self._mark("apart", index))
        return self._asked(item)

    def warmup(self, index: int) -> Ask:
        """Return the warm-up request of that number: a synthetic call behind the workload's beginning."""
        dice = Dice("warmup", self._options.seed, index)
        mark = self._mark("warmup", index)
        made = synthetic_messages(self._language, round(self._median_tokens), dice, mark)
        like = self._items.item(0 if self._items.number is None else index % self._items.number, mark)
        beginning = tuple(each for each in like.messages if each.role == "system")
        item = replace(like, name=f"warmup-{index}", messages=(*beginning, made[-1]), arrival_ns=None)
        match self._options.cache:
            case "bust":
                item = _marked_first(item, mark)
            case "cold":
                item = _marked_first(item, self._mark("cold", "warmup"))
            case "warm":
                pass
        return self._asked(item)

    def _asked(self, item: Item) -> Ask:
        messages = Messages(messages=item.messages, enable_thinking=self._options.thinking)
        return Ask(
            item=item.name,
            messages=messages,
            sampling=self._sampling(item),
            prompt_hash=_hash([_plain(item.messages), messages.enable_thinking]),
            arrival_ns=item.arrival_ns,
        )

    def _sampling(self, item: Item) -> SamplingParams:
        """Decode greedily, as Qwen recommends not to do for thoughts: those are sampled as it recommends, seeded."""
        usual = SamplingParams(
            max_tokens=item.max_tokens or self._options.max_tokens, ignore_eos=self._options.force_length
        )
        if self._options.thinking:
            return replace(usual, temperature=0.6, top_p=0.95, top_k=20, seed=self._options.seed)
        return replace(usual, temperature=0.0, top_p=1.0, top_k=0)

    def _mark(self, *what: object) -> str:
        """Return a short word of equal length for every use, which nothing else shares."""
        return f"#{_hash([self._salt, self._options.seed, *what])[:_MARK_CHARACTERS]}"


def _item_number(index: int, number: int | None) -> int:
    """Return which item is asked; each segment begins a file of so many elsewhere, and goes through it in its order."""
    if number is None:
        return index
    segment, position = divmod(index, SEGMENT_ITEMS)
    return (int(number * (segment * _GOLDEN % 1.0)) + position) % number


def cache_sentence(policy: str, workload: str = "") -> Text:
    """Say what a prefix cache could find; prompts of a file, unlike synthetic ones, need not share a beginning."""
    match policy:
        case "warm" if ":" in workload:
            return say(
                "Prefix cache: warm; the prompts are sent as the file has them, and it could find what several of them "
                "share and what was asked before."
            )
        case "warm":
            return say("Prefix cache: warm; it could find the beginning that all prompts share.")
        case "cold":
            return say("Prefix cache: cold; at first it could find nothing, later what this traffic left there.")
        case _:
            return say("Prefix cache: bust; a marker at the start of each prompt lets it find nothing.")


def _calls_zh(options: BenchOptions, place: str) -> Items:
    return _calls("zh", options, place)


def _calls_en(options: BenchOptions, place: str) -> Items:
    return _calls("en", options, place)


def _calls(language: SpokenLanguage, options: BenchOptions, place: str) -> Items:
    if place:
        raise ConfigError(
            say("Synthetic calls are made, not read: {place!r} is too much.", place=place),
            hint=say("Write {name} alone.", name=f"calls-{language}"),
        )
    return SyntheticCalls(language, options.prompt_tokens, options.seed)


def _jsonl(_options: BenchOptions, place: str) -> Items:
    from qwenops.bench.prompts.files import read_jsonl

    return read_jsonl(_path("jsonl", place))


def _sharegpt(options: BenchOptions, place: str) -> Items:
    from qwenops.bench.prompts.files import read_sharegpt

    return read_sharegpt(_path("sharegpt", place), _SHAREGPT_SPREAD * options.prompt_tokens)


def _trace(_options: BenchOptions, place: str) -> Items:
    from qwenops.bench.prompts.trace import read_trace

    name, _, query = place.partition("?")
    wishes = dict(parse_qsl(query, keep_blank_values=True))
    speed, language = wishes.pop("speed", "1"), wishes.pop("lang", "zh")
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if wishes or factor <= 0 or language not in {"zh", "en"}:
        raise ConfigError(
            say("A trace cannot be replayed with {query!r}.", query=query),
            hint=say("Write trace:FILE?speed=2&lang=en; speed is above 0, lang is zh or en."),
        )
    return read_trace(_path("trace", name), language="en" if language == "en" else "zh", speed=factor)


_KINDS: Mapping[str, Callable[[BenchOptions, str], Items]] = {
    "calls-zh": _calls_zh,
    "calls-en": _calls_en,
    "jsonl": _jsonl,
    "sharegpt": _sharegpt,
    "trace": _trace,
}


def _path(kind: str, place: str) -> Path:
    if not place:
        raise ConfigError(
            say("The workload {kind} needs a file.", kind=kind), hint=say("Write {kind}:FILE.", kind=kind)
        )
    return Path(place).expanduser()


def _marked_first(item: Item, mark: str) -> Item:
    """Put a marker at the very start, before anything that prompts share."""
    first, *rest = item.messages
    return replace(item, messages=(replace(first, content=f"{mark}\n{first.content}"), *rest))


def _marked_last(item: Item, mark: str) -> Item:
    """Put a marker at the start of the last message, behind what prompts share."""
    *before, last = item.messages
    return replace(item, messages=(*before, replace(last, content=f"{mark}\n{last.content}")))


def _marked_behind_beginning(item: Item, mark: str) -> Item:
    """Put a marker at the start of the first message that is no instruction: what follows it no cache has seen."""
    messages = list(item.messages)
    place = next((at for at, each in enumerate(messages) if each.role != "system"), len(messages) - 1)
    messages[place] = replace(messages[place], content=f"{mark}\n{messages[place].content}")
    return replace(item, messages=tuple(messages))


def _language_of(items: Sequence[Item]) -> SpokenLanguage:
    text = "".join(message.content for item in items[:10] for message in item.messages)
    han = sum("\u4e00" <= each <= "\u9fff" for each in text)
    return "zh" if han > _HAN_SHARE * len(text) else "en"


def _plain(messages: Sequence[Message]) -> list[list[str]]:
    return [[each.role, each.content] for each in messages]


def _hash(data: Any) -> str:
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:16]
