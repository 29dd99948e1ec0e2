"""What the sentences of a language's synthetic calls are made of.

Everything is invented for this project. A slot in braces is filled for each call: who calls and about what stays the
same within a call, amounts and times are drawn anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SpokenLanguage = Literal["zh", "en"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One reason to call: how it is told first, and what is asked and answered about it."""

    opening: tuple[str, ...]
    exchanges: tuple[tuple[str, str], ...]
    """What the agent says, and the customer's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """All that a language contributes."""

    language: SpokenLanguage
    instructions: tuple[str, str, str]
    """The shared beginning of all prompts: with the whole taxonomy, with its names alone, in one line."""
    agent: str
    customer: str
    greetings: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    exchanges: tuple[tuple[str, str], ...]
    """What is said in any call."""
    closings: tuple[tuple[str, str], ...]
    fillers: tuple[str, ...]
    misheard: Mapping[str, tuple[str, ...]]
    """What speech recognition makes of a character (zh) or a word (en)."""
    punctuation: str
    joint: str
    """What stands between two words."""
    slots: Mapping[str, tuple[str, ...]]
