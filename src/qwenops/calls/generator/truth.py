"""Everything that is known about a synthetic call because it was made that way."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwenops.calls.generator.transcript import PersonalSpan
from qwenops.calls.schema import Call, Label

TRUTH_SCHEMA = "qwenops.truth/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a call is really about, and how it came to be what it is."""

    conversation_id: str
    index: int
    leaf: str
    """The right class."""
    annotated: str
    """The class on the label, right or wrong."""
    annotator: str
    secondary: tuple[str, ...]
    axes: Mapping[str, str]
    author: str
    lang: str
    month: int
    """From 0."""
    telling: str
    """said, felt, asks or plain: see `scenario.Telling`."""
    about: str
    """The leaf whose words are used: the class itself, or what an inquiry asks about; empty for plain ones."""
    keyword: bool
    """Whether the customer used one of the usual words of that leaf when telling the matter."""
    hard_negative: str
    """Why a call that is no complaint may look like one; empty for complaints and for easy calls."""
    decoy: str
    """The leaf of a matter that was settled or dropped."""
    competing: str
    """settled, turned or second: see `scenario.Beside`."""
    mood: str
    label_read: bool
    """Whether the agent read the class out."""
    specialist: bool
    """Whether the agent handles nothing but this class."""
    noise: float
    """What was aimed at."""
    word_error_rate: float
    pii: tuple[PersonalSpan, ...]
    """In the order of the call."""
    evidence: tuple[int, ...]
    """Turns in which the customer tells the main matter."""
    duplicate_of: str
    """Id of the call that this one is a copy of."""
    duplicate: str
    """near or exact."""
    plan: tuple[str, ...]
    lines: tuple[str, ...]
    """Lines of packs that were said, by author, language and place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """A synthetic call, the label that somebody gave it, and the truth."""

    call: Call
    label: Label
    truth: Truth


def truth_data(truth: Truth) -> dict[str, Any]:
    """Return the truth for a line of `truth.jsonl`."""
    return {"schema": TRUTH_SCHEMA, **asdict(truth)}
