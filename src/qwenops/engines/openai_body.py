"""From a request to the body that servers of OpenAI's API read.

OpenAI's own fields come first; what vLLM, SGLang, llama-server and ours have beyond them (`top_k`, `ignore_eos`,
`chat_template_kwargs`, ...) is `DISPENSABLE`: a server that does not know such a field gets the request without it.
What changes the meaning of an answer (structure, tools, log-probabilities) is never left out.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from qwenops.errors import InvalidRequestError
from qwenops.generation import (
    Choice,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    Regex,
    SamplingParams,
    Structure,
    Tokens,
)
from qwenops.text import say

DISPENSABLE = (
    "stream_options",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
"""Fields that a request can do without, each of which some server refuses."""

LLAMA_CPP, SGLANG, VLLM = "llamacpp", "sglang", "vllm"
"""What servers call themselves in their list of models (`owned_by`)."""


def chat_body(model: str, prompt: Messages, sampling: SamplingParams, owner: str) -> dict[str, Any]:
    """Return the body of a chat.

    Raises:
        InvalidRequestError: The answer shall have a form that this server is not known to keep.
    """
    body = {
        "model": model,
        "messages": [message_json(each) for each in prompt.messages],
        **_sampling(sampling, owner),
        "chat_template_kwargs": {"enable_thinking": prompt.enable_thinking},
    }
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    if prompt.continue_final:
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    if sampling.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = sampling.logprobs
    return body


def completion_body(model: str, prompt: Tokens, sampling: SamplingParams, owner: str) -> dict[str, Any]:
    """Return the body of a completion of tokens.

    Raises:
        InvalidRequestError: The answer shall have a form that this server is not known to keep.
    """
    body = {"model": model, "prompt": list(prompt.ids), **_sampling(sampling, owner)}
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    return body


def message_json(message: Message) -> dict[str, Any]:
    """Return one turn as OpenAI's API has it."""
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        told["name"] = message.name
    if message.reasoning is not None:
        told["reasoning_content"] = message.reasoning
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in message.tool_calls
        ]
    return told


def _sampling(sampling: SamplingParams, owner: str) -> dict[str, Any]:
    """Return how the answer is chosen. Filters are told even when off: a server's own defaults may not be."""
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
    if sampling.repetition_penalty != 1.0:
        body["repeat_penalty" if owner == LLAMA_CPP else "repetition_penalty"] = sampling.repetition_penalty
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    told_when_set = {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop),
        "include_stop_str_in_output": sampling.include_stop,
        "ignore_eos": sampling.ignore_eos,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
    }
    body |= {name: value for name, value in told_when_set.items() if value}
    if sampling.structure is not None:
        body |= _structure(sampling.structure, owner)
    return body


def _structure(structure: Structure, owner: str) -> Mapping[str, Any]:
    match structure:
        case JsonObject():
            return {"response_format": {"type": "json_object"}}
        case JsonSchema(schema=schema):
            told = {"name": "answer", "schema": from_json(schema), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": told}}
        case Regex(pattern=pattern) if owner == VLLM:
            return {"structured_outputs": {"regex": pattern}}
        case Choice(choices=choices) if owner == VLLM:
            return {"structured_outputs": {"choice": list(choices)}}
        case Regex(pattern=pattern) if owner == SGLANG:
            return {"regex": pattern}
        case _:
            raise InvalidRequestError(
                say("This server is not known to hold an answer to a choice or a regular expression."),
                hint=say("Ask for JSON by a schema."),
                param="structure",
            )
