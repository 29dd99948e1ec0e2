"""E-mail addresses, written and spoken: `wang@example.com`, 小写wang艾特example点com, `j smith at example dot com`."""

import re
from collections.abc import Iterator

from qwenops.calls.redact.lexicon import alternatives, words
from qwenops.calls.redact.numbers import ENGLISH_NUMBER, ENGLISH_ONES, READ, SPOKEN
from qwenops.calls.redact.script import GONE, TURN
from qwenops.calls.redact.spans import Found, Kind

_LONGEST = 80
_MOST_WORDS = 3
_WRITTEN_LOCAL = re.compile(r"[a-z0-9._%+\-]{1,64}$")
_WRITTEN_DOMAIN = re.compile(r"[a-z0-9\-]{1,63}(?:\.[a-z0-9\-]{1,63}){1,4}")
_DOT = r"(?:点儿?|\.|d(?<![a-z]d)ot(?![a-z])|p(?<![a-z]p)oint(?![a-z]))"
_COUNTRIES = r"(?:com|cn|net|org|uk|au|nz|hk|tw|sg)"
_ENDING = re.compile(
    rf"{_DOT}\s*(?:com|cn|net|org|edu|gov|co|io|me|info|test|example|invalid)(?![a-z])"
    rf"(?:\s*{_DOT}\s*{_COUNTRIES}(?![a-z]))?"
)
_AT = re.compile(r"@|艾特|爱特|圈a|小老鼠|a(?<![a-z]a)t(?![a-z])")
_DOMAIN = re.compile(rf"(?:[a-z0-9{SPOKEN}\s_.\-]|点|杠|横)+")
_TOKEN = re.compile(
    rf"(?P<sign>点儿?|下划线|横杠|中划线|减号|杠|[._+\-]|(?:dot|point|underscore|dash|hyphen|plus|minus)(?![a-z]))"
    rf"|(?P<digits>[0-9{SPOKEN}]+|{ENGLISH_NUMBER})|(?P<word>[a-z]+(?:'[a-z]+)?)|(?P<blank>\s+)|(?P<other>.)",
    re.DOTALL,
)
_NUMBER_WORD = re.compile(rf"(?<![a-z])(?:{alternatives(ENGLISH_ONES)})")


def emails_of(low: str) -> Iterator[Found]:
    """Yield e-mail addresses, in a script of small letters."""
    at = low.find("@")
    while at >= 0:
        local = _WRITTEN_LOCAL.search(low, max(0, at - _LONGEST), at)
        domain = _WRITTEN_DOMAIN.match(low, at + 1)
        if local is not None and domain is not None:
            yield _found(low, local.start(), domain.end(), 0.99)
        at = low.find("@", at + 1)
    for ending in _ENDING.finditer(low):
        window = max(0, ending.start() - _LONGEST)
        window = max(window, *(low.rfind(each, window, ending.start()) + 1 for each in (TURN, GONE)))
        sign = _last_at(low, window, ending.start())
        if sign is None or _DOMAIN.fullmatch(low, sign[1], ending.start()) is None:
            continue
        start = _start_of_local(low, window, sign[0])
        if start is not None:
            yield _found(low, start, ending.end(), 0.9)


def _last_at(low: str, start: int, end: int) -> tuple[int, int] | None:
    last = None
    for each in _AT.finditer(low, start, end):
        last = each.span()
    return last


def _start_of_local(low: str, start: int, end: int) -> int | None:
    """Return where the part before the @ begins, going back word by word; None where there is none."""
    said = [each for each in _TOKEN.finditer(low, start, end) if each.lastgroup != "blank"]
    begins: int | None = None
    right: re.Match[str] | None = None
    num_words = 0
    for token in reversed(said):
        kind = token.lastgroup or ""
        apart = right is not None and right.start() > token.end()
        num_words += kind == "word" and len(token[0]) > 1
        if not _belongs(token, kind, right, apart=apart) or num_words > _MOST_WORDS:
            break
        right = token
        if kind != "sign":
            begins = token.start()
    return begins


def _belongs(token: re.Match[str], kind: str, right: re.Match[str] | None, *, apart: bool) -> bool:
    """Whether a word is part of an address of which `right` is the part after it."""
    if kind == "other" or (kind == "sign" and right is None) or "'" in token[0]:
        return False
    if kind != "word" or (right is not None and not apart):
        return True
    return len(token[0]) == 1 or token[0] not in words("english_names", "stop")


def _found(low: str, start: int, end: int, confidence: float) -> Found:
    return Found(kind=Kind.EMAIL, start=start, end=end, value=_written(low[start:end]), confidence=confidence)


def _written(said: str) -> str:
    """Return a spoken address as it is written, as far as that can be known."""
    if "@" in said:
        return said
    with_signs = re.sub(_DOT, ".", _AT.sub("@", said)).translate(READ)
    digits = _NUMBER_WORD.sub(lambda found: ENGLISH_ONES[found[0]], with_signs)
    return re.sub(r"\s", "", digits)
