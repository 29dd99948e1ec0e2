"""What stands in a text where personal data stood: `<手机1>` or `<PHONE1>`, the same for the same value within a call.

Values are told apart by their HMAC under the user's secret, so that nothing of a value is kept and calls can still be
compared by whoever holds the secret.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping

from qwenops.calls.redact.spans import Kind

CHINESE: Mapping[Kind, str] = {
    Kind.PHONE: "手机",
    Kind.LANDLINE: "座机",
    Kind.ID_CARD: "身份证",
    Kind.BANK_CARD: "银行卡",
    Kind.PLATE: "车牌",
    Kind.EMAIL: "邮箱",
    Kind.ADDRESS: "地址",
    Kind.NAME: "姓名",
    Kind.ACCOUNT: "账号",
    Kind.PASSPORT: "护照",
    Kind.ORDER: "订单",
    Kind.NUMBER: "数字",
}
_DIGEST_CHARACTERS = 32
_KINDS = {**{word: kind for kind, word in CHINESE.items()}, **{kind.value: kind for kind in Kind}}
_MOST_DIGITS = 6
_TOKEN = re.compile(rf"<({'|'.join(_KINDS)})([0-9]{{1,{_MOST_DIGITS}}})>")


def tokens(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the tokens of a text begin and end."""
    for found in _TOKEN.finditer(text):
        yield found.span()


def digest_of(value: str, *, secret: bytes, about: str) -> str:
    """Return what only somebody with the secret can compare with another value about the same thing."""
    told = f"{about}\0{value}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, told, hashlib.sha256).hexdigest()[:_DIGEST_CHARACTERS]


class Numbering:
    """The tokens of one call: which value got which number."""

    def __init__(self, texts: Iterable[str], *, secret: bytes, chinese: bool) -> None:
        """Go on after the tokens that the texts hold already."""
        self._secret = secret
        self._chinese = chinese
        self._highest: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self._numbers: dict[str, int] = {}
        for text in texts:
            for word, number in _TOKEN.findall(text):
                if len(number) < _MOST_DIGITS:
                    self._highest[_KINDS[word]] = max(self._highest[_KINDS[word]], int(number))

    def digest(self, kind: Kind, value: str) -> str:
        """Return what the value is compared by."""
        return digest_of(value, secret=self._secret, about=kind.value)

    def token(self, kind: Kind, digest: str) -> str:
        """Return the token of a value, a new one where it was not seen before."""
        if digest not in self._numbers:
            self._highest[kind] += 1
            self._numbers[digest] = self._highest[kind]
        word = CHINESE[kind] if self._chinese else kind.value
        return f"<{word}{self._numbers[digest]}>"
