"""Every other number of a call: tails, amounts, dates, tariffs. Only where redaction is strict."""

import re
from collections.abc import Iterator

from qwenops.calls.redact.numbers import ENGLISH_NUMBER, SPOKEN
from qwenops.calls.redact.spans import Found, Kind

_CHINESE = rf"{SPOKEN}十百千万亿半"
_ORDINALS = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth"
    "|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_UNITS = "块|元|号|月|年|天|点|个月|兆|折|倍|分钟|小时|岁|[gmk](?![a-z])"
_NUMBERS = re.compile(
    r"[0-9]+(?:[.,:/\-][0-9]+)*%?"
    rf"|(?!万一|千万[别不要]|一半)[{_CHINESE}](?:[{_CHINESE}]|点(?=[{SPOKEN}]))+"
    rf"|(?<![第])[{SPOKEN}十百半](?={_UNITS})"
    rf"|(?<![a-z])(?:{ENGLISH_NUMBER}|thousand(?![a-z])|(?:{_ORDINALS})(?![a-z]))"
    rf"(?:[\s\-](?:and\s)?(?:{ENGLISH_NUMBER}|thousand(?![a-z])|(?:{_ORDINALS})(?![a-z])))+"
    rf"|(?<![a-z]){ENGLISH_NUMBER}(?=\s(?:dollars?|cents?|pounds?|days?|weeks?|months?|years?|gigs?|megs?|times)(?![a-z]))"
)


def every_number(low: str) -> Iterator[Found]:
    """Yield every number, in a script of small letters."""
    for each in _NUMBERS.finditer(low):
        yield Found(kind=Kind.NUMBER, start=each.start(), end=each.end(), value=each[0], confidence=0.1)
