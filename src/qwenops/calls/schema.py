"""What a phone call is, and what somebody says about it: the two kinds of line that all files of calls are made of.

A call is who said what and when (`qwenops.call/1`); a label is which class of a taxonomy it belongs to, who says so and
since when (`qwenops.label/1`). They are apart, so that labelling anew never rewrites a call. Probabilities belong to
predictions (`qwenops.classify`), never to a label: how far an annotator is to be trusted is its `weight`.

Frozen inside, checked at the border: `parse_call` and `parse_label` read one line of JSON and say every field that is
wrong; `dump` writes a line that reads back as the same object.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qwenops.calls.problems import FieldProblem

CALL_SCHEMA = "qwenops.call/1"
LABEL_SCHEMA = "qwenops.label/1"
_Item = TypeVar("_Item")
_REQUIRED = frozenset({"conversation_id", "turns", "taxonomy", "primary"})
_NO_NUMBER = re.compile(r"\b(?:NaN|Infinity)\b")
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class Role(StrEnum):
    """Who speaks."""

    AGENT = "agent"
    CUSTOMER = "customer"
    IVR = "ivr"
    """A recorded voice."""
    UNKNOWN = "unknown"
    """Speakers were not told apart."""


class LabelSource(StrEnum):
    """Where a label comes from."""

    HUMAN = "human"
    WRAPUP_CODE = "wrapup_code"
    """What the agent clicked when the call was over."""
    MODEL = "model"
    SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one speaker said without a break."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    role: Role
    text: str
    i: int | None = None
    """Its place in the call, from 0; as it stands in the file where that is not said."""
    t0: float | None = None
    """When it began, in seconds from the call's beginning."""
    t1: float | None = None
    """When it ended, in seconds."""
    conf: float | None = None
    """How sure the speech recognition was, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """Which speech recognition wrote a call down."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    engine: str = ""
    version: str = ""
    mean_conf: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What took personal data out of a call, and how much of it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    version: str
    counts: Mapping[str, int] = field(default_factory=dict)
    """By kind of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One conversation. Ids of people are hashes, never names or numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    conversation_id: str
    turns: tuple[Turn, ...]
    schema: Literal["qwenops.call/1"] = "qwenops.call/1"
    customer_id: str = ""
    agent_id: str = ""
    channel: str = ""
    lang: str = ""
    """zh, en, or mixed; empty where nobody said."""
    started_at: datetime | None = None
    duration_s: float | None = None
    asr: Recognition | None = None
    redaction: Redaction | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The part of a turn that speaks for a label: characters `start` to `end` of its text."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    turn: int
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What somebody says a call is about."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    conversation_id: str
    taxonomy: str
    """Name and version: `telecom-cn@2`."""
    primary: str
    """Code of a leaf."""
    schema: Literal["qwenops.label/1"] = "qwenops.label/1"
    secondary: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    source: LabelSource = LabelSource.HUMAN
    annotator: str = ""
    weight: float = 1.0
    """How far to trust it, above 0 and at most 1."""
    evidence: tuple[Evidence, ...] = ()
    decided_at: datetime | None = None
    predicted: str = ""
    """What a model had said, where the annotator saw it."""
    note: str = ""


def parse_call(line: str | bytes) -> Call:
    """Read one call.

    Raises:
        FieldProblem: It is no JSON, or fields are missing, unknown or of a wrong kind; all of them are named.
    """
    return _parsed(_calls(), line)


def parse_label(line: str | bytes) -> Label:
    """Read one label.

    Raises:
        FieldProblem: As `parse_call`.
    """
    return _parsed(_labels(), line)


def dump(item: Call | Label) -> str:
    """Return one line of JSON without its end, which reads back as an equal object; what is empty is left out."""
    adapter: TypeAdapter[Any] = _calls() if isinstance(item, Call) else _labels()
    told: dict[str, Any] = adapter.dump_python(item, mode="json", exclude_none=True)
    kept = {name: value for name, value in told.items() if value not in ("", [], {}) or name in _REQUIRED}
    return json.dumps({"schema": kept.pop("schema"), **kept}, ensure_ascii=False, separators=(",", ":"))


@cache
def _calls() -> TypeAdapter[Call]:
    return TypeAdapter(Call)


@cache
def _labels() -> TypeAdapter[Label]:
    return TypeAdapter(Label)


def _parsed(adapter: TypeAdapter[_Item], line: str | bytes) -> _Item:
    try:
        found = adapter.validate_json(line)
    except ValidationError as error:
        raise FieldProblem(error.errors(include_url=False, include_context=False, include_input=False)) from error
    if _NO_NUMBER.search(line if isinstance(line, str) else line.decode("utf-8", "replace")):
        # Within `meta` anything goes, but what no other program reads as JSON.
        try:
            json.loads(line, parse_constant=_refuse)
        except ValueError as error:
            raise FieldProblem([{"type": "json_invalid", "loc": (), "msg": str(error)}]) from error
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
