"""What callers get: the shapes of the answers, for the API's description and for tests.

The answers themselves are made as plain dictionaries (see `stream`); a test holds them to these models.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_FALLBACK = "The same, present only when it stands in for the configured model."
Finish = Literal["stop", "length", "tool_calls"]


class Reply(BaseModel):
    """What all answers share: nothing that is not described."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    """What went wrong."""

    message: str = Field(description="What happened, with the value, and what would have been possible.")
    type: Literal[
        "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
    ]
    param: str | None = Field(description="The field that is to blame, where one is.")
    code: str = Field(description="A word for programs; it never changes with the language.")
    hint: str | None = Field(description="What to do about it.")


class ErrorReply(Reply):
    """An error, in the shape that OpenAI's clients read."""

    error: ErrorDetail


class PromptTokensDetails(Reply):
    """Of the tokens of the prompt."""

    cached_tokens: int = Field(description="Those that the prefix cache held.")


class CompletionTokensDetails(Reply):
    """Of the tokens of the answer."""

    reasoning_tokens: int = Field(description="Those before the answer itself.")


class UsageReply(Reply):
    """Tokens that the request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(Reply):
    """A token that might have been chosen."""

    token: str
    logprob: float = Field(description="Natural logarithm of the probability.")
    bytes: list[int]


class ChosenLogprob(TopLogprob):
    """The token that was chosen."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    """One entry for each token that was generated, reasoning included."""

    content: list[ChosenLogprob]
    refusal: None


class FunctionReply(Reply):
    """The function to call."""

    name: str
    arguments: str = Field(description="JSON text.")


class ToolCallReply(Reply):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionReply


class MessageReply(Reply):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = Field(None, description="What the model thought first.")
    tool_calls: list[ToolCallReply] | None = None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: MessageReply
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatReply(Reply):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str = Field(description="The model that answered.")
    served_model: str | None = Field(None, description=_FALLBACK)
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageReply


class CompletionLogprobs(Reply):
    """One entry for each token that was generated."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Reply):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionReply(Reply):
    """The continuations of a text, or of several."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str = Field(description="The model that answered.")
    served_model: str | None = Field(None, description=_FALLBACK)
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageReply


class ModelReply(Reply):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_tokens: int
    quantization: str
    fallback_for: str | None = Field(description="The configured model, when this one serves in its place.")


class ModelsReply(Reply):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelReply]


class InferenceReply(Reply):
    """The answer to one turn."""

    result: str
    reasoning: str | None = Field(description="What the model thought first.")
    tokens_used: int = Field(description="Prompt and answer together.")
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    response_time: float = Field(description="Seconds from the arrival of the request.")
    model: str = Field(description="The model that answered.")
    served_model: str | None = Field(None, description=_FALLBACK)
    request_id: str


class ModelInfoReply(Reply):
    """What is known about the served model."""

    name: str
    revision: str
    sha256: str
    quantization: str
    context_tokens: int
    engine: str
    engine_version: str
    state: str
    threads: int
    memory_bytes: int = Field(description="Resident memory of the process that computes.")
    kv_capacity_tokens: int
    kv_cache_bytes: int = Field(description="What the KV cache may grow to; 0 when unknown.")
    load_s: float
    served_since_s: float = Field(description="Seconds since 1970.")
    fallback_for: str | None = Field(description="The configured model, when this one serves in its place.")
    config_generation: int = Field(description="Counts the configurations taken over, from 1.")
    notes: dict[str, str] = Field(description="What was decided from this machine, each with its reason.")


REPLIES: tuple[type[BaseModel], ...] = (
    ErrorReply,
    ChatReply,
    CompletionReply,
    ModelReply,
    ModelsReply,
    InferenceReply,
    ModelInfoReply,
)

EXAMPLES: dict[str, Any] = {
    "ChatReply": {
        "id": "chatcmpl-5f0c",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "qwen3:0.6b",
        "system_fingerprint": "fp_9f86d081884c-int8-2026.4.1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 31,
            "completion_tokens": 2,
            "total_tokens": 33,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    },
    "InferenceReply": {
        "result": "Lines hum in the night",
        "reasoning": None,
        "tokens_used": 22,
        "prompt_tokens": 16,
        "completion_tokens": 6,
        "finish_reason": "stop",
        "response_time": 0.41,
        "model": "qwen3:0.6b",
        "request_id": "3a7bd3e2360a",
    },
    "ErrorReply": {
        "error": {
            "message": "The field temprature is not known.",
            "type": "invalid_request_error",
            "param": "temprature",
            "code": "invalid_request",
            "hint": "Did you mean 'temperature'?",
        }
    },
}
