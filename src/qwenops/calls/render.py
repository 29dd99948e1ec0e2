"""A call as the text that a model reads: who speaks, in one character, and what is said.

    坐:您好,请问有什么可以帮您
    客:你们多扣了我两个月彩铃费

Times and recorded voices are left out; what one speaker says in a row is one line. A text that is too long keeps its
beginning and its end, for there the matter is named and settled, and `…` stands where the middle was. Nothing in a call
can end a line or look like the beginning of one.

Training and serving must render alike, so the rules have a hash: `TEMPLATE_HASH`, and with the options in force
`template_hash`. Artefacts keep it, and a model is only asked in the form in which it was taught.
"""

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qwenops.calls.schema import Call, Role, Turn
from qwenops.errors import InvalidDataError
from qwenops.options import Unit, option
from qwenops.text import Language, say

VERSION = 1
"""Counts up when the same call gives another text."""
OMITTED = "…"
MARKERS: Mapping[Language, Mapping[Role, str]] = {
    "zh": {Role.CUSTOMER: "客:", Role.AGENT: "坐:", Role.UNKNOWN: "某:"},
    "en": {Role.CUSTOMER: "C:", Role.AGENT: "A:", Role.UNKNOWN: "U:"},
}
HEAD_PARTS, ALL_PARTS = 2, 3
"""Of a text that is too long, so many parts of what is kept are its beginning."""
SHORTEST = 16
"""A shorter text would say nothing."""
CHINESE_SHARE = 0.1
"""Of the letters: where more are Chinese characters, a call whose language nobody said is Chinese."""

_UNSPEAKABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""Control characters and what is not seen; blanks are blanks by then."""
_HALF = re.compile("[\ud800-\udfff]")
_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How much of a call a model is shown."""

    max_chars: int = option(
        6000, help="The longest text of a call in characters; of a longer one the middle is left out.", minimum=SHORTEST
    )
    max_tokens: int | None = option(
        None,
        help="The longest text of a call in tokens, besides the limit in characters.",
        unit=Unit.TOKENS,
        minimum=SHORTEST,
    )
    customer_only: bool = option(False, help="Leave out what the agent says.")
    first_s: float | None = option(
        None, help="Only what begins within so much time of the call's beginning.", unit=Unit.SECONDS, minimum=0
    )


WHOLE = RenderOptions()
"""What holds where nobody says anything else."""

TEMPLATE_HASH = hashlib.sha256(
    json.dumps(
        {
            "version": VERSION,
            "markers": {
                language: {str(role): mark for role, mark in each.items()} for language, each in MARKERS.items()
            },
            "omitted": OMITTED,
            "head": [HEAD_PARTS, ALL_PARTS],
            "chinese_share": CHINESE_SHARE,
        },
        sort_keys=True,
    ).encode()
).hexdigest()
"""Of the rules, whatever the options."""


@dataclass(frozen=True, slots=True)
class _Line:
    marker: str
    text: str


def template_hash(options: RenderOptions = WHOLE) -> str:
    """Return what two renderings must have in common to be comparable, as hex."""
    told = json.dumps(dataclasses.asdict(options), sort_keys=True)
    return hashlib.sha256(f"{TEMPLATE_HASH}\n{told}".encode()).hexdigest()


def render(call: Call, options: RenderOptions = WHOLE, *, num_tokens: Callable[[str], int] | None = None) -> str:
    """Return a call as a text; an empty one where nobody says anything that counts.

    Args:
        call: It should be redacted already.
        options: What to leave out.
        num_tokens: Counts the tokens of a text; needed where a limit in tokens is set.

    Raises:
        InvalidDataError: Only the first seconds are wanted, and no turn says when it began.
        ValueError: There is a limit in tokens and nothing to count them with.
    """
    if options.max_tokens is not None and num_tokens is None:
        raise ValueError("a limit in tokens needs something that counts them")
    lines = _lines(call, options)

    def fits(text: str) -> bool:
        if len(text) > options.max_chars:
            return False
        return options.max_tokens is None or num_tokens is None or num_tokens(text) <= options.max_tokens

    whole = "\n".join(f"{line.marker}{line.text}" for line in lines)
    if fits(whole):
        return whole
    return _shortened(lines, fits, min(sum(len(line.text) for line in lines) - 1, options.max_chars))


def language_of(call: Call) -> Language:
    """Return the language whose marks a call gets: its own, or the one that its characters show; mixed is Chinese."""
    if call.lang:
        return "en" if call.lang.lower().startswith("en") else "zh"
    text = "".join(turn.text for turn in call.turns)
    letters = sum(map(str.isalpha, text))
    return "en" if letters and len(_CHINESE.findall(text)) <= CHINESE_SHARE * letters else "zh"


def clean(text: str) -> str:
    """Return a text on one line: blanks are single spaces, what cannot be seen is gone, letters are composed (NFC)."""
    seen = " ".join(_UNSPEAKABLE.sub("", " ".join(text.split())).split())
    return unicodedata.normalize("NFC", _HALF.sub("\ufffd", seen))


def _lines(call: Call, options: RenderOptions) -> list[_Line]:
    markers = MARKERS[language_of(call)]
    lines: list[_Line] = []
    for turn in _heard(call, options.first_s):
        text = clean(turn.text)
        if not text or turn.role is Role.IVR:
            continue
        marker = markers[turn.role]
        if lines and lines[-1].marker == marker:
            lines[-1] = _Line(marker, f"{lines[-1].text}{_joint(lines[-1].text[-1], text[0])}{text}")
        else:
            lines.append(_Line(marker, text))
    if options.customer_only:
        return [line for line in lines if line.marker != markers[Role.AGENT]]
    return lines


def _heard(call: Call, first_s: float | None) -> Sequence[Turn]:
    """Return the turns in their order, of the first seconds where only those are wanted."""
    turns = call.turns
    if all(turn.i is not None for turn in turns):
        turns = tuple(sorted(turns, key=lambda turn: turn.i or 0))
    if first_s is None or not turns:
        return turns
    if all(turn.t0 is None for turn in turns):
        raise InvalidDataError(
            say("No turn of the call {call} says when it began.", call=call.conversation_id),
            hint=say("Without times the first seconds cannot be told; leave that option out."),
        )
    heard: list[Turn] = []
    now_s = 0.0
    for turn in turns:
        now_s = now_s if turn.t0 is None else turn.t0  # a turn without a time came right after the one before
        if now_s < first_s:
            heard.append(turn)
    return heard


def _joint(last: str, first: str) -> str:
    """Return what stands between two sayings of one speaker: as little as shows that there were two."""
    wide = _is_wide(last) or _is_wide(first)
    if last.isalnum():
        return "，" if wide else " "
    return "" if wide else " "


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in {"W", "F"}


def _shortened(lines: Sequence[_Line], fits: Callable[[str], bool], most: int) -> str:
    """Return the longest text of beginning and end that fits, of at most `most` characters of what is said.

    More characters seldom are fewer tokens, so halving finds the longest or one close to it, and what it finds fits.
    """
    found, low, high = OMITTED, 0, most
    while low < high:
        middle = (low + high + 1) // 2
        text = _without_middle(lines, middle)
        if fits(text):
            found, low = text, middle
        else:
            high = middle - 1
    return found


def _without_middle(lines: Sequence[_Line], keep: int) -> str:
    head = keep * HEAD_PARTS // ALL_PARTS
    tail = keep - head
    first: list[str] = []
    for line in lines:
        if head <= 0:
            break
        first.append(f"{line.marker}{line.text[:head]}")
        head -= len(line.text)
    last: list[str] = []
    for line in reversed(lines):
        if tail <= 0:
            break
        last.append(f"{line.marker}{line.text[-tail:]}")
        tail -= len(line.text)
    return "\n".join([*first, OMITTED, *reversed(last)])
