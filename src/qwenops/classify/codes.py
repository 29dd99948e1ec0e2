"""The codes by which a model names classes: 256 of one or two letters, each a single token of Qwen's vocabulary.

A class that is one token is scored by one prefill: the softmax over the rows of the head that belong to the codes. So
codes, not names, stand for the classes, and nothing has to be decoded. The list never changes and never grows in the
middle: the n-th leaf of a version of a taxonomy has the n-th code, whoever asks and whenever.
"""

from collections.abc import Sequence
from string import ascii_uppercase

from qwenops.errors import InvalidDataError, UnsupportedModelError
from qwenops.models.tokenizer import Tokenizer
from qwenops.text import say

_SECONDS = {
    "A": ascii_uppercase,
    "B": "ABCDEFGHIJKLMNOPRSTUVWXY",
    "C": "ABCDEFGHIKLMNOPRSTUVWXY",
    "D": "ABCDEFGHIJKLMNOPRSTUVWXY",
    "E": "ABCDEFGHIKLMNOPQRSTUVWXZ",
    "F": "ABCDEFGHIKLMNOPRSTUWXY",
    "G": "ABCDEFGHILMNOPRSTUVWXY",
    "H": "ABCDEFGHIKLMNOPQRSTUVWXYZ",
    "I": "ABCDEFGHIJKLMNOPQRSTUVWXZ",
    "J": "ABCDEIJKMOPRSTV",
}
"""By first letter, which second one makes a pair that the vocabulary has as one token."""

LABEL_CODES: tuple[str, ...] = (
    *ascii_uppercase,
    *(f"{first}{second}" for first, seconds in _SECONDS.items() for second in seconds),
)
"""The n-th class of a taxonomy is called by the n-th of these."""


def code_of(leaves: Sequence[str]) -> dict[str, str]:
    """Return the code of each leaf, in the order of the leaves.

    Raises:
        InvalidDataError: There are more leaves than codes, fewer than two, or one stands there twice.
    """
    if not 1 < len(leaves) <= len(LABEL_CODES) or len(set(leaves)) != len(leaves):
        raise InvalidDataError(
            say(
                "{count} classes, {different} of them different, cannot be told apart; 2 to {most} different ones can.",
                count=len(leaves),
                different=len(set(leaves)),
                most=len(LABEL_CODES),
            ),
            hint=say("Put rare classes together in the taxonomy."),
        )
    return dict(zip(leaves, LABEL_CODES, strict=False))


def assign(leaves: Sequence[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Return the token that stands for each leaf, in the order of the leaves.

    Raises:
        InvalidDataError: As `code_of`.
        UnsupportedModelError: In this vocabulary a code is not a token of its own.
    """
    found: dict[str, int] = {}
    for leaf, code in code_of(leaves).items():
        ids = tokenizer.encode(code, control=False)
        if len(ids) != 1 or tokenizer.token_bytes(ids[0]) != code.encode() or ids[0] in found.values():
            raise UnsupportedModelError(
                say("The code {code} of the class {leaf} is not one token of this vocabulary.", code=code, leaf=leaf),
                hint=say("Use a model of the Qwen3 family with its own tokenizer."),
            )
        found[leaf] = ids[0]
    return found
