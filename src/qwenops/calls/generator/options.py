"""What calls to generate, and how hard they shall be."""

import math
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

from qwenops.errors import ConfigError
from qwenops.options import Unit, option
from qwenops.text import say

CHINA = timezone(timedelta(hours=8))
_MONTHS_A_YEAR = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Shares and strengths that decide how hard calls are to classify.

    The defaults are tuned so that a linear model on character n-grams reaches a macro-F1 between 0.75 and 0.85 on
    authors that it knows and 10 to 20 points less on one that it does not; `tests/calls/generator/test_difficulty.py`
    holds them to that.
    """

    none_share: float = option(0.15, help="Share of calls that are no complaint.", minimum=0, maximum=1, flag=False)
    other_share: float = option(0.03, help="Share of calls that belong nowhere.", minimum=0, maximum=1, flag=False)
    skew: float = option(0.8, help="Zipf exponent of how frequent complaints are.", minimum=0, maximum=3, flag=False)
    drift: float = option(0.5, help="How much frequencies change over months.", minimum=0, maximum=3, flag=False)
    late_leaf: str = option("", help="A leaf that nobody calls about in the first half of the months.", flag=False)
    felt_share: float = option(
        0.25, help="Share of complaints without the usual words of their class.", minimum=0, maximum=1, flag=False
    )
    asks_share: float = option(
        0.5, help="Share of inquiries that ask with the words of a complaint.", minimum=0, maximum=1, flag=False
    )
    competing_share: float = option(
        0.35, help="Share of calls that speak of another matter too.", minimum=0, maximum=1, flag=False
    )
    competing_strength: float = option(
        0.75, help="Share of those in which it is told as fully as the main one.", minimum=0, maximum=1, flag=False
    )
    competing_detail: float = option(
        0.4, help="Share of those in which the agent asks about it as well.", minimum=0, maximum=1, flag=False
    )
    details: float = option(
        0.9, help="Questions of the agent about the main matter, on average.", minimum=0, flag=False
    )
    named: float = option(
        1.5, help="How often the agent says what the trade calls the main matter, on average.", minimum=0, flag=False
    )
    misjudged: float = option(
        0.45, help="Share of those in which it is taken for another matter first.", minimum=0, maximum=1, flag=False
    )
    explained: float = option(
        0.4, help="Share of calls in which the agent explains the main matter.", minimum=0, maximum=1, flag=False
    )
    fixed: float = option(
        0.35, help="Share of calls in which the agent says what will be done.", minimum=0, maximum=1, flag=False
    )
    emotion: float = option(
        0.4,
        help="Share of calls with an angry, a sarcastic or a markedly polite customer each, whatever the class.",
        minimum=0,
        maximum=1,
        flag=False,
    )
    threats: float = option(0.15, help="Share of calls with a threat.", minimum=0, maximum=1, flag=False)
    read_label: float = option(
        0.05, help="Share of calls in which the agent reads the class out.", minimum=0, maximum=1, flag=False
    )
    median_tokens: int = option(
        320, help="Median length of a call.", unit=Unit.TOKENS, minimum=80, maximum=2000, flag=False
    )
    sigma: float = option(0.55, help="Spread of the logarithm of lengths.", minimum=0, maximum=2, flag=False)
    max_tokens: int = option(
        2000, help="No call is planned to be longer.", unit=Unit.TOKENS, minimum=80, maximum=20_000, flag=False
    )
    identities: float = option(
        1.2, help="Kinds of personal data asked for, on average.", minimum=0, maximum=6, flag=False
    )
    split: float = option(0.3, help="Share of long numbers that are given in parts.", minimum=0, maximum=1, flag=False)
    corrected: float = option(
        0.1, help="Share of long numbers that are said wrong first.", minimum=0, maximum=1, flag=False
    )
    repeat_callers: float = option(
        0.15, help="Share of calls by somebody who called before.", minimum=0, maximum=0.9, flag=False
    )
    near_duplicates: float = option(
        0.03, help="Share of calls that are an earlier one, written down once more.", minimum=0, maximum=0.4, flag=False
    )
    exact_duplicates: float = option(
        0.01, help="Share of calls that are an earlier one.", minimum=0, maximum=0.4, flag=False
    )
    specialist: str = option(
        "network.broadband_fault", help="The leaf that one agent handles and nothing else; empty for none.", flag=False
    )
    swapped: float = option(
        0.02, help="Share of utterances ascribed to the wrong speaker.", minimum=0, maximum=0.5, flag=False
    )
    unknown_roles: float = option(
        0.04, help="Share of calls in which speakers are not told apart.", minimum=0, maximum=1, flag=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """Which calls to generate."""

    calls: int = option(1000, help="How many calls.", minimum=1, maximum=10_000_000)
    seed: int = option(1, help="Where chance begins; the same seed gives the same calls.", minimum=0)
    authors: tuple[str, ...] = option((), help="Authors whose words are used; all of them where none is named.")
    months: int = option(12, help="Months over which the calls are spread.", minimum=1, maximum=120)
    start: str = option("2025-01-01", help="The first day.")
    zh_share: float = option(0.8, help="Share of calls in Chinese.", minimum=0, maximum=1)
    en_share: float = option(0.15, help="Share of calls in English.", minimum=0, maximum=1)
    mixed_share: float = option(0.05, help="Share of calls in both.", minimum=0, maximum=1)
    noise: float = option(
        0.08, help="Share of words that speech recognition gets wrong, on average.", minimum=0, maximum=0.3
    )
    label_noise: float = option(0.06, help="Share of labels that are wrong, on average.", minimum=0, maximum=0.5)
    taxonomy: str = option("telecom-cn", help="Taxonomy of the labels.", choices=("telecom-cn",))
    difficulty: Difficulty = field(default_factory=Difficulty)

    def first_moment(self) -> datetime:
        """Return when the first day begins.

        Raises:
            ConfigError: It is no date.
        """
        try:
            day = date.fromisoformat(self.start)
        except ValueError:
            raise ConfigError(
                say("{start!r} is no day.", start=self.start), hint=say("Write it as year, month and day: 2025-01-31.")
            ) from None
        return datetime(day.year, day.month, day.day, tzinfo=CHINA)

    def last_moment(self) -> datetime:
        """Return when the last month is over."""
        first = self.first_moment()
        months = first.month - 1 + self.months
        return first.replace(year=first.year + months // _MONTHS_A_YEAR, month=months % _MONTHS_A_YEAR + 1, day=1)

    def languages(self) -> dict[str, float]:
        """Return how frequent each language is.

        Raises:
            ConfigError: The shares add up to nothing, or to more than all.
        """
        shares = {"zh": self.zh_share, "en": self.en_share, "mixed": self.mixed_share}
        total = sum(shares.values())
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ConfigError(
                say("The shares of the languages add up to {total:g} instead of 1.", total=total),
                hint=say("Give --zh-share, --en-share and --mixed-share, which together are 1."),
            )
        return shares
