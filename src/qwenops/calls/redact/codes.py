"""What is no plain row of digits: plates, names of accounts, passports, dotted numbers.

Each look begins at a sign that is rare (a province's character with a letter, a cue) and goes a bounded way from there,
so that no text takes long.
"""

import re
from collections.abc import Iterator, Sequence

from qwenops.calls.redact.cues import Cue
from qwenops.calls.redact.lexicon import HAN, words
from qwenops.calls.redact.numbers import ENGLISH_NUMBER, READ, SPOKEN
from qwenops.calls.redact.script import TURN, Script
from qwenops.calls.redact.spans import Found, Kind

_FARTHEST_CODE = 80
_LEAST_DIGITS = 3
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_NO_PLACE = rf"(?!一[下个定样直些点起般])[a-z0-9{SPOKEN}](?![十百千万]|个[{SPOKEN}0-9])"
_PLATE = re.compile(
    rf"[{_PROVINCES}]\s?[a-z][\s\u00b7.\-,]{{0,2}}(?:{_NO_PLACE}[\s\-,]?){{4,5}}(?:{_NO_PLACE}|[学警挂港澳])(?![a-z0-9])"
)
_BLANKS = re.compile(r"[\s\u00b7.,\-]")
_PASSPORT = re.compile(r"[eg](?<![a-z0-9].)[a-z]?[0-9]{8}(?![a-z0-9])")
_DOTTED = re.compile(r"[0-9](?<![0-9.].)[0-9]{2}\.(?:(?<=1[2-9][0-9]\.)[0-9]{4}|[0-9]{3})\.[0-9]{4}(?![0-9.])")
_SECURITY = re.compile(r"[0-9](?<![0-9\-].)[0-9]{2}-[0-9]{2}-[0-9]{4}(?![0-9\-])")
_ANSWERING = (
    rf"(?:[\s:,.?{TURN}'\"]|是|为|叫|号|码|多少|什么|您的|我的|你的|呢|吗|啊|嗯|呃|那个|就是|报|一下|请|提供|告诉|我|说|好的|好"
    r"|(?:is|number|it's|id|yes|sure|okay|uh|um)(?![a-z0-9]))*+"
)
_CODE = re.compile(rf"{_ANSWERING}(?P<code>(?=[0-9_\-]*[a-z])[a-z0-9][a-z0-9_\-]{{4,29}})(?![a-z0-9_\-])")
_MESSENGER = re.compile(rf"(?:微信号?|wechat id){_ANSWERING}(?P<code>[a-z][a-z0-9_\-]{{5,19}})(?![a-z0-9_\-])")
_LETTERS_AND_DIGITS = re.compile(r"[a-z](?<![a-z0-9].)[a-z]{0,5}[0-9]{6,16}(?![a-z0-9])")
_MANY_DIGITS = re.compile(r"[0-9]{6}")
_SOME_DIGITS = rf"[0-9{SPOKEN}](?:\s?[0-9{SPOKEN}])*"
_SOME_NUMBERS = rf"(?:\s{ENGLISH_NUMBER})+"
_BEGINNING = re.compile(
    rf"[a-z](?<![a-z0-9'].)(?:(?:\s[a-z]){{1,4}}(?:{_SOME_NUMBERS}|\s?{_SOME_DIGITS})|[a-z]{{1,5}}{_SOME_DIGITS})"
    rf"|(?<=[{HAN}{TURN}])[\s,:]*[a-z]{{2,6}}[\s,]?{_SOME_DIGITS}"
    rf"|(?:(?<=[{HAN}])[\s,:]*[a-z]{{2,6}}|(?<=[{TURN}])[b-df-hj-np-tv-z]{{2,6}})(?=[\s,.?!]*(?:[{HAN}{TURN}]|$))"
)
_NO_BEGINNING = frozenset({"qq", "id", "ok", "uh", "um", "mm", "hm"})
_MOST_TURNS = 4
_LEAST_ALONE = 6
_CODES = frozenset({Kind.ACCOUNT, Kind.ORDER, Kind.PASSPORT})


def codes_of(script: Script, cues: Sequence[Cue]) -> Iterator[Found]:
    """Yield plates, dotted numbers, and names of accounts, orders and passports that hold letters."""
    low = script.low
    for each in _PLATE.finditer(low):
        value = _BLANKS.sub("", each[0]).translate(READ)
        if _num_digits(value) >= _LEAST_DIGITS:
            yield _found(Kind.PLATE, each, value, 0.9)
    for each in _DOTTED.finditer(low):
        yield _found(Kind.PHONE, each, each[0].replace(".", ""), 0.9)
    for each in _SECURITY.finditer(low):
        yield _found(Kind.ID_CARD, each, each[0].replace("-", ""), 0.9)
    if _MANY_DIGITS.search(low) is not None:
        yield from _lettered(script)
    yield from _announced(low, cues)
    yield from _beginnings(script, cues)


def _lettered(script: Script) -> Iterator[Found]:
    """Yield passports and accounts by their form: letters with many digits."""
    low = script.low
    for each in _PASSPORT.finditer(low):
        if script.text[each.start()].isupper():
            yield _found(Kind.PASSPORT, each, each[0], 0.6)
    for each in _LETTERS_AND_DIGITS.finditer(low):
        if _num_digits(each[0]) >= _LEAST_ALONE:
            yield _found(Kind.ACCOUNT, each, each[0], 0.5)


def _announced(low: str, cues: Sequence[Cue]) -> Iterator[Found]:
    """Yield names of accounts, orders and passports after their cues."""
    for each in _MESSENGER.finditer(low):
        yield _found(Kind.ACCOUNT, each, each["code"], 0.8, group="code")
    for cue in cues:
        found = _CODE.match(low, cue.end, cue.end + _FARTHEST_CODE) if cue.kind in _CODES and not cue.weak else None
        if found is not None and _num_digits(found["code"]) >= _LEAST_DIGITS:
            yield _found(cue.kind, found, found["code"], 0.96, group="code")


def _beginnings(script: Script, cues: Sequence[Cue]) -> Iterator[Found]:
    """Yield the letters that an account begins with, said in a turn of their own, and read back: `ftth`, `b b zero`."""
    low = script.low
    for cue in cues:
        if cue.kind is not Kind.ACCOUNT or cue.weak:
            continue
        asked = script.turn_at(cue.start)
        told = ""
        for turn in range(asked, min(asked + _MOST_TURNS, len(script.starts))):
            start, end = script.bounds(turn)
            start = max(start, cue.end)
            found = _BEGINNING.search(low, start, min(end, start + _FARTHEST_CODE))
            if found is None:
                continue
            code = found[0].strip(" ,:")
            first = code.split()[0]
            if first in words("english_names", "stop") or first in _NO_BEGINNING or not code.startswith(told):
                continue
            told = code[0]
            yield Found(kind=Kind.ACCOUNT, start=found.end() - len(code), end=found.end(), value=code, confidence=0.55)


def _num_digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _found(kind: Kind, match: re.Match[str], value: str, confidence: float, *, group: str | int = 0) -> Found:
    start, end = match.span(group)
    return Found(kind=kind, start=start, end=end, value=value, confidence=confidence)
