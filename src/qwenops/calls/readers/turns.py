"""Who says what: one long text with `客服:` and `客户:` in it, or segments of numbered speakers, become turns.

A text is cut only where a line begins with a known speaker, or, if it is a single line that begins with one, where one
follows a stop. So `我打客服:他们说` stays what it is.

Which of two numbered speakers is the agent is told by the user, or by what agents say (`请问有什么可以帮您`). Who spoke
first, or on which channel, decides nothing: centres differ in both.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from qwenops.calls.schema import Role, Turn
from qwenops.errors import ConfigError
from qwenops.text import say

_WORDS: Mapping[Role, str] = {
    Role.AGENT: (
        "客服 客服人员 客服代表 坐席 座席 坐席员 话务员 接线员 工作人员 坐 座 agent advisor adviser representative "
        "rep operator assistant staff csr a"
    ),
    Role.CUSTOMER: "客户 用户 顾客 来电人 来电者 主叫 投诉人 客 customer client caller user consumer human c",
    Role.IVR: "系统 系统语音 自动语音 语音提示 语音播报 ivr system bot custom_bot",
    Role.UNKNOWN: "未知 不明 unknown",
}
_ROLES: Mapping[str, Role] = {word: role for role, words in _WORDS.items() for word in words.split()}
_NUMBERED = r"(?:说话人|发言人|讲话人|speaker|spk|channel)[ _]*(?:\d{1,3}|[a-z甲乙丙丁])"
_CLOCK = r"(?:\d{1,2}:)?\d{1,2}:\d{2}(?:\.\d{1,3})?"
_COLON = "[:\uff1a]"
_OPEN, _CLOSE = "[\\[\u3010(\uff08]", "[\\]\u3011)\uff09]"
_GAP = "[ \\t\u3000]*"
_AFTER_STOP = "(?:^|(?<=[\\s\u3002\uff01\uff1f!?\uff1b;]))"
_STOPS = ".!?;|\u3002\uff01\uff1f\uff1b"
_LOOK_BACK = 8
_AGENT_SAYS = re.compile(
    "请问(?:有什么|什么|需要|您)|有什么(?:可以|能)?帮|很高兴为您|为您服务|工号|请您?稍等|帮您(?:查|看|登记|核实|办理|反映|申请)|"
    "感谢您的来电|(?:请|麻烦)您?对(?:我|本次)|祝您|how (?:can|may) i (?:help|assist)|thank(?:s| you) for calling|"
    "is there anything else|for your patience|let me (?:check|pull up|look into)|have a (?:great|nice|good) day",
    re.IGNORECASE,
)
_PAIR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one speaker said, as speech recognition has it."""

    speaker: str
    """As the file calls them; empty where it does not tell speakers apart."""
    text: str
    t0: float | None = None
    t1: float | None = None
    conf: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """The turns of a call."""

    turns: tuple[Turn, ...]
    preamble: str = ""
    """What stood before the first speaker."""
    strangers: tuple[str, ...] = ()
    """Speakers of whom nobody knows who they are."""


def told_speakers(told: Sequence[str]) -> dict[str, Role]:
    """Read what the user says about speakers: `0=agent`.

    Raises:
        ConfigError: It is no such sentence.
    """
    roles = {role.value: role for role in Role}
    found = {}
    for each in told:
        speaker, _, role = (part.strip() for part in each.rpartition("="))
        known = roles.get(role.lower()) or _ROLES.get(role.lower())
        if known is None or not speaker:
            raise ConfigError(
                say("{told!r} does not say who a speaker is.", told=each),
                hint=say("Write for example 0=agent. Possible: {possible}.", possible=", ".join(roles)),
            )
        found[speaker.casefold()] = known
    return found


def role_of(speaker: str, told: Mapping[str, Role]) -> Role | None:
    """Return who a speaker is, by what the user says or by the word for it; None where nobody knows."""
    word = speaker.strip().casefold()
    known = told.get(word) or _ROLES.get(word)
    if known is not None:
        return known
    bare = word.rstrip("0123456789").rstrip(" _-")
    digits = word[len(bare) :].strip(" _-")
    if bare and re.fullmatch(_NUMBERED, word) is None:
        return _ROLES.get(bare)
    return told.get(str(int(digits))) if digits else None


def spoken_by(segments: Iterable[Segment], told: Mapping[str, Role]) -> Spoken:
    """Return the turns of segments, in the order of time where all have one."""
    ordered = [each for each in segments if each.text.strip()]
    if all(each.t0 is not None for each in ordered):
        ordered.sort(key=lambda each: each.t0 or 0.0)
    roles, strangers = _roles(ordered, told)
    turns = tuple(
        Turn(i=place, role=roles[each.speaker], text=each.text.strip(), t0=each.t0, t1=each.t1, conf=each.conf)
        for place, each in enumerate(ordered)
    )
    return Spoken(turns=turns, strangers=strangers)


def spoken_in(text: str, told: Mapping[str, Role]) -> Spoken:
    """Return the turns of one text; a text that names no speaker is one turn of an unknown one."""
    found = _speakers(text, tuple(told))
    if not found:
        whole = text.strip()
        return Spoken(turns=(Turn(i=0, role=Role.UNKNOWN, text=whole),) if whole else ())
    begins = [each.start() for each in found]
    segments = [
        Segment(
            speaker=each["boxed"] or each["named"],
            text=text[each.end() : end].strip(),
            t0=_clock_s(each["before"] or each["after"] or each["behind"] or each["at"]),
        )
        for each, end in zip(found, [*begins[1:], len(text)], strict=True)
    ]
    spoken = spoken_by(segments, told)
    return Spoken(turns=spoken.turns, preamble=text[: begins[0]].strip(), strangers=spoken.strangers)


def _speakers(text: str, told: tuple[str, ...]) -> list[re.Match[str]]:
    """Return where speakers are named; none where the one that is found stands within the text."""
    at_lines, inline = _patterns(told)
    found = list(at_lines.finditer(text))
    if len(found) > 1:
        return found
    if inline.match(text.lstrip()) is None:
        return []
    return [each for each in inline.finditer(text) if _is_cut(text, each)]


def _is_cut(text: str, found: re.Match[str]) -> bool:
    """Whether a speaker within a line begins a turn: `he told the agent: no` has none."""
    before = text[max(0, found.start() - _LOOK_BACK) : found.start()].rstrip()
    word = found["boxed"] or found["named"]
    return not before or not word.isascii() or before[-1] in _STOPS


def _roles(segments: Sequence[Segment], told: Mapping[str, Role]) -> tuple[dict[str, Role], tuple[str, ...]]:
    """Return who each speaker is, and of whom nobody knows."""
    known = {each.speaker: role_of(each.speaker, told) for each in segments}
    open_ones = [speaker for speaker, role in known.items() if role is None and speaker.strip()]
    if open_ones:
        agent = _agent(segments, open_ones) if Role.AGENT not in known.values() else None
        if agent is not None:
            known[agent] = Role.AGENT
            open_ones.remove(agent)
        others = set(known.values()) - {None, Role.IVR, Role.UNKNOWN}
        if len(open_ones) == 1 and len(others) == 1:
            # Of two people one is known, so the other is too.
            known[open_ones.pop()] = Role.CUSTOMER if Role.AGENT in others else Role.AGENT
    return {speaker: role or Role.UNKNOWN for speaker, role in known.items()}, tuple(open_ones)


def _agent(segments: Sequence[Segment], speakers: Sequence[str]) -> str | None:
    """Return the speaker who talks as agents do more often than any other; None where two do, or nobody."""
    cues = Counter(dict.fromkeys(speakers, 0))
    for each in segments:
        if each.speaker in cues:
            cues[each.speaker] += len(_AGENT_SAYS.findall(each.text))
    ranked = cues.most_common(_PAIR)
    most = ranked[0][1]
    is_clear = most > 0 and (len(ranked) == 1 or ranked[1][1] < most)
    return ranked[0][0] if is_clear else None


@lru_cache(maxsize=16)
def _patterns(told: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what finds a speaker at the beginning of a line, and after a stop within one."""
    known = sorted({*_ROLES, *(each for each in told if not each.isdigit())}, key=len, reverse=True)
    words = "|".join([_NUMBERED, *(re.escape(each) for each in known)])
    who = rf"(?:{words})(?:[ _-]?\d{{1,8}}(?!\d|:\d\d))?"
    boxed = rf"{_OPEN}(?P<boxed>{who}){_CLOSE}{_GAP}{_clocked('after')}{_COLON}?"
    headed = rf"[ \t]+(?P<at>{_CLOCK})[ \t]*$"
    named = rf"(?P<named>{who})(?:{headed}|{_GAP}{_clocked('behind')}{_COLON})"
    pattern = rf"{_clocked('before')}(?:{boxed}|{named}){_GAP}"
    return (
        re.compile(rf"^{_GAP}{pattern}", re.IGNORECASE | re.MULTILINE),
        re.compile(_AFTER_STOP + pattern, re.IGNORECASE),
    )


def _clocked(group: str) -> str:
    return rf"(?:{_OPEN}?(?P<{group}>(?>{_CLOCK})){_CLOSE}?{_GAP})?"


def _clock_s(clock: str | None) -> float | None:
    if clock is None:
        return None
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part)
    return total
