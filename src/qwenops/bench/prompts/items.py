"""What a workload is made of before anything is said about caches: numbered conversations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwenops.bench.prompts.calls import VERSION, Dice, make_call, phrases_of, wanted_tokens
from qwenops.bench.prompts.lengths import CALL_ERROR_RATIO, REPLY_TOKENS, TEMPLATE_TOKENS, estimated_tokens
from qwenops.bench.prompts.phrases import SpokenLanguage
from qwenops.generation import Message

_LEAST_CALL_TOKENS = 8
_MARK_TOKENS = 10
"""About; the same for every mark, so that the text behind it is the same too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One conversation to send."""

    name: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    """Longest answer; None leaves it to the options."""
    arrival_ns: int | None = None


class Items(Protocol):
    """Conversations by number."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a result must say about them."""
        ...

    @property
    def number(self) -> int | None:
        """How many there are before the first comes again; None when they never end."""
        ...

    @property
    def arrivals_ns(self) -> Sequence[int] | None:
        """When each was sent; None where nothing says."""
        ...

    def item(self, index: int, mark: str) -> Item:
        """Return the item of that number.

        Args:
            index: Below `number`.
            mark: Where the items are made here, they carry it behind their shared beginning, as the number of the
                call: a cache that has seen another mark finds the beginning and nothing more.
        """
        ...


class SyntheticCalls:
    """Calls without end, each with a shared instruction before it.

    Args:
        language: Of the calls and of the instruction.
        prompt_tokens: Median length of a whole prompt.
        seed: Makes them repeatable.
    """

    arrivals_ns = None
    number = None

    def __init__(self, language: SpokenLanguage, prompt_tokens: int, seed: int) -> None:
        """Choose the instruction that leaves at least half of a prompt to the call."""
        self._language = language
        self._prompt_tokens = prompt_tokens
        self._seed = seed
        self._instruction = instruction_for(language, prompt_tokens)
        around = TEMPLATE_TOKENS * 2 + REPLY_TOKENS + _MARK_TOKENS
        self._call_tokens = max(prompt_tokens - around - estimated_tokens(self._instruction), _LEAST_CALL_TOKENS)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Say what the calls are."""
        return {
            "generator_version": VERSION,
            "language": self._language,
            "prompt_tokens": self._prompt_tokens,
            "shared_tokens": round(estimated_tokens(self._instruction)),
            "length_error_ratio": CALL_ERROR_RATIO,
        }

    def item(self, index: int, mark: str) -> Item:
        """Make the call of that number."""
        dice = Dice("call", VERSION, self._language, self._seed, index)
        heading = f"{mark}\n" if mark else ""
        call = make_call(self._language, wanted_tokens(self._call_tokens, dice), dice)
        return Item(
            name=f"call-{self._language}-{self._seed}-{index}",
            messages=(
                Message(role="system", content=self._instruction),
                Message(role="user", content=heading + call),
            ),
        )


def instruction_for(language: SpokenLanguage, prompt_tokens: int) -> str:
    """Return the longest shared beginning that leaves at least half of a prompt to the call."""
    instructions = phrases_of(language).instructions
    fitting = (each for each in instructions if 2 * estimated_tokens(each) <= prompt_tokens)
    return next(fitting, instructions[-1])


def synthetic_messages(language: SpokenLanguage, tokens: int, dice: Dice, mark: str) -> tuple[Message, ...]:
    """Return one call with its instruction, together of about so many tokens, for a trace that has lengths alone."""
    instruction = instruction_for(language, tokens)
    heading = f"{mark}\n" if mark else ""
    rest = tokens - TEMPLATE_TOKENS * 2 - REPLY_TOKENS - estimated_tokens(instruction) - _MARK_TOKENS
    call = make_call(language, max(rest, 1), dice)
    return Message(role="system", content=instruction), Message(role="user", content=heading + call)


def prompt_tokens_of(messages: Sequence[Message]) -> float:
    """Estimate the length of a rendered conversation."""
    return REPLY_TOKENS + sum(TEMPLATE_TOKENS + estimated_tokens(each.content) for each in messages)
