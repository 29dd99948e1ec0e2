"""What a call is about before anybody says a word: class, other matters, mood, customer, agent, time.

The moods, threats, lengths, identities and outcomes are drawn without a look at the class, so none of them gives it
away. What is drawn depends on the seed and the number of the call; a call of a repeat caller or a duplicate also looks
at the numbers before it, never at what was made of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.options import Difficulty, GeneratorOptions
from qwenops.calls.generator.pack import IDENTITIES
from qwenops.calls.generator.world import NONE, OTHER, World

_LOOK_BACK = 400
"""How many calls before this one an earlier call of the same customer, or a duplicate's original, may lie."""
_FIRST_HOUR, _LAST_HOUR = 8, 21
_IDENTITY_WEIGHTS = {
    "phone": 5.0,
    "name": 4.0,
    "id_card": 2.0,
    "address": 2.0,
    "bank_card": 1.0,
    "email": 1.0,
    "account": 1.5,
}
_MONTHS_A_YEAR = 12

Priors = Sequence[Mapping[str, float]]
"""Of each month how frequent each leaf is."""


class Telling(StrEnum):
    """How the main matter is told."""

    SAID = "said"
    """In the usual words."""
    FELT = "felt"
    """By what it leads to."""
    ASKS = "asks"
    """As a question of somebody who does not complain."""
    PLAIN = "plain"
    """In words that belong to no complaint."""


class Mood(StrEnum):
    """How a customer behaves; it says nothing about what the call is about."""

    NEUTRAL = "neutral"
    ANGRY = "angry"
    CALM = "calm"
    SARCASTIC = "sarcastic"


class Beside(StrEnum):
    """What another matter has to do with the call."""

    SETTLED = "settled"
    """An earlier one that was put right."""
    TURNED = "turned"
    """What the customer wanted to talk about at first."""
    SECOND = "second"
    """A smaller one that comes on top."""


class Copy(StrEnum):
    """What a call has to do with an earlier one."""

    NEAR = "near"
    """The same recording, written down once more."""
    EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Competing:
    """Another matter that is spoken of."""

    kind: Beside
    leaf: str
    full: bool
    """Whether it is told like a main matter and not only named."""
    asked: bool
    """Whether the agent asks about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that was drawn for a call."""

    index: int
    leaf: str
    telling: Telling
    about: str
    """The leaf whose words are used: the class itself, or what an inquiry asks about; empty for plain ones."""
    competing: Competing | None
    mood: Mood
    threat: bool
    urgent: bool
    third_party: bool
    only_asking: bool
    offer: bool
    """Whether the agent tries to sell something."""
    late: bool
    """Whether the main matter comes up only after a while."""
    accepted: bool
    fixed: bool
    """Whether the agent says what will be done."""
    read_label: bool
    identities: tuple[str, ...]
    tokens: int
    """About how long the call shall be."""
    lang: str
    author: str
    customer: int
    """Number of the call with which this customer began."""
    started_at: datetime
    month: int
    """From 0, counted from the first."""

    @property
    def complaint(self) -> bool:
        """Whether the customer complains."""
        return self.leaf not in {NONE, OTHER}

    @property
    def hard_negative(self) -> str:
        """Why a call that is no complaint may look like one; empty for complaints and for easy calls."""
        if self.complaint:
            return ""
        if self.telling is Telling.ASKS:
            return "asks"
        if self.competing is not None:
            return self.competing.kind.value
        return "angry" if self.mood is Mood.ANGRY or self.threat else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """Which call a call is a copy of."""

    index: int
    copy: Copy


def original_of(index: int, seed: int, knobs: Difficulty) -> Original | None:
    """Return what a call is a copy of; None for a call of its own."""
    found = _copied(index, seed, knobs)
    if found is None:
        return None
    while (further := _copied(found.index, seed, knobs)) is not None:
        found = Original(index=further.index, copy=found.copy)
    return found


def customer_of(index: int, seed: int, knobs: Difficulty) -> int:
    """Return with which call the customer of a call began."""
    while index:
        dice = Dice(seed, index, "customer")
        if not dice.happens(knobs.repeat_callers):
            break
        index -= dice.between(1, min(index, _LOOK_BACK))
    return index


def priors_of(options: GeneratorOptions, world: World) -> Priors:
    """Return how frequent each leaf is, month by month; the shares of a month add up to 1."""
    return tuple(
        _prior(world, options.difficulty, options.seed, month, options.months) for month in range(options.months)
    )


def _prior(world: World, knobs: Difficulty, seed: int, month: int, months: int) -> dict[str, float]:
    weights: dict[str, float] = {}
    for rank, code in enumerate(world.complaints, start=1):
        phase = Dice(seed, "season", code).share()
        season = math.sin(2 * math.pi * (month / _MONTHS_A_YEAR + phase))
        late = code == knobs.late_leaf and 2 * month < months
        weights[code] = 0.0 if late else rank**-knobs.skew * math.exp(knobs.drift * season)
    rest = 1 - knobs.none_share - knobs.other_share
    total = sum(weights.values())
    shares = {code: max(rest, 0.0) * weight / total for code, weight in weights.items()}
    return {**shares, NONE: knobs.none_share, OTHER: knobs.other_share}


def draw_scenario(index: int, options: GeneratorOptions, world: World, priors: Priors) -> Scenario:
    """Draw what the call of a number is about."""
    knobs, dice = options.difficulty, Dice(options.seed, index, "scenario")
    customer = customer_of(index, options.seed, knobs)
    started_at = _moment(index, customer, options)
    month = _months_between(options.first_moment(), started_at)
    leaf = dice.by_weight(priors[month])
    telling, about = _telling(leaf, dice, knobs, world)
    person = Dice(options.seed, customer, "language")
    lang = person.by_weight(options.languages())
    drawn = Dice(options.seed, index, "manner")
    return Scenario(
        index=index,
        leaf=leaf,
        telling=telling,
        about=about,
        competing=_competing(leaf, about, dice, knobs, world),
        mood=_mood(drawn, knobs),
        threat=drawn.happens(knobs.threats),
        urgent=drawn.happens(0.2),
        third_party=drawn.happens(0.12),
        only_asking=leaf == NONE and drawn.happens(0.5),
        offer=drawn.happens(0.1),
        late=drawn.happens(0.35),
        accepted=drawn.happens(0.6),
        fixed=drawn.happens(knobs.fixed),
        read_label=drawn.happens(knobs.read_label),
        identities=_identities(drawn, knobs),
        tokens=_tokens(drawn, knobs),
        lang=lang,
        author=person.one_of(list(world.packs)),
        customer=customer,
        started_at=started_at,
        month=month,
    )


def _copied(index: int, seed: int, knobs: Difficulty) -> Original | None:
    dice = Dice(seed, index, "copy")
    drawn = dice.share()
    if index == 0 or drawn >= knobs.near_duplicates + knobs.exact_duplicates:
        return None
    back = dice.between(1, min(index, _LOOK_BACK))
    return Original(index=index - back, copy=Copy.NEAR if drawn < knobs.near_duplicates else Copy.EXACT)


def _moment(index: int, customer: int, options: GeneratorOptions) -> datetime:
    """Return when a call began; a customer's later calls do not come on an earlier day."""
    first, last = options.first_moment(), options.last_moment()
    dice = Dice(options.seed, customer, "time")
    begun = first + (last - first) * dice.share()
    if index != customer:
        dice = Dice(options.seed, index, "time")
        begun += (last - begun) * dice.share()
    hour = dice.between(_FIRST_HOUR, _LAST_HOUR)
    return begun.replace(hour=hour, minute=dice.between(0, 59), second=dice.between(0, 59), microsecond=0)


def _months_between(first: datetime, moment: datetime) -> int:
    return (moment.year - first.year) * _MONTHS_A_YEAR + moment.month - first.month


def _telling(leaf: str, dice: Dice, knobs: Difficulty, world: World) -> tuple[Telling, str]:
    if leaf == OTHER:
        return Telling.PLAIN, ""
    if leaf == NONE:
        asks = dice.happens(knobs.asks_share)
        return (Telling.ASKS, dice.one_of(world.complaints)) if asks else (Telling.PLAIN, "")
    return (Telling.FELT if dice.happens(knobs.felt_share) else Telling.SAID), leaf


def _competing(leaf: str, about: str, dice: Dice, knobs: Difficulty, world: World) -> Competing | None:
    """Draw another matter; one that comes on top of an inquiry would be the main one, so there is none."""
    if not dice.happens(knobs.competing_share):
        return None
    kind = dice.by_weight({Beside.SETTLED: 1.0, Beside.TURNED: 1.0, Beside.SECOND: 1.0})
    if leaf in {NONE, OTHER} and kind is Beside.SECOND:
        kind = Beside.SETTLED
    near: Mapping[str, float] = world.lexicon.leaves[about].mistaken if about else {}
    others = {code: 1.0 for code in world.complaints if code != about}
    chosen = dice.by_weight(near) if near and dice.happens(0.4) else dice.by_weight(others)
    full, asked = dice.happens(knobs.competing_strength), dice.happens(knobs.competing_detail)
    if leaf == NONE and kind is Beside.TURNED:
        full = False  # a complaint that is told in full and then dropped would still be one
    return Competing(kind=kind, leaf=chosen, full=full, asked=full and asked)


def _mood(dice: Dice, knobs: Difficulty) -> Mood:
    if not dice.happens(knobs.emotion):
        return Mood.NEUTRAL
    return dice.by_weight({Mood.ANGRY: 2.0, Mood.CALM: 2.0, Mood.SARCASTIC: 1.0})


def _identities(dice: Dice, knobs: Difficulty) -> tuple[str, ...]:
    wanted = dice.count(knobs.identities, len(IDENTITIES))
    left = dict(_IDENTITY_WEIGHTS)
    chosen: list[str] = []
    for _ in range(wanted):
        kind = dice.by_weight(left)
        chosen.append(kind)
        del left[kind]
    return tuple(chosen)


def _tokens(dice: Dice, knobs: Difficulty) -> int:
    drawn = knobs.median_tokens * math.exp(knobs.sigma * dice.normal())
    return round(min(drawn, knobs.max_tokens))
