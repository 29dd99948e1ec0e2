"""Where personal data stands in a call.

Everything is looked for in the whole call at once; what is found becomes one character, and the call is looked through
again until nothing more is found. So a call whose data has been replaced by tokens is a call in which nothing is
found: redaction twice is redaction once, whatever the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from qwenops.calls.redact.addresses import addresses_of
from qwenops.calls.redact.chains import numbers_of
from qwenops.calls.redact.codes import codes_of
from qwenops.calls.redact.cues import cues_of
from qwenops.calls.redact.emails import emails_of
from qwenops.calls.redact.english import english_of
from qwenops.calls.redact.names import names_of
from qwenops.calls.redact.numbers import SPOKEN
from qwenops.calls.redact.script import GONE, TURN, Script, script_of
from qwenops.calls.redact.spans import Found, Kind, Span
from qwenops.calls.redact.strict import every_number
from qwenops.calls.redact.tokens import tokens
from qwenops.calls.schema import Turn

_BARRIER = re.compile(f"[{GONE}{TURN}]")
_FREE = re.compile(rb"\x01+")
_DIGIT = re.compile(f"[0-9]|[{SPOKEN}]{{2}}")
_OF_WORDS = frozenset({Kind.NAME, Kind.ADDRESS})
"""Of these a rest without digits is what somebody says before or after."""
_EDGES = " \t\r\n,.。、:;"


def find(turns: Sequence[Turn], *, strict: bool = False) -> list[Span]:
    """Return the personal data in the turns of a call, by turn and place.

    Args:
        turns: All turns of the call: numbers are put together over them, and read back by the other voice.
        strict: Whether every number is personal data: tails, amounts, dates and tariffs too.
    """
    gone = [list(tokens(turn.text)) for turn in turns]
    roles = [turn.role for turn in turns]
    spans: list[Span] = []
    while True:
        texts = [_collapsed(turn.text, cuts) for turn, cuts in zip(turns, gone, strict=True)]
        script = script_of(texts, roles)
        found = separate(script, _everything(script, strict=strict))
        if not found:
            return sorted(spans, key=lambda span: (span.turn, span.start))
        fresh = [_span(script, gone, each) for each in found]
        spans += fresh
        for span in fresh:
            gone[span.turn].append((span.start, span.end))
        for cuts in gone:
            cuts.sort()


def _everything(script: Script, *, strict: bool) -> Iterator[Found]:
    cues = cues_of(script)
    yield from numbers_of(script, cues)
    yield from codes_of(script, cues)
    yield from emails_of(script.low)
    yield from names_of(script)
    yield from english_of(script)
    yield from addresses_of(script)
    if strict:
        yield from every_number(script.low)


def separate(script: Script, found: Iterable[Found]) -> list[Found]:
    """Return what was found without overlaps: the surer goes first, and of the other what is left of it stays."""
    free = bytearray(b"\x01") * len(script.text)
    for barrier in _BARRIER.finditer(script.text):
        free[barrier.start()] = 0
    kept: list[Found] = []
    for each in sorted(found, key=lambda one: (-one.confidence, one.start - one.end, one.start)):
        for rest in list(_FREE.finditer(free, each.start, each.end)):
            start, end = _trimmed(script.text, *rest.span())
            if not any(character.isalnum() for character in script.text[start:end]):
                continue
            is_rest = end - start < each.end - each.start
            place = _touching(kept, each.kind, start, end) if is_rest else None
            if place is None and is_rest and each.kind in _OF_WORDS and _DIGIT.search(script.low, start, end) is None:
                continue
            free[start:end] = bytes(end - start)
            if place is None:
                whole = (start, end) == (each.start, each.end)
                kept.append(each if whole else replace(each, start=start, end=end))
            else:
                kept[place] = replace(kept[place], start=min(start, kept[place].start), end=max(end, kept[place].end))
    return kept


def _touching(kept: Sequence[Found], kind: Kind, start: int, end: int) -> int | None:
    """Return which of those kept is the same thing, of which this is the rest."""
    for place, each in enumerate(kept):
        if each.kind is kind and start <= each.end and each.start <= end:
            return place
    return None


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a stretch without the pauses at its ends."""
    while start < end and text[start] in _EDGES:
        start += 1
    while start < end and text[end - 1] in _EDGES:
        end -= 1
    return start, end


def _collapsed(text: str, cuts: Iterable[tuple[int, int]]) -> str:
    """Return a text with one character for each part that is gone."""
    kept, at = [], 0
    for start, end in cuts:
        kept += [text[at:start], GONE]
        at = end
    return "".join([*kept, text[at:]])


def _span(script: Script, gone: Sequence[Sequence[tuple[int, int]]], found: Found) -> Span:
    """Return where something stands in the turn as it was given."""
    turn = script.turn_at(found.start)
    begins = script.starts[turn]
    return Span(
        kind=found.kind,
        turn=turn,
        start=_original(found.start - begins, gone[turn]),
        end=_original(found.end - begins, gone[turn]),
        value=found.value,
        confidence=found.confidence,
    )


def _original(place: int, cuts: Iterable[tuple[int, int]]) -> int:
    """Return where a place of a collapsed text is in the text itself."""
    shift = 0
    for start, end in cuts:
        if start - shift >= place:
            break
        shift += end - start - 1
    return place + shift
