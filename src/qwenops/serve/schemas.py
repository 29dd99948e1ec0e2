"""What callers may send: pydantic models at the border, strict about types and about names.

An unknown field is an error, so that a misspelt option is noticed. `IGNORED_FIELDS` are those that OpenAI's clients
commonly send and that change nothing here; they are accepted. `REFUSED_FIELDS` are OpenAI's own that would change the
answer and that this server does not have; each is refused with what to use in its place.

Lists stop at their first error (`fail_fast`): a body of two megabytes can hold a million, and each would be kept.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from qwenops.text import Text, say

IGNORED_FIELDS: dict[str, str] = {
    "user": "An id of the end user.",
    "metadata": "Labels for the caller's own bookkeeping.",
    "store": "Nothing is stored.",
    "service_tier": "There is one tier.",
    "safety_identifier": "An id of the end user.",
    "prompt_cache_key": "The prefix cache finds equal beginnings by itself.",
    "prompt_cache_retention": "The prefix cache keeps what fits.",
    "verbosity": "The model has no such control.",
    "modalities": "Answers are text.",
    "prediction": "A hint about the answer, for speed only.",
}
"""Accepted and without effect; the reference page lists them."""

REFUSED_FIELDS: dict[str, Text] = {
    "functions": say("Use `tools`."),
    "function_call": say("Use `tool_choice`."),
    "best_of": say("Use `n` and choose among the answers."),
    "suffix": say("This model does not fill in the middle."),
    "audio": say("Answers are text."),
    "web_search_options": say("Give the model a tool that searches, in `tools`."),
    "guided_json": say("Use `response_format` with type json_schema."),
    "prompt_logprobs": say("Only the tokens of the answer have log-probabilities."),
}

MAX_STOP_STRINGS = 256
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_TOKEN_ID = 999_999
_INT64 = 2**63 - 1
_TOP_P = "Probability mass kept."

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Bias],
    Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
]


class Wire(BaseModel):
    """What all bodies share: no unknown fields, no conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Wire):
    """Details of a stream."""

    include_usage: bool | None = Field(None, description="Send one more chunk with the usage, before the end.")
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class SamplingFields(Wire):
    """How the answer is chosen, and when it ends; the same for both APIs."""

    model: str | None = Field(None, description="Name of the model; the served one when left out.")
    max_tokens: int | None = Field(
        None, ge=1, le=_INT64, description="Longest answer. What exceeds the room in the context is cut to it."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, ge=0, le=1, description=_TOP_P)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="0 and -1 keep every token.")
    min_p: float | None = Field(None, ge=0, le=1, description="Least probability kept, relative to the best.")
    repetition_penalty: float | None = Field(None, ge=0.1, le=10, description="Above 1 discourages repetition.")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted once for a token that came.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted each time a token came.")
    seed: int | None = Field(None, ge=-_INT64, le=_INT64, description="Equal seeds give equal answers.")
    stop: Stop | None = Field(None, description="The answer ends before the first of these.")
    ignore_eos: bool | None = Field(None, description="Go on after the end of the text; for load tests.")
    logit_bias: Biases | None = Field(None, description="Token id to what is added to its logit.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Number of answers.")
    stream: bool | None = Field(None, description="Send the answer as it is made, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="`include_usage` adds the usage at the end.")
    user: str | None = Field(None, description="Accepted and ignored.")
    metadata: dict[str, JsonValue] | None = Field(None, description="Accepted and ignored.")
    store: bool | None = Field(None, description="Accepted and ignored.")
    service_tier: str | None = Field(None, description="Accepted and ignored.")
    safety_identifier: str | None = Field(None, description="Accepted and ignored.")
    prompt_cache_key: str | None = Field(None, description="Accepted and ignored.")
    prompt_cache_retention: str | None = Field(None, description="Accepted and ignored.")


class TextPart(Wire):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(fail_fast=True)]


class SystemMessage(Wire):
    """What the assistant is told to be."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Wire):
    """What the person says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Wire):
    """Name and arguments (JSON text) of a call."""

    name: FunctionName
    arguments: str


class ToolCallItem(Wire):
    """A call that the assistant made earlier."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Wire):
    """What the assistant said earlier."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCallItem], Field(fail_fast=True)] | None = Field(None, max_length=128)
    name: str | None = None
    refusal: str | None = Field(None, description="Accepted and ignored.")
    annotations: list[JsonValue] | None = Field(None, description="Accepted and ignored.")
    audio: None = Field(None, description="Accepted and ignored.")
    function_call: None = Field(None, description="Accepted and ignored.")


class ToolMessage(Wire):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


AnyMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionDefinition(Wire):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolDefinition(Wire):
    """One tool."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionByName(Wire):
    """The name of one function."""

    name: FunctionName


class NamedTool(Wire):
    """The one tool that must be called."""

    type: Literal["function"]
    function: FunctionByName


class TextFormat(Wire):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """One JSON object."""

    type: Literal["json_object"]


class SchemaDefinition(Wire):
    """A JSON schema with its name."""

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    """JSON that a schema accepts."""

    type: Literal["json_schema"]
    json_schema: SchemaDefinition


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class TemplateOptions(Wire):
    """Options of the chat template."""

    enable_thinking: bool | None = Field(None, description="Let the model think first; off when left out.")


_CHAT_EXAMPLES: list[JsonValue] = [
    {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 64},
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Is this a complaint? My line has been dead for three days."},
        ],
        "temperature": 0,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 3,
    },
    {
        "messages": [{"role": "user", "content": "When was call 17 answered?"}],
        "max_tokens": 64,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look_up_call",
                    "description": "Find a call by its number.",
                    "parameters": {
                        "type": "object",
                        "properties": {"number": {"type": "integer"}},
                        "required": ["number"],
                    },
                },
            }
        ],
    },
]


class ChatRequest(SamplingFields):
    """A conversation to answer."""

    model_config = ConfigDict(json_schema_extra={"examples": _CHAT_EXAMPLES})

    messages: Annotated[list[AnyMessage], Field(fail_fast=True)] = Field(
        min_length=1, max_length=2048, description="The conversation so far."
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=_INT64, description="The newer name of `max_tokens`.")
    logprobs: bool | None = Field(None, description="Give each token's log-probability.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="Also those of the best others; implies `logprobs`."
    )
    response_format: ResponseFormat | None = Field(
        None, description="The answer is held to it while it is written; excludes thinking."
    )
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True)] | None = Field(
        None, max_length=128, description="What the model may call."
    )
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = Field(
        None, description="`required` and a named tool hold the answer to a call; they exclude thinking."
    )
    parallel_tool_calls: bool | None = Field(None, description="False ends the answer with its first call.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="`none` switches thinking off, any other on."
    )
    chat_template_kwargs: TemplateOptions | None = Field(None, description="Goes before `reasoning_effort`.")
    continue_final_message: bool | None = Field(None, description="Continue the last message of the assistant.")
    verbosity: str | None = Field(None, description="Accepted and ignored.")
    modalities: list[Literal["text"]] | None = Field(None, description="Accepted and ignored.")
    prediction: dict[str, JsonValue] | None = Field(None, description="Accepted and ignored.")


Prompts = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
    | Annotated[
        list[Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]],
        Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True),
    ]
)

_COMPLETION_EXAMPLES: list[JsonValue] = [
    {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
    {"prompt": ["One, two,", "Monday, Tuesday,"], "max_tokens": 8, "logprobs": 2, "stop": ["\n"]},
]


class CompletionRequest(SamplingFields):
    """A text, or several, to continue."""

    model_config = ConfigDict(json_schema_extra={"examples": _COMPLETION_EXAMPLES})

    prompt: Prompts = Field(description="Text, texts, tokens, or lists of tokens; no template is applied.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="Give log-probabilities, and those of so many others."
    )
    echo: bool | None = Field(None, description="Put the prompt before the answer; not together with `logprobs`.")


class InferenceRequest(Wire):
    """One turn of a person, to answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "请解释一下人工智能的基本概念。"},
                {"text": "Write a haiku about telephones.", "max_tokens": 64, "temperature": 0.7},
            ]
        }
    )

    text: str = Field(min_length=1, description="What the person says.")
    max_tokens: int | None = Field(None, ge=1, le=_INT64, description="Longest answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, ge=0, le=1, description=_TOP_P)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="0 and -1 keep every token.")
    seed: int | None = Field(None, ge=-_INT64, le=_INT64, description="Equal seeds give equal answers.")
    stop: Stop | None = Field(None, description="The answer ends before the first of these.")
    system: str | None = Field(None, description="What the assistant is told to be.")
    enable_thinking: bool | None = Field(None, description="Let the model think first; off when left out.")
    model: str | None = Field(None, description="Name of the model; the served one when left out.")
