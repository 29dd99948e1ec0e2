"""Calls and texts in which tokens stand for personal data.

Redaction comes before anything is stored or trained on. Of what was taken out a call keeps how often each kind stood
there, and which version of the rules looked for it: what a model is trained on and what it is asked about must have
been redacted alike. Facts about a call (`meta`) are redacted with it, and an id that is a number of a person becomes
a hash. The conversation's own id stays, for labels refer to it: it must not be made of a person's data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenops.calls.redact.finding import find
from qwenops.calls.redact.spans import Span
from qwenops.calls.redact.tokens import Numbering, digest_of
from qwenops.calls.schema import Call, Redaction, Role, Turn
from qwenops.errors import ConfigError
from qwenops.text import say

VERSION = "zh-1"
"""Of the rules: it changes whenever they find something else."""
SHORTEST_SECRET_BYTES = 16
_LEAST_FACT, _MOST_FACT = 10**6, 10**40
"""Numbers that may be a person's."""
_LIKELY = 0.6
_HASHED = "h:"
_HAN = re.compile("[\u4e00-\u9fff]")
_SPEAKER = re.compile(
    r"\s*(?:(?P<customer>客户|用户|客|customer|caller|c)|(?P<agent>坐席|座席|客服|坐|agent|a)|ivr|机器人)\s*[:：]\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """A call without personal data, and where it stood."""

    call: Call
    spans: tuple[Span, ...]
    """Places in the call as it was given; the value is a hash under the secret, by which calls can be compared."""


def redact(call: Call, *, secret: bytes, strict: bool = False) -> Redacted:
    """Put tokens in the place of personal data; a call that is redacted already stays as it is.

    Args:
        call: What was said.
        secret: What values are hashed with; whoever has it can find a known number in hashes, so it stays with those
            who may know the numbers.
        strict: Whether the numbers that only help to tell classes apart go too: tails, amounts, dates, tariffs.

    Raises:
        ConfigError: The secret is so short that it could be found by trying.
    """
    _check(secret)
    texts = [turn.text for turn in call.turns]
    numbering = Numbering([*texts, *_texts_in(call.meta)], secret=secret, chinese=_is_chinese(call.lang, texts))
    spans = tuple(
        replace(span, value=numbering.digest(span.kind, span.value)) for span in find(call.turns, strict=strict)
    )
    counts = dict(call.redaction.counts) if call.redaction else {}
    for span in spans:
        counts[span.kind.value] = counts.get(span.kind.value, 0) + 1
    redacted = replace(
        call,
        turns=_replaced(call.turns, spans, numbering),
        customer_id=_hashed(call.customer_id, secret),
        agent_id=_hashed(call.agent_id, secret),
        meta={key: _redacted_fact(key, value, numbering, strict=strict) for key, value in call.meta.items()},
        redaction=Redaction(version=VERSION, counts=counts),
    )
    return Redacted(call=redacted, spans=spans)


def redact_text(text: str, *, strict: bool = False) -> str:
    """Put tokens in the place of personal data in a text; lines that begin with `客户:` or `agent:` are its turns."""
    lines = text.splitlines(keepends=True)
    spoken = [_SPEAKER.match(line) for line in lines]
    heads = [speaker[0] if speaker else "" for speaker in spoken]
    turns = [
        Turn(role=_role(speaker), text=line[len(head) :])
        for line, head, speaker in zip(lines, heads, spoken, strict=True)
    ]
    numbering = Numbering([text], secret=b"", chinese=_is_chinese("", lines))
    spans = [replace(span, value=numbering.digest(span.kind, span.value)) for span in find(turns, strict=strict)]
    redacted = _replaced(turns, spans, numbering)
    return "".join(head + turn.text for head, turn in zip(heads, redacted, strict=True))


def _check(secret: bytes) -> None:
    if len(secret) < SHORTEST_SECRET_BYTES:
        raise ConfigError(
            say(
                "The secret for redaction has {count} bytes; it needs at least {least}.",
                count=len(secret),
                least=SHORTEST_SECRET_BYTES,
            ),
            hint=say("Make one with: openssl rand -hex 16"),
        )


def _is_chinese(lang: str, texts: Sequence[str]) -> bool:
    """Whether the tokens of a call are Chinese: by its language, or by what is said where nobody said which it is."""
    if lang:
        return not lang.lower().startswith("en")
    return any(_HAN.search(text) for text in texts)


def _role(speaker: re.Match[str] | None) -> Role:
    if speaker is None:
        return Role.UNKNOWN
    if speaker["customer"]:
        return Role.CUSTOMER
    return Role.AGENT if speaker["agent"] else Role.IVR


def _replaced(turns: Sequence[Turn], spans: Sequence[Span], numbering: Numbering) -> tuple[Turn, ...]:
    """Return the turns with tokens, numbered by their first mention."""
    pieces: list[list[str]] = [[] for _ in turns]
    ends = [0] * len(turns)
    for span in spans:
        text = turns[span.turn].text
        pieces[span.turn] += [text[ends[span.turn] : span.start], numbering.token(span.kind, span.value)]
        ends[span.turn] = span.end
    return tuple(
        replace(turn, text="".join(kept) + turn.text[end:]) if end else turn
        for turn, kept, end in zip(turns, pieces, ends, strict=True)
    )


def _hashed(person: str, secret: bytes) -> str:
    """Return an id of a person that is no number or name: a hash where it is one."""
    if not person or person.startswith(_HASHED):
        return person
    found = find([Turn(role=Role.UNKNOWN, text=person)])
    if all(span.confidence < _LIKELY for span in found):
        return person
    return _HASHED + digest_of(person, secret=secret, about="person")


def _redacted_fact(key: str, value: Any, numbering: Numbering, *, strict: bool) -> Any:
    """Return a fact about a call with tokens for personal data; its key may say what it is: `客户姓名`."""
    if isinstance(value, Mapping):
        return {inner: _redacted_fact(str(inner), each, numbering, strict=strict) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted_fact(key, each, numbering, strict=strict) for each in value]
    if isinstance(value, int) and _LEAST_FACT <= abs(value) < _MOST_FACT:
        said = _redacted_words(key, str(value), numbering, strict=False, least=_LIKELY)
        return value if said == str(value) else said
    return _redacted_words(key, value, numbering, strict=strict, least=0.0) if isinstance(value, str) else value


def _redacted_words(key: str, value: str, numbering: Numbering, *, strict: bool, least: float) -> str:
    """Return the words of a fact with tokens for what is at least so sure; what is found in its key does not count."""
    head = f"{key}: "
    while True:
        spans = [
            replace(
                span,
                start=max(0, span.start - len(head)),
                end=span.end - len(head),
                value=numbering.digest(span.kind, span.value),
            )
            for span in find([Turn(role=Role.UNKNOWN, text=head + value)], strict=strict)
            if span.end > len(head) and span.confidence >= least
        ]
        if not spans:
            return value
        value = _replaced([Turn(role=Role.UNKNOWN, text=value)], spans, numbering)[0].text


def _texts_in(value: Any) -> list[str]:
    """Return every text of a fact, however deep."""
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts_in(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _texts_in(each)]
    return [value] if isinstance(value, str) else []
