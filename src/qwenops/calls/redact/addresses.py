"""Addresses in Chinese speech: 西湖区文三路一二八号三单元五零二, told as an answer, after a cue, or by their form.

By form an address is a named road with a number, a named quarter with a building, two units of one building (三号楼
二单元), or a place of the lexicon with two parts after it. A city or a street alone says where a network is bad, and
stays.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from qwenops.calls.redact.lexicon import HAN, alternatives, characters, words
from qwenops.calls.redact.numbers import READ, SPOKEN
from qwenops.calls.redact.script import GONE, TURN, Script
from qwenops.calls.redact.spans import Found, Kind

_LONGEST_LEFT = 40
_LONGEST_REGION = 80
_LONGEST_STEP = 8
_MOST_PARTS = 6
_NUM = rf"(?>(?:[0-9]{{1,5}}|[{SPOKEN}十百千]{{1,6}})(?:[\-杠之][0-9{SPOKEN}]{{1,4}})?[a-z]?)"
_NOT_AFTER = r"(?![线码卡机令称召店])"
_ROOM = rf"(?:{_NUM}(?![0-9{SPOKEN}]|\s?(?:兆|块|元|个|天|年|月|号|[mgk])))?"
_LEAD = re.compile(
    r"(?:[\s,.。:?!、]|嗯|呃|啊|哦|噢|那个|就是|好的|好|对|我们家|我家|我们|我|家|的|地址|住址|安装|现在|目前|是|在|住|这边|这里|位置|门牌)*+"
)
_STOPS = re.compile(rf"[。?!{TURN}{GONE}]")
_BARE = frozenset({"号"})
"""Units that dates have too."""


def addresses_of(script: Script) -> Iterator[Found]:
    """Yield the addresses in a call's Chinese."""
    if not script.chinese:
        return
    yield from _by_form(script)
    for each in _patterns()["places"].finditer(script.low):
        yield _found(script.low, each.start(), each.end(), 0.7)
    for start, end in _regions(script):
        found = _within(script.low, start, end)
        if found is not None:
            yield found


def _by_form(script: Script) -> Iterator[Found]:
    """Yield numbers with units of buildings, and the names of the road and the places before them."""
    low = script.low
    for numbers in _patterns()["numbers"].finditer(low):
        floor = max(script.bounds(script.turn_at(numbers.start()))[0], numbers.start() - _LONGEST_LEFT)
        units = {each["unit"] for each in _patterns()["number"].finditer(numbers[0])}
        start = _start_of_names(low, floor, numbers.start(), bare=units <= _BARE)
        if start < numbers.start() or len(units) > 1:
            yield _found(low, start, numbers.end(), 0.8)


def _start_of_names(low: str, floor: int, end: int, *, bare: bool) -> int:
    """Return where the names before a number begin: a road or a quarter, and the places it is in."""
    start = end
    named = _patterns()["road"].search(low, floor, end)
    if named is None and not bare:
        named = _patterns()["quarter"].search(low, floor, end)
    if named is not None:
        start = named.start()
    elif bare:
        return end
    for _ in range(_MOST_PARTS):
        place = _patterns()["place"].search(low, floor, start)
        if place is None:
            break
        start = place.start()
    return start


def _regions(script: Script) -> Iterator[tuple[int, int]]:
    """Yield where an address may be told without its form: after a cue, and in the answer to a question for it."""
    low = script.low
    for cue in _patterns()["cues"].finditer(low):
        _, end = script.bounds(script.turn_at(cue.start()))
        yield cue.end(), min(end, cue.end() + _LONGEST_REGION)
    asked = {script.turn_at(each.start()) for each in _patterns()["questions"].finditer(low)}
    for turn in sorted(asked):
        for answer in script.answers(turn):
            start, end = script.bounds(answer)
            yield start, min(end, start + _LONGEST_REGION)


def _within(low: str, start: int, end: int) -> Found | None:
    """Return the address that a stretch of a turn tells: from its first word to the last that addresses have."""
    lead = _LEAD.match(low, start, end)
    begins = lead.end() if lead is not None else start
    last, num, numbered = begins, 0, False
    for each in _patterns()["parts"].finditer(low, begins, end):
        if each.start() - last > _LONGEST_STEP or _STOPS.search(low, last, each.start()):
            break
        last, num = each.end(), num + 1
        numbered = numbered or each["number"] is not None
    if num < 2 or not (numbered or num > 2):  # noqa: PLR2004 -- one part is no address
        return None
    room = _patterns()["room"].match(low, last, end)
    return _found(low, begins, room.end() if room is not None else last, 0.65)


def _found(low: str, start: int, end: int, confidence: float) -> Found:
    end = start + len(low[start:end].rstrip(" ,"))
    value = re.sub(r"[\s,]", "", low[start:end]).translate(READ)
    return Found(kind=Kind.ADDRESS, start=start, end=end, value=value, confidence=confidence)


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    """Return the patterns that are made of the lexicon."""
    units, names = alternatives(words("places", "units")), alternatives(words("places", "names"))
    roads, quarters = alternatives(words("places", "roads")), alternatives(words("places", "quarters"))
    districts = alternatives(words("places", "districts"))
    every = alternatives(word for name in ("roads", "quarters", "districts") for word in words("places", name))
    letter = rf"(?:(?![{characters('places', 'never')}])[{HAN}])"
    number = rf"{_NUM}\s?(?:{units}){_NOT_AFTER}"
    return {
        name: re.compile(pattern)
        for name, pattern in {
            "numbers": rf"(?<![{SPOKEN}十百千0-9第月])(?:{number}[\s,]*+){{1,6}}+{_ROOM}",
            "number": rf"{_NUM}\s?(?P<unit>{units}){_NOT_AFTER}",
            "road": rf"{letter}{{1,8}}(?:{roads})[\s,]*$",
            "quarter": rf"{letter}{{1,8}}(?:{quarters})[\s,]*$",
            "place": rf"(?:{letter}{{1,7}}(?:{districts})|(?:{names}))[\s,]*$",
            "places": rf"(?:{names})(?:省|市|自治区)?[\s,]*+(?>{letter}{{1,7}}(?:{every})[\s,]*+){{2,6}}+"
            rf"(?:{number}[\s,]*+){{0,6}}+{_ROOM}",
            "cues": alternatives(words("places", "cues")),
            "questions": alternatives(words("places", "questions")),
            "parts": rf"(?P<number>{number})|(?:{every}){_NOT_AFTER}",
            "room": _ROOM,
        }.items()
    }
