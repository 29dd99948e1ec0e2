"""Names of people in Chinese speech, where a cue or a title says that one comes: 我叫…, 机主是…, 姓…, …先生.

A surname alone is taken only beside such a cue. A given name is one or two characters that given names are made of, so
that the sentence after it stays. What was named once is found again without a cue.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from qwenops.calls.redact.lexicon import HAN, alternatives, characters, table, words
from qwenops.calls.redact.script import GONE, TURN, Script
from qwenops.calls.redact.spans import Found, Kind

_LONGEST = 4
_SHORT = 2
"""Characters of a name that is too often a word to be found again unless it is sure."""
_SURE = 0.9
_KNOWN = 0.8
_LIKELY = 0.7
_FEEBLE = 0.6
_LONGEST_ANSWER = 14
_SPELLING = 60
_END = rf"(?=$|[^{HAN}]|的|吧|吗|呢|啊|呀|是|这|那|身份证|电话|手机|号码|先生|女士|小姐|我|本人)"
_SKIP = r"(?:[\s,:、]|嗯|呃|啊|那个|就是|叫|是)*+"
_CALLED = (
    r"我的?名字(?:是|叫)|名字(?:是|叫)|我叫|我名叫|名叫|他叫|她叫|姓名(?:是|叫|:)?|全名(?:是|叫)?"
    r"|登记[的得]?(?:应该|就)?是|写[的得]是|(?:核对|确认)一下,?是|您说的是?|重复一遍,?"
    r"|(?:机主|户主|开户人|联系人|收件人|收货人|持卡人|户名|登记人|经办人|签约人|本人)(?:姓名|名字)?(?:是|叫|写的是|:)"
)
_QUESTION = re.compile(r"贵姓|怎么称呼|如何称呼|称呼您|姓名|名字|叫什么|哪位|机主是谁|户主是谁|您姓")
_LEAD = re.compile(
    r"(?:[\s,.。?!、]|嗯|呃|啊|哦|噢|那个|就是|好的|好|对|是的|免贵|我的名字|我是|我叫|我|叫|是|名字|机主|户主|姓名|本人|户名|喂|您好|你好)*+"
)
_TRAIL = re.compile(r"(?:[\s,.。?!、]|嗯|啊|呀|吧|哈|的|对|就是|先生|女士|小姐)*+")
_STRONG = frozenset("我贵您")
_BEFORE_FAMILY_NOT = frozenset("百同改")
_BEFORE_TITLE_NOT = frozenset("这那位的个各老好该此生哪们有小何")
_SEX = frozenset({"先生", "女士", "小姐"})
_OPENING = re.compile(rf"(?:^|(?<=[{TURN}{GONE}\s,.。:?!、是叫找给和跟])|(?<=您好)|(?<=好的)|(?<=请问))")
_ASKS = re.compile("[您你]贵$|[您你].$|的$")
"""Before 姓: what comes after it is no surname: 您贵姓, 机主的姓名."""
_SPELLED = re.compile(rf"([{HAN}])([{HAN}])的([{HAN}])")


def names_of(script: Script) -> list[Found]:
    """Return the names in a call's Chinese."""
    if not script.chinese:
        return []
    text = script.text
    found = [*_called(text), *_families(text), *_titled(text), *_oneself(text), *_answered(script), *_described(text)]
    names = {each.value: each.confidence for each in found if len(each.value) > 1}
    if names:
        found += _again(text, names)
        found += _spelled(text, tuple(found))
    return _completed(found)


def _called(text: str) -> Iterator[Found]:
    """Yield names after words that announce one."""
    for each in _patterns()["called"].finditer(text):
        for name, confidence in (("known", _SURE), ("any", _FEEBLE)):
            said = each[name]
            if said and not _is_trap(said):
                yield _name(each.start(name), said, confidence)


def _families(text: str) -> Iterator[Found]:
    """Yield surnames after 姓, and given names after that."""
    for each in _patterns()["family"].finditer(text):
        said, before = each["family"], text[max(0, each.start() - 1) : each.start()]
        if before in _BEFORE_FAMILY_NOT:
            continue
        if _ASKS.search(text, max(0, each.start() - 2), each.start()) and not each[0].startswith("免贵"):
            continue
        strong = before in _STRONG or each[0].startswith("免贵")
        if not (_surname().fullmatch(said) or (strong and said not in characters("names", "never"))):
            continue
        yield _name(each.start("family"), said, _SURE)
        given = _patterns()["given"].match(text, each.end())
        if given is not None and not _is_trap(given["given"]):
            yield _name(given.start("given"), given["given"], _LIKELY)


def _titled(text: str) -> Iterator[Found]:
    """Yield what stands before a title: the longest name that something stops to the left, else a surname."""
    for title in _patterns()["title"].finditer(text):
        end = title.start()
        name = _before_title(text, end)
        if name is not None:
            yield _name(end - len(name), name, 0.85)
        elif title[0] in _SEX and _may_be_surname(text, end - 1):
            yield _name(end - 1, text[end - 1], 0.5)


def _before_title(text: str, end: int) -> str | None:
    fallback = None
    for start in range(max(0, end - _LONGEST), end):
        said = text[start:end]
        known = _patterns()["name"] if len(said) > 1 else _surnames()
        if known.fullmatch(said) is None or _is_trap(said):
            continue
        if said == "郝" and text[start - 1 : start] in {"您", "你"}:
            continue
        if len(said) == 1 or _OPENING.match(text, start) is not None:
            return said
        fallback = fallback or said
    return fallback


def _may_be_surname(text: str, place: int) -> bool:
    """Whether one character before a title, after a pause or a greeting, may be a surname that was misheard."""
    if place < 0 or text[place] in _BEFORE_TITLE_NOT or text[place] in characters("names", "never"):
        return False
    return _patterns()["character"].match(text, place) is not None and _OPENING.match(text, place) is not None


def _oneself(text: str) -> Iterator[Found]:
    """Yield names by which somebody is greeted or names himself: 您是…本人吗, 我是…, 客服小…."""
    for pattern in ("identified", "greeted", "mine", "small"):
        for each in _patterns()[pattern].finditer(text):
            if not _is_trap(each["name"]):
                yield _name(each.start("name"), each["name"], _LIKELY)


def _answered(script: Script) -> Iterator[Found]:
    """Yield names that are the answer to a question for one."""
    for turn in script.questions(_QUESTION):
        for answer in script.answers(turn):
            start, end = script.bounds(answer)
            lead = _LEAD.match(script.text, start, end)
            at = lead.end() if lead is not None else start
            known = _patterns()["answer"].match(script.text, at, end)
            if known is not None and not _is_trap(known["name"]):
                yield _name(at, known["name"], 0.8)
                break
            name = _whole_answer(script.text, at, end) if end - start <= _LONGEST_ANSWER else None
            if name is not None:
                yield _name(at, name, _FEEBLE)
                break


def _whole_answer(text: str, start: int, end: int) -> str | None:
    """Return what a turn says besides fillers if that may be a name of which the surname was misheard."""
    said = _patterns()["any"].match(text, start, end)
    if said is None or _is_trap(said[0]):
        return None
    trail = _TRAIL.match(text, said.end(), end)
    return said[0] if trail is not None and trail.end() == end else None


def _described(text: str) -> Iterator[Found]:
    """Yield surnames that are told by their parts: 弓长张."""
    for each in _patterns()["described"].finditer(text):
        yield _name(each.start(), each[0], 0.8, value=each[0][-1])


def _again(text: str, names: Mapping[str, float]) -> Iterator[Found]:
    """Yield names that were found before, wherever they stand."""
    known = [name for name, confidence in names.items() if len(name) > _SHORT or confidence >= _KNOWN]
    if known:
        for each in re.finditer(alternatives(known), text):
            yield _name(each.start(), each[0], _LIKELY)


def _completed(found: Sequence[Found]) -> list[Found]:
    """Return the names with a surname alone under the whole name, where only one begins so."""
    whole: dict[str, set[str]] = defaultdict(set)
    for name in found:
        if len(name.value) > 1:
            whole[name.value[0]].add(name.value)
    alone = {first: names.pop() for first, names in whole.items() if len(names) == 1}
    return [replace(name, value=alone.get(name.value, name.value)) for name in found]


def _spelled(text: str, found: Sequence[Found]) -> Iterator[Found]:
    """Yield words by which somebody says how the name is written: 明天的明."""
    for each in _SPELLED.finditer(text):
        before, word, said = each.groups()
        near = (name.value for name in found if abs(name.end - each.start()) <= _SPELLING)
        if said in {before, word} and any(said in name for name in near):
            yield _name(each.start(), each[0], _LIKELY, value=said)


def _name(start: int, said: str, confidence: float, *, value: str = "") -> Found:
    return Found(kind=Kind.NAME, start=start, end=start + len(said), value=value or said, confidence=confidence)


def _is_trap(said: str) -> bool:
    """Whether what looks like a name is an everyday word."""
    return said[:2] in _traps()


@cache
def _traps() -> frozenset[str]:
    return frozenset(words("names", "traps")) | frozenset(each[:2] for each in words("places", "names"))


@cache
def _surnames() -> re.Pattern[str]:
    """Return the surnames that are no everyday characters."""
    return re.compile(rf"(?:{alternatives(words('names', 'double'))}|[{characters('names', 'surnames')}])")


@cache
def _surname() -> re.Pattern[str]:
    """Return every surname."""
    return re.compile(rf"(?:{_surnames().pattern}|[{characters('names', 'rare')}])")


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    """Return the patterns that are made of the lexicon."""
    never = characters("names", "never")
    given = rf"(?:(?![{never}]|{alternatives(words('names', 'unlikely'))})[{HAN}])"
    usual, every = rf"{_surnames().pattern}{given}{{1,2}}", rf"{_surname().pattern}{given}{{1,2}}"
    described = (parts + name for parts, name in table("names", "described").items())
    return {
        name: re.compile(pattern)
        for name, pattern in {
            "called": rf"(?:{_CALLED}){_SKIP}(?:(?P<known>{every})|(?P<any>{given}{{2,3}}){_END})",
            "family": rf"(?:免贵姓?|姓)\s?(?P<family>{alternatives(words('names', 'double'))}|[{HAN}])",
            "given": rf"[\s,]*(?:单名|名字?叫|叫做?|名)(?:一个|个|是)?(?P<given>{given}{{1,3}})",
            "title": alternatives(words("names", "titles")),
            "name": usual,
            "character": rf"[{HAN}]",
            "identified": rf"(?:是|您好)(?P<name>{usual})(?=本人)",
            "greeted": rf"[您你]是(?P<name>{usual})(?=[吗吧]|对吗|对吧|是吧|是吗)",
            "mine": rf"我是(?P<name>{usual})(?=$|[^{HAN}]|我的?(?:身份证|电话|手机))",
            "small": rf"(?:叫我|我是|称呼我|客服|客户代表|客户经理)[小老阿](?P<name>{_surnames().pattern})(?![区时米])",
            "answer": rf"(?P<name>{every})(?=$|[^{HAN}]|[{never}])",
            "any": rf"{given}{{2,3}}",
            "described": alternatives(described),
        }.items()
    }
