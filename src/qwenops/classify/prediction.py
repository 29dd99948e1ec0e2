"""What is said about one call: a line of JSON (`qwenops.prediction/1`), and the same as an object.

Inside, times are seconds; the line has `latency_ms`. `primary` is what the call is filed under: a leaf, or its parent
where no leaf is sure enough; where a person decides, it is the best guess.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from qwenops.calls.problems import FieldProblem

PREDICTION_SCHEMA = "qwenops.prediction/1"


class DecisionKind(StrEnum):
    """Who files a call, and where."""

    AUTO = "auto"
    """The model, under a leaf."""
    PARENT = "parent"
    """The model, under a parent: it is sure of that much."""
    REVIEW = "review"
    """A person looks at it."""


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _from_ms(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says about one call, and what is done with it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    conversation_id: str
    model: str
    """Name and version in the registry."""
    primary: str
    """Code of the class that it is filed under."""
    p: Annotated[float, Field(ge=0, le=1)]
    """How probable that is, calibrated."""
    decision: DecisionKind
    schema: Literal["qwenops.prediction/1"] = "qwenops.prediction/1"
    path: tuple[str, ...] = ()
    """The codes from the top of the taxonomy down to it."""
    probs: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = field(default_factory=dict)
    """By leaf, calibrated."""
    candidates: Annotated[tuple[str, ...], Field(alias="set")] = ()
    """Leaves that together hold the truth as often as promised (`conformal`)."""
    threshold: float | None = None
    """What `p` had to reach for the decision; None where nothing could be filed by itself."""
    redaction: str = ""
    """Version of what took personal data out of the call."""
    latency_s: Annotated[float | None, Field(alias="latency_ms"), AfterValidator(_from_ms), PlainSerializer(_to_ms)] = (
        None
    )
    """How long scoring took, in seconds."""
    tokens: int | None = None
    """How many the call had as the model saw it."""
    at: Annotated[datetime | None, Field(alias="ts")] = None
    """When it was said."""


def parse_prediction(line: str | bytes) -> Prediction:
    """Read one prediction.

    Raises:
        FieldProblem: It is no JSON, or fields are missing, unknown or of a wrong kind; all of them are named.
    """
    try:
        return _predictions().validate_json(line)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise FieldProblem(details) from error


def prediction_data(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as the fields of its line, without what nobody knows."""
    told: dict[str, Any] = _predictions().dump_python(prediction, mode="json", by_alias=True, exclude_none=True)
    return {"schema": told.pop("schema"), **told}


def dump_prediction(prediction: Prediction) -> str:
    """Return one line of JSON without its end."""
    return json.dumps(prediction_data(prediction), ensure_ascii=False, separators=(",", ":"))


@cache
def _predictions() -> TypeAdapter[Prediction]:
    return TypeAdapter(Prediction)
