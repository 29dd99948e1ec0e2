"""What callers may send about calls, and what they get: `/v1/classify`, `/v1/feedback`, `/v1/review`.

A call is an object of `qwenops.call/1`, so a line of a file of calls can be sent as it is.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from qwenops.serve.replies import Reply
from qwenops.serve.schemas import Wire

MOST_CALLS = 256
MOST_TURNS = 4096
MOST_TAKEN = 50
_LONGEST_ID = 256
_LONGEST_NAME = 128
_DAY_S = 86_400.0

Id = Annotated[str, Field(min_length=1, max_length=_LONGEST_ID)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
Decided = Literal["auto", "parent", "review"]
_REVIEWER = "Who answers; the name of the API key when left out."


class TurnBody(Wire):
    """What one speaker said without a break."""

    role: Literal["agent", "customer", "ivr", "unknown"]
    text: str
    i: int | None = Field(None, ge=0, le=1_000_000, description="Its place in the call, from 0.")
    t0: Seconds | None = Field(None, description="When it began, in seconds.")
    t1: Seconds | None = Field(None, description="When it ended, in seconds.")
    conf: Share | None = Field(None, description="How sure the speech recognition was.")


class RecognitionBody(Wire):
    """Which speech recognition wrote the call down."""

    engine: str = ""
    version: str = ""
    mean_conf: Share | None = None


class RedactionBody(Wire):
    """What took personal data out of the call before it was sent; it is looked for here all the same."""

    version: str
    counts: dict[str, int] | None = None


class CallBody(Wire):
    """One call, as `qwenops.call/1` has it."""

    schema_: Literal["qwenops.call/1"] | None = Field(None, alias="schema")
    conversation_id: Id | None = Field(None, description="Made up when left out.")
    turns: Annotated[list[TurnBody], Field(fail_fast=True)] = Field(min_length=1, max_length=MOST_TURNS)
    customer_id: str | None = Field(None, max_length=_LONGEST_ID, description="A hash, never a name or a number.")
    agent_id: str | None = Field(None, max_length=_LONGEST_ID)
    channel: str | None = Field(None, max_length=64)
    lang: str | None = Field(None, max_length=16, description="zh, en or mixed; found out when left out.")
    started_at: str | None = Field(None, max_length=64, description="Accepted and ignored.")
    duration_s: Seconds | None = Field(None, description="Accepted and ignored.")
    asr: RecognitionBody | None = Field(None, description="Accepted and ignored.")
    redaction: RedactionBody | None = Field(None, description="Accepted and ignored.")
    meta: dict[str, JsonValue] | None = Field(None, description="Accepted and ignored.")


CallText = Annotated[str, Field(min_length=1)]
Input = (
    CallText
    | CallBody
    | Annotated[list[CallText], Field(min_length=1, max_length=MOST_CALLS, fail_fast=True)]
    | Annotated[list[CallBody], Field(min_length=1, max_length=MOST_CALLS, fail_fast=True)]
)

_CLASSIFY_EXAMPLES: list[JsonValue] = [
    {"input": "客服：您好。\n客户：你们多扣了我两个月彩铃费。"},
    {
        "input": {
            "conversation_id": "c-17",
            "turns": [
                {"role": "agent", "text": "How can I help?"},
                {"role": "customer", "text": "My line has been dead for three days."},
            ],
        },
        "evidence": True,
    },
    {"input": ["客户：宽带又断了。", "客户：我想问一下营业时间。"]},
]


class ClassifyRequest(Wire):
    """Calls to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": _CLASSIFY_EXAMPLES})

    input: Input = Field(
        description="A call, or a text in which `客服：` and `客户：` (or `agent:`, `customer:`) begin what each says; "
        "one of them or a list."
    )
    model: str | None = Field(None, description="Name or version of the classifier; the one that serves when left out.")
    evidence: bool | None = Field(
        None, description="Say which turns carried each answer. It takes one more judgement for each turn."
    )
    review: bool | None = Field(None, description="False keeps these calls out of the review queue.")


_FEEDBACK_EXAMPLES: list[JsonValue] = [
    {"conversation_id": "c-17", "label": "network.broadband_fault", "reviewer": "wang", "seconds": 21.5}
]


class FeedbackRequest(Wire):
    """What a person says about a call."""

    model_config = ConfigDict(json_schema_extra={"examples": _FEEDBACK_EXAMPLES})

    conversation_id: Id
    label: Id = Field(description="Code of the class that it belongs to.")
    secondary: Annotated[list[Id], Field(fail_fast=True)] | None = Field(None, max_length=16)
    axes: dict[str, str] | None = Field(None, max_length=32, description="Values of the taxonomy's axes.")
    reviewer: str | None = Field(None, min_length=1, max_length=_LONGEST_NAME, description=_REVIEWER)
    seconds: float | None = Field(None, ge=0, le=_DAY_S, description="How long the person took.")
    note: str | None = Field(None, max_length=2000, description="Personal data is taken out of it.")
    predicted: Id | None = Field(None, description="What a model had said; known of a call in the review queue.")
    model: Id | None = Field(None, description="Which model; known of a call in the review queue.")
    customer_id: str | None = Field(None, max_length=_LONGEST_ID, description="Known of a call in the review queue.")


class ReviewRequest(Wire):
    """A person who wants to look at calls."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reviewer": "wang", "count": 1}]})

    reviewer: str | None = Field(None, min_length=1, max_length=_LONGEST_NAME, description=_REVIEWER)
    count: int | None = Field(None, ge=1, le=MOST_TAKEN, description="Calls at most; 1 when left out.")


class NamesReply(Reply):
    """What a class is called."""

    zh: str
    en: str


class CarriedReply(Reply):
    """Turns that carried an answer."""

    turns: list[int] = Field(description="Their places in the call, from 0.")
    drop: float = Field(description="How much less probable the class is without them.")


class ResultReply(Reply):
    """What the classifier says about one call."""

    conversation_id: str
    label: str = Field(description="What the call is filed under, or the best guess where a person decides.")
    name: NamesReply
    path: list[str] = Field(description="From the top of the taxonomy down to the label.")
    p: float = Field(description="How probable the label is, calibrated.")
    probabilities: dict[str, float] = Field(description="Of every leaf.")
    decision: Decided = Field(
        description="Who files it: `auto`, the model under a leaf; `parent`, under its parent; `review`, a person."
    )
    threshold: float | None = Field(description="What `p` had to reach.")
    set: list[str] = Field(
        description="Leaves that together hold the truth as often as promised; empty without promise."
    )
    evidence: list[CarriedReply] | None = Field(description="Turns that carried the answer, where that was asked for.")
    tokens: int
    latency_ms: float


class TimingReply(Reply):
    """Where the time went."""

    queue_s: float
    total_s: float


class ClassifyReply(Reply):
    """What the classifier says, in the order of the input."""

    model: str = Field(description="Name and version.")
    taxonomy: str
    results: list[ResultReply]
    queued: int = Field(description="Calls that are new in the review queue.")
    timing: TimingReply
    request_id: str


class FeedbackReply(Reply):
    """Where an answer leads."""

    conversation_id: str
    outcome: Literal["agreed", "open", "disputed"] = Field(
        description="`open`: another person is needed; `disputed`: three do not agree."
    )
    label: str = Field(description="The class with the most votes; empty where there is none.")
    votes: int
    wanted: int = Field(description="How many people must agree.")


class SpokenReply(Reply):
    """What one speaker said, redacted."""

    role: str
    text: str


class PredictedReply(Reply):
    """What the model had said."""

    label: str
    p: float
    probabilities: dict[str, float]
    evidence: list[CarriedReply]


class ItemReply(Reply):
    """A call to look at."""

    conversation_id: str
    model: str
    taxonomy: str
    why: Literal["unsure", "check"]
    turns: list[SpokenReply]
    predicted: PredictedReply | None = Field(description="Null where it is hidden, to see whether people follow it.")
    wanted: int = Field(description="How many people must agree.")


class ReviewReply(Reply):
    """Calls that are kept for this person for a while."""

    reviewer: str
    items: list[ItemReply]
    lease_s: float


class QueueReply(Reply):
    """How full the review queue is."""

    open: int
    claimed: int
    done: int
    disputed: int
    by_class: dict[str, int] = Field(description="Open ones by predicted class.")
    oldest_at: str | None


CALL_REPLIES = (ClassifyReply, FeedbackReply, ReviewReply, QueueReply)

CALL_EXAMPLES = {
    "ClassifyReply": {
        "model": "complaints@3-9f86d081884c",
        "taxonomy": "telecom-cn@2",
        "results": [
            {
                "conversation_id": "c-17",
                "label": "network.broadband_fault",
                "name": {"zh": "宽带故障", "en": "Broadband fault"},
                "path": ["network", "network.broadband_fault"],
                "p": 0.93,
                "probabilities": {"network.broadband_fault": 0.93, "network.coverage": 0.07},
                "decision": "auto",
                "threshold": 0.81,
                "set": [],
                "evidence": None,
                "tokens": 61,
                "latency_ms": 48.2,
            }
        ],
        "queued": 0,
        "timing": {"queue_s": 0.0, "total_s": 0.05},
        "request_id": "3a7bd3e2360a",
    }
}
