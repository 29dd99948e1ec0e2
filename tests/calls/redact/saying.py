"""Calls that are short to write, and what redaction makes of them.

Every number is invented so that it can be nobody's: mobile numbers begin with 12, identity cards with region 999999,
landlines have a local part that begins with 0, and card numbers are those that schemes publish for tests.
"""

from qwenops.calls.redact import find, redact
from qwenops.calls.redact.checks import identity_check
from qwenops.calls.schema import Call, Role, Turn

SECRET = b"a secret of tests, of no one else"
ROLES = {"a": Role.AGENT, "c": Role.CUSTOMER, "i": Role.IVR, "u": Role.UNKNOWN}
MOBILE = "12800138000"
OTHER_MOBILE = "12900139111"
LANDLINE = "057101234567"
CARD = "4111111111111111"
IDENTITY_BODY = "99999919900101123"
IDENTITY = IDENTITY_BODY + identity_check(IDENTITY_BODY)
TELEPHONE = dict(zip("0123456789", "零幺二三四五六七八九", strict=True))
PLAIN = dict(zip("0123456789", "零一二三四五六七八九", strict=True))
SIGNALS = TELEPHONE | {"0": "洞", "7": "拐", "9": "勾"}
ENGLISH = dict(
    zip("0123456789", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], strict=True)
)


def spoken(digits: str, words: dict[str, str] = TELEPHONE, joint: str = "") -> str:
    """Return digits as they are read aloud; an X is 叉."""
    return joint.join({**words, "X": "叉"}[digit] for digit in digits)


def turns(*said: str) -> list[Turn]:
    """Return turns; each saying begins with who speaks: `c:我要投诉`."""
    return [Turn(role=ROLES[each[0]], text=each[2:]) for each in said]


def call(*said: str, lang: str = "") -> Call:
    """Return a call of such turns."""
    return Call(conversation_id="one", turns=tuple(turns(*said)), lang=lang)


def redacted(*said: str, strict: bool = False) -> list[str]:
    """Return the texts of a call after redaction."""
    return [turn.text for turn in redact(call(*said), secret=SECRET, strict=strict).call.turns]


def one(text: str, *, strict: bool = False) -> str:
    """Return what becomes of a call with one turn, of the customer."""
    return redacted(f"c:{text}", strict=strict)[0]


def found(*said: str) -> list[tuple[str, str]]:
    """Return what is found, as kind and characters."""
    given = turns(*said)
    return [(span.kind.value, given[span.turn].text[span.start : span.end]) for span in find(given)]
