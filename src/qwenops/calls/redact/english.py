"""Names and addresses in English speech: after `my name is`, before `calling`, beside Mr and Ms; a number and a street.

Speech recognition often writes no capitals, so words that end a name are listed, and first names that are everyday
words (mark, bill) count only with a capital.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from qwenops.calls.redact.lexicon import alternatives, words
from qwenops.calls.redact.numbers import ENGLISH_NUMBER
from qwenops.calls.redact.script import Script
from qwenops.calls.redact.spans import Found, Kind

_WORD = r"[a-z][a-z'\u2019\-]*[a-z]"
_MOST_WORDS = 3
_LONGEST_ANSWER = 60
_SPELLING = 80
_CALLED = re.compile(
    r"(?:name(?:(?:(?<=full name)|(?<=last name)|(?<=first name)|(?<=middle name)|(?<=surname))(?:'s| is)?"
    r"|(?<![a-z]name)(?:'s| is| would be|:)| on (?:the|my) account is)"
    r"|account holder(?:'s name)? is|under the name(?: of)?|in the name of|i am called|i'm called|speaking (?:with|to)"
    r"|registered to|belongs to)(?:[\s,:]|(?:uh|um|er|it's)(?![a-z]))*+"
)
_CALLING = re.compile(r"(?:this is|it's)\s+(?:(?:mr|mrs|ms|miss)(?![a-z])\.?\s*)?(?=[a-z])")
_TITLE = re.compile(r"(?:m(?<![a-z]m)(?:rs?|s|iss)|d(?<![a-z]d)r)\.?\s+(?=[a-z])")
_BEFORE_FIRST = (
    *("i'm", "i am", "this is", "it's", "it is", "speaking with", "speaking to", "thanks", "thank you", "hi", "hello"),
    *("okay", "ok", "morning", "afternoon", "evening", "here is"),
)
_FIRST_CUE = re.compile(rf"(?:{alternatives(_BEFORE_FIRST, begins=True)})[\s,]+(?=[a-z])")
_QUESTION = re.compile(
    r"(?:your|the) (?:full |first |last )?name|who am i speaking|who is calling|account holder|name on the account"
)
_LEAD = re.compile(
    r"(?:[\s,.]|(?:uh|um|er|yes|yeah|sure|okay|ok|so|well|of course|it's|it is|that's|that is|i'm|i am|my name is"
    r"|the name is|name is|this is|name's|hi|hello)(?![a-z]))*+"
)
_LETTERS = re.compile(r"[a-z](?<![a-z].)[\s.,\-]{1,2}(?:[a-z][\s.,\-]{1,2}){1,19}[a-z](?![a-z'])")
_SPELL = re.compile(r"spell|spelt|name|that's")
_NEXT_WORD = re.compile(rf"\s*({_WORD})")
_AFTER_NAME = re.compile(r"\s*(?:calling|speaking|here|from|on the line)(?![a-z])")

_NUMBER = rf"(?:[0-9]{{1,5}}[a-z]?|{ENGLISH_NUMBER}(?:[\s\-]{ENGLISH_NUMBER}){{0,4}})"
_TO_STREET = re.compile(rf"(?<![a-z0-9])(?P<number>{_NUMBER})\s+(?P<words>(?:{_WORD}\s+){{1,3}})$")
_AFTER_UNIT = re.compile(
    rf"(?:[\s,.]+(?:apartment|apt|unit|flat|suite|room|floor|number|#)\.?\s*(?:{_NUMBER}|[a-z](?![a-z])))?"
)
_AFTER_CITY = re.compile(
    r"(?:[\s,.]+(?:in )?[A-Z][a-z]+){0,3}(?:[\s,.]+[A-Z]{2}(?![A-Za-z]))?(?:[\s,.]+[0-9]{5}(?![0-9]))?"
)
_UNIT = re.compile(
    rf"(?:{alternatives(('apartment', 'apt', 'flat', 'suite'), begins=True)})\.?\s*(?:number\s*)?{_NUMBER}(?![a-z])"
)
_POSTCODE = re.compile(r"[A-Z](?<![A-Z0-9].)[A-Z]?[0-9][A-Z0-9]? ?[0-9](?!GB|MB|KB|TB)[A-Z]{2}(?![A-Z0-9])")
_ZIP = re.compile(r"(?:zip(?: code)?|postal code|post ?code)(?: is|'s|:)?\s*([0-9]{5})(?![0-9])")
_REACH = 60


def english_of(script: Script) -> list[Found]:
    """Return the names and addresses in a call's English."""
    if re.search(r"[a-z]{2} [a-z]", script.low) is None:
        return []
    found = [*_announced(script), *_first_names(script), *_answered(script)]
    found += _again(script, tuple(found))
    found += _letters(script, tuple(found))
    found = _completed(found)
    return [*found, *_addresses(script)]


def _announced(script: Script) -> Iterator[Found]:
    """Yield names after words that announce one, and beside a title."""
    for each in _CALLED.finditer(script.low):
        yield from _name(script, each.end(), 0.85)
    for each in _CALLING.finditer(script.low):
        for found in _name(script, each.end(), 0.8):
            if _AFTER_NAME.match(script.low, found.end):
                yield found
    for each in _TITLE.finditer(script.low):
        capital = script.text[each.end()].isupper()
        if capital or not each[0].startswith("miss"):
            yield from _name(script, each.end(), 0.8)


def _first_names(script: Script) -> Iterator[Found]:
    """Yield names that begin with a first name, where somebody names himself or another."""
    for each in _FIRST_CUE.finditer(script.low):
        first = _NEXT_WORD.match(script.low, each.end())
        if first is None or first[1] not in words("english_names", "first"):
            continue
        if first[1] in words("english_names", "ambiguous") and not script.text[first.start(1)].isupper():
            continue
        yield from _name(script, each.end(), 0.75)


def _answered(script: Script) -> Iterator[Found]:
    """Yield names that are the answer to a question for one."""
    for turn in script.questions(_QUESTION):
        for answer in script.answers(turn):
            start, end = script.bounds(answer)
            lead = _LEAD.match(script.low, start, end)
            at = lead.end() if lead is not None else start
            found = next(_name(script, at, 0.7), None)
            if found is not None and (end - start <= _LONGEST_ANSWER or script.low[found.end : found.end + 1] in ",."):
                yield found
                break


def _name(script: Script, start: int, confidence: float) -> Iterator[Found]:
    """Yield the name that begins at a place: up to three words, the last before one that ends a name."""
    at, num = start, 0
    first: int | None = None
    while num < _MOST_WORDS:
        word = _NEXT_WORD.match(script.low, at)
        if word is None or word[1] in words("english_names", "stop") or _is_number(word[1]):
            break
        if first is not None and script.text[first].isupper() and not script.text[word.start(1)].isupper():
            break
        first = word.start(1) if first is None else first
        at, num = word.end(), num + 1
    if first is not None:
        value = " ".join(script.low[first:at].split())
        yield Found(kind=Kind.NAME, start=first, end=at, value=value, confidence=confidence)


def _is_number(word: str) -> bool:
    return _numbers().fullmatch(word) is not None


def _again(script: Script, found: Sequence[Found]) -> Iterator[Found]:
    """Yield the parts of names that were found before, wherever they stand."""
    common = {*words("english_names", "stop"), *words("english_names", "ambiguous")}
    known: dict[str, str] = {}
    for name in found:
        for part in (name.value, *name.value.split()):
            if len(part) > 2 and part not in common:  # noqa: PLR2004 -- two letters are too few to go by
                known.setdefault(part, name.value)
    if not known:
        return
    for each in re.finditer(alternatives(known, begins=True), script.low):
        yield Found(kind=Kind.NAME, start=each.start(), end=each.end(), value=known[each[0]], confidence=0.6)


def _completed(found: Sequence[Found]) -> list[Found]:
    """Return the names with a first or a last name alone under the whole name, where it is known."""
    whole = {part: name.value for name in found if " " in name.value for part in name.value.split()}
    return [replace(name, value=whole.get(name.value, name.value)) for name in found]


def _letters(script: Script, found: Sequence[Found]) -> Iterator[Found]:
    """Yield names that are spelled letter by letter."""
    values = {part: name.value for name in found for part in name.value.split()}
    for each in _LETTERS.finditer(script.low):
        said = re.sub(r"[\s.,\-]", "", each[0])
        before = max(0, each.start() - _SPELLING)
        if said in values or _SPELL.search(script.low, before, each.start()):
            value = values.get(said, said)
            yield Found(kind=Kind.NAME, start=each.start(), end=each.end(), value=value, confidence=0.65)


def _addresses(script: Script) -> Iterator[Found]:
    """Yield a number with a street, with what follows of the address, and post codes."""
    low = script.low
    for street in _streets().finditer(low):
        left = _TO_STREET.search(low, max(0, street.start() - _REACH), street.start())
        if left is None or any(word in words("english_names", "stop") for word in left["words"].split()):
            continue
        end = _end(_AFTER_CITY, script.text, _end(_AFTER_UNIT, low, street.end()))
        yield _address(low, left.start(), end, 0.85)
    for each in _UNIT.finditer(low):
        yield _address(low, each.start(), each.end(), 0.5)
    for each in _POSTCODE.finditer(script.text):
        yield _address(low, each.start(), each.end(), 0.6)
    for each in _ZIP.finditer(low):
        yield _address(low, each.start(1), each.end(1), 0.7)


def _address(low: str, start: int, end: int, confidence: float) -> Found:
    value = " ".join(low[start:end].split())
    return Found(kind=Kind.ADDRESS, start=start, end=end, value=value, confidence=confidence)


@cache
def _streets() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives(words('places', 'streets'), begins=True)})(?!')")


@cache
def _numbers() -> re.Pattern[str]:
    return re.compile(ENGLISH_NUMBER)


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where what may follow ends."""
    found = pattern.match(text, start)
    return start if found is None else found.end()
