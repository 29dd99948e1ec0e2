"""Synthetic calls to a contact centre, as speech recognition writes them down: two speakers, noise, any length.

Nothing in them belongs to anybody. Names are the languages' placeholders, companies are called Example, and every
number is of a range that nobody can have:

    telephone     555-0100 to 555-0199, which the North American plan keeps for fiction; in Chinese eleven digits that
                  begin with 12, which no mobile network has
    card          begins with 0, which no issuer has, and fails the check digit besides
    mail          at example.com and example.org, which are reserved
    order         TEST- and four digits

The text of a call is a function of language, seed and number alone; `random()` of Python's generator is the only
source of chance, because that is what Python promises to keep.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TypeVar

from qwenops.bench.prompts.lengths import estimated_tokens
from qwenops.bench.prompts.phrases import Phrases, Scenario, SpokenLanguage

VERSION = 1
"""Counts up when the same seed gives other texts."""

SIGMA = 0.4
"""Of the logarithm of lengths: one call in six is longer than 1.5 times the median."""
SPREAD = 4.0
"""No call is longer than this many medians, or shorter than one of so many parts."""

_NOISE_PER_UNIT = 0.06
"""How many of the characters (zh) or words (en) of a turn recognition gets wrong."""
_NUMBERS = {"amount": (3, 497), "days": (2, 13), "day": (1, 28), "hour": (1, 11)}
"""Lowest value and how many there are."""
_ALPHABETIC = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")

_WHOLE = re.compile(r"[!-~]{2}")
"""Between two such characters no text is cut."""
_SAYS_SOMETHING = re.compile(r"[:：]\s*\S")
"""After the name of who speaks."""

T = TypeVar("T")


class Dice:
    """Chance for one call: everything is drawn from `random()`."""

    def __init__(self, *seed: object) -> None:
        """Begin at a seed."""
        digest = hashlib.sha256("/".join(str(each) for each in seed).encode()).digest()
        self._random = random.Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 -- text to measure with, no secret

    def chance(self) -> float:
        """Return a number from 0 to below 1."""
        return self._random.random()

    def below(self, number: int) -> int:
        """Return a whole number from 0 to below `number`."""
        return int(self._random.random() * number)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of them."""
        return choices[int(self._random.random() * len(choices))]


def phrases_of(language: SpokenLanguage) -> Phrases:
    """Return the sentences of a language."""
    if language == "zh":
        from qwenops.bench.prompts.chinese import PHRASES as CHINESE

        return CHINESE
    from qwenops.bench.prompts.english import PHRASES as ENGLISH

    return ENGLISH


def wanted_tokens(median: float, dice: Dice) -> float:
    """Draw a length from a log-normal distribution, within its bounds."""
    low, high = 1 / SPREAD, SPREAD
    drawn = math.exp(SIGMA * NormalDist().inv_cdf(min(max(dice.chance(), 1e-9), 1 - 1e-9)))
    return median * min(max(drawn, low), high)


def make_call(language: SpokenLanguage, tokens: float, dice: Dice) -> str:
    """Return the text of a call of about `tokens` tokens."""
    phrases = phrases_of(language)
    slots = _Slots(phrases, dice)
    scenario = dice.pick(phrases.scenarios)
    turns = [
        phrases.agent + dice.pick(phrases.greetings).format_map(slots),
        phrases.customer + _noisy(dice.pick(scenario.opening).format_map(slots), phrases, dice),
    ]
    closing = dice.pick(phrases.closings)
    ending = [phrases.agent + closing[0].format_map(slots), phrases.customer + closing[1].format_map(slots)]
    left = tokens - _length([*turns, *ending])
    for agent, customer in _endless(scenario, phrases, dice):
        if left <= 0:
            break
        pair = [
            phrases.agent + _noisy(agent.format_map(slots), phrases, dice),
            phrases.customer + _noisy(customer.format_map(slots), phrases, dice),
        ]
        length = _length(pair)
        if length > left:
            turns += _cut(pair, left)
            break
        turns += pair
        left -= length
    whole = [*turns, *ending]
    if left < 0:
        whole = _cut(whole, tokens)
    return "\n".join(whole)


class _Slots:
    """What the braces of a call's sentences stand for; who calls and about what stays the same throughout."""

    def __init__(self, phrases: Phrases, dice: Dice) -> None:
        self._phrases = phrases
        self._dice = dice
        self._kept = {
            "company": dice.pick(phrases.slots["company"]),
            "name": dice.pick(phrases.slots["name"]),
            "product": dice.pick(phrases.slots["product"]),
            "agent": f"{dice.below(100):04d}",
            "phone": _phone(phrases.language, dice),
            "card": _card(dice),
            "order": f"TEST-{dice.below(10_000):04d}",
            "mail": f"caller{dice.below(1000)}@example.{dice.pick(('com', 'org'))}",
        }

    def __getitem__(self, name: str) -> str:
        if name in self._kept:
            return self._kept[name]
        if name in _NUMBERS:
            lowest, number = _NUMBERS[name]
            return str(lowest + self._dice.below(number))
        return self._dice.pick(self._phrases.slots[name])


def _phone(language: SpokenLanguage, dice: Dice) -> str:
    return f"12{dice.below(10**9):09d}" if language == "zh" else f"555-01{dice.below(100):02d}"


def _card(dice: Dice) -> str:
    """Return sixteen digits that no card has: the first is 0, and the last is one beside the check digit."""
    digits = [0, *(dice.below(10) for _ in range(14))]
    doubled = [digit if place % 2 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits)]
    return "".join(map(str, [*digits, (11 - sum(doubled)) % 10]))


def _endless(scenario: Scenario, phrases: Phrases, dice: Dice) -> Iterator[tuple[str, str]]:
    """Yield exchanges, all of them once before one comes again."""
    deck = [*scenario.exchanges, *phrases.exchanges]
    while True:
        for last in range(len(deck) - 1, 0, -1):
            other = dice.below(last + 1)
            deck[last], deck[other] = deck[other], deck[last]
        yield from deck


def _noisy(said: str, phrases: Phrases, dice: Dice) -> str:
    """Return what recognition makes of it; numbers and addresses stay whole."""
    units = list(said) if not phrases.joint else said.split(phrases.joint)
    expected = _NOISE_PER_UNIT * len(units)
    for _ in range(int(expected) + (dice.chance() < expected % 1)):
        place = dice.below(len(units))
        unit = units[place]
        word = unit.rstrip(phrases.punctuation)
        if not _ALPHABETIC.fullmatch(word) or (not phrases.joint and word.isascii()):
            continue
        match dice.below(4):
            case 0:
                units[place] = dice.pick(phrases.fillers) + phrases.joint + unit
            case 1:
                units[place] = word + phrases.joint + unit
            case 2:
                units[place] = dice.pick(phrases.misheard.get(word, (word,)))
            case _:
                units[place] = word
    return phrases.joint.join(units)


def _length(turns: Sequence[str]) -> float:
    return estimated_tokens("\n".join(turns)) + estimated_tokens("\n")


def _cut(turns: Sequence[str], tokens: float) -> list[str]:
    """Return the beginning of some turns, of about so many tokens; no number or word is cut in two."""
    kept: list[str] = []
    left = tokens
    for turn in turns:
        length = _length([turn])
        if length > left:
            end = int(len(turn) * max(0.0, left) / length)
            while 0 < end < len(turn) and _WHOLE.fullmatch(turn[end - 1 : end + 1]):
                end -= 1
            part = turn[:end].rstrip()
            return [*kept, part] if _SAYS_SOMETHING.search(part) else kept
        kept.append(turn)
        left -= length
    return kept
