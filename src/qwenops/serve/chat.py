"""`POST /v1/chat/completions`: a conversation in, one or more answers out, whole or as a stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.engines.seam import EngineInfo
from qwenops.errors import InvalidRequestError
from qwenops.generation import (
    Chunk,
    FinishReason,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    Prompt,
    SamplingParams,
    Structure,
    TokenLogprob,
    ToolCall,
)
from qwenops.serve.answering import (
    Counts,
    answer_stream,
    answer_whole,
    answered_by,
    begin,
    fingerprint_of,
    logprob_of,
    note_prompt,
)
from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.exchange import Exchange
from qwenops.serve.generating import (
    Asked,
    Plan,
    check_choices,
    choose_model,
    fit,
    full_sampling_of,
    length_of,
    plan_of,
    tokens_of,
)
from qwenops.serve.openapi import CHAT, described
from qwenops.serve.parts import AnswerParts, Part, parts_of
from qwenops.serve.reasoning import OPEN as THINK
from qwenops.serve.reasoning import Speech, Thought
from qwenops.serve.schemas import (
    AnyMessage,
    AssistantMessage,
    ChatRequest,
    Content,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    ToolMessage,
)
from qwenops.serve.serving import ServedModel, Serving
from qwenops.serve.stream import DONE, Numbered, encode, event
from qwenops.serve.toolcalls import CLOSE as CALL_CLOSE
from qwenops.serve.toolcalls import Call, call_schema
from qwenops.text import say


def chat_router(serving: Serving) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(CHAT, **described(CHAT))
    async def chat(request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> Response:
        asked = await begin(request, serving, principal, ChatRequest)
        conversation = await _conversation(asked)
        answers = conversation.answers()
        if asked.body.stream:
            options = asked.body.stream_options
            with_usage = bool(options and options.include_usage)
            rendering = _ChatStream(conversation, answers, with_usage=with_usage)
            return await answer_stream(asked, conversation.plan, rendering)
        counts = conversation.counts()
        await answer_whole(asked, conversation.plan, lambda index, chunk: answers[index].keep(chunk, counts))
        asked.exchange.finish_reason = answers[0].finish_reason
        asked.exchange.succeed()
        return JSONResponse(_whole(conversation, answers, counts))

    return router


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conversation:
    """A chat request, ready for the engine."""

    plan: Plan
    exchange: Exchange
    id: str
    created: int
    fingerprint: str
    thinking: bool
    inside: bool
    """Whether the prompt ends within the reasoning."""
    tools: bool
    bare_call: bool
    logprobs: bool

    def answers(self) -> "list[_Answer]":
        """Return an empty answer for each request to the engine."""
        return [
            _Answer(
                parts_of(
                    thinking=self.thinking,
                    inside=self.inside,
                    tools=self.tools,
                    bare_call=self.bare_call,
                    new_id=_CallIds(f"call_{self.exchange.unique_id[:16]}_{index}"),
                ),
                logprobs=self.logprobs,
            )
            for index in range(len(self.plan.requests))
        ]

    def counts(self) -> Counts:
        """Return the count of the tokens so far."""
        return Counts(exchange=self.exchange, prompt_tokens=self.plan.prompt_tokens)

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that every object of this answer begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            **answered_by(self.plan.served),
            "system_fingerprint": self.fingerprint,
        }


class _CallIds:
    """Makes the ids of the calls in one answer."""

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._stem}_{self._count}"


async def _conversation(asked: Asked[ChatRequest]) -> _Conversation:
    body, exchange = asked.body, asked.exchange
    served = choose_model(exchange, asked.principal, body.model)
    options = exchange.serving.options()
    info = served.engine.info
    num_choices = body.n or 1
    check_choices(num_choices, options.limits, param="n")
    thinking = _thinks(body)
    structure, bare_call = _structure(body)
    _refuse_impossible(body, info, structure, thinking=thinking)
    messages = Messages(
        messages=tuple(_message(each) for each in body.messages),
        tools=_tools(body),
        enable_thinking=thinking,
        continue_final=bool(body.continue_final_message),
    )
    note_prompt(asked, length=length_of(messages), text=lambda: encode([_plain(each) for each in body.messages]))
    tokens = await tokens_of(served, messages)
    sampling = _sampling(body, full_sampling_of(body, served, options.sampling, options.limits), structure)
    room = fit(info, options.limits, prompt_tokens=len(tokens.ids), wanted_tokens=sampling.max_tokens, param="messages")
    prompt: Prompt = messages if info.accepts == "messages" else tokens
    return _Conversation(
        plan=plan_of(
            asked,
            served,
            [(prompt, replace(sampling, max_tokens=room))],
            num_choices=num_choices,
            prompt_tokens=len(tokens.ids),
        ),
        exchange=exchange,
        id=f"chatcmpl-{exchange.unique_id}",
        created=int(exchange.serving.now()),
        fingerprint=fingerprint_of(served),
        thinking=thinking,
        inside=thinking and _ends_thinking(served, tokens.ids),
        tools=bool(messages.tools),
        bare_call=bare_call,
        logprobs=sampling.logprobs is not None,
    )


def _ends_thinking(served: ServedModel, ids: Sequence[int]) -> bool:
    return served.tokenizer.decode(ids[-4:], skip_special=False).rstrip().endswith(THINK)


def _plain(message: AnyMessage) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_none=True)


def _text(content: Content | None) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _message(given: AnyMessage) -> Message:
    text = _text(given.content)
    if isinstance(given, ToolMessage):
        return Message(role="tool", content=text, tool_call_id=given.tool_call_id)
    if isinstance(given, AssistantMessage):
        calls = tuple(
            ToolCall(id=each.id, name=each.function.name, arguments=each.function.arguments)
            for each in given.tool_calls or ()
        )
        return Message(
            role="assistant", content=text, reasoning=given.reasoning_content, tool_calls=calls, name=given.name
        )
    role = "system" if given.role == "developer" else given.role
    return Message(role=role, content=text, name=given.name)


def _thinks(body: ChatRequest) -> bool:
    kwargs = body.chat_template_kwargs
    if kwargs is not None and kwargs.enable_thinking is not None:
        return kwargs.enable_thinking
    return body.reasoning_effort not in {None, "none"}


def _tools(body: ChatRequest) -> tuple[Mapping[str, Any], ...]:
    if body.tool_choice == "none":
        return ()
    return tuple(each.model_dump(mode="json", exclude_none=True) for each in body.tools or ())


def _structure(body: ChatRequest) -> tuple[Structure | None, bool]:
    """Return what the answer must look like, and whether that is one call."""
    functions = [each.function.model_dump(mode="json") for each in body.tools or ()]
    choice = body.tool_choice
    if choice == "required" or isinstance(choice, NamedTool):
        name = choice.function.name if isinstance(choice, NamedTool) else None
        allowed = [each for each in functions if name in {None, each["name"]}]
        if not allowed:
            raise InvalidRequestError(
                say("tool_choice asks for a tool that `tools` does not have."),
                hint=say("Put the tool into `tools`, or use `auto`."),
                param="tool_choice",
            )
        return JsonSchema(schema=call_schema(allowed)), True
    match body.response_format:
        case JsonObjectFormat():
            return JsonObject(), False
        case JsonSchemaFormat(json_schema=definition):
            return JsonSchema(schema=encode(definition.schema_)), False
        case _:
            return None, False


def _refuse_impossible(body: ChatRequest, info: EngineInfo, structure: Structure | None, *, thinking: bool) -> None:
    if structure is not None and thinking:
        raise InvalidRequestError(
            say("An answer of a fixed structure leaves no room for thinking."),
            hint=say("Switch thinking off, or leave response_format and tool_choice out."),
            param="response_format" if body.response_format else "tool_choice",
        )
    if structure is not None and not info.structure:
        raise InvalidRequestError(
            say("The engine {engine} cannot hold an answer to a structure.", engine=info.engine),
            hint=say("Leave response_format and tool_choice out."),
            param="response_format" if body.response_format else "tool_choice",
        )
    if _wanted_logprobs(body) is not None and not info.logprobs:
        raise InvalidRequestError(
            say("The engine {engine} gives no log-probabilities.", engine=info.engine),
            hint=say("Leave logprobs out."),
            param="logprobs",
        )
    if body.continue_final_message and not isinstance(body.messages[-1], AssistantMessage):
        raise InvalidRequestError(
            say("There is no last message of the assistant to continue."),
            hint=say("Put the beginning of the answer last, with the role assistant."),
            param="continue_final_message",
        )


def _wanted_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs:
        return body.top_logprobs
    return 0 if body.logprobs else None


def _sampling(body: ChatRequest, sampling: SamplingParams, structure: Structure | None) -> SamplingParams:
    stop = sampling.stop
    if body.tools and body.parallel_tool_calls is False:
        stop = (*stop, CALL_CLOSE)
    return replace(
        sampling,
        max_tokens=body.max_completion_tokens or sampling.max_tokens,
        stop=stop,
        structure=structure,
        logprobs=_wanted_logprobs(body),
    )


class _Answer:
    """One answer while it comes: its parts and its log-probabilities."""

    def __init__(self, parts: AnswerParts, *, logprobs: bool) -> None:
        self.parts = parts
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] | None = [] if logprobs else None
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: list[Call] = []

    def take(self, chunk: Chunk) -> list[Part]:
        """Return the parts that this chunk makes clear."""
        found = self.parts.push(chunk.text, len(chunk.token_ids))
        if self.logprobs is not None:
            self.logprobs.extend(chunk.logprobs)
        if chunk.finish_reason is not None:
            found += self.parts.finish()
            called = self.parts.num_calls and chunk.finish_reason is FinishReason.STOP
            self.finish_reason = "tool_calls" if called else chunk.finish_reason.value
        return found

    def keep(self, chunk: Chunk, counts: Counts) -> None:
        """Add the chunk to the whole answer."""
        counts.add(chunk)
        for part in self.take(chunk):
            match part:
                case Speech(text):
                    self._said.append(text)
                case Thought(text):
                    self._thought.append(text)
                case Call():
                    self._calls.append(part)

    def message(self) -> dict[str, Any]:
        """Return the whole answer as a message."""
        said = "".join(self._said)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said or (None if self._calls else ""),
            "refusal": None,
        }
        if self._thought:
            message["reasoning_content"] = "".join(self._thought)
        if self._calls:
            message["tool_calls"] = [_call_json(each) for each in self._calls]
        return message

    def logprobs_json(self) -> dict[str, Any] | None:
        """Return the log-probabilities that were not given out before, and forget them."""
        if self.logprobs is None:
            return None
        content = [_logprob_json(each) for each in self.logprobs]
        self.logprobs.clear()
        return {"content": content, "refusal": None}


def _call_json(each: Call) -> dict[str, Any]:
    return {
        "id": each.call.id,
        "type": "function",
        "function": {"name": each.call.name, "arguments": each.call.arguments},
    }


def _logprob_json(token: TokenLogprob) -> dict[str, Any]:
    return {**_token_json(token), "top_logprobs": [_token_json(each) for each in token.top]}


def _token_json(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.raw.decode("utf-8", "replace"),
        "logprob": logprob_of(token),
        "bytes": list(token.raw),
    }


def _whole(conversation: _Conversation, answers: Sequence[_Answer], counts: Counts) -> dict[str, Any]:
    counts.reasoning_tokens = sum(answer.parts.reasoning_tokens for answer in answers)
    choices = [
        {
            "index": index,
            "message": answer.message(),
            "logprobs": answer.logprobs_json(),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return {**conversation.head("chat.completion"), "choices": choices, "usage": counts.as_json()}


class _ChatStream:
    """The events of a streamed chat.

    Nearly every chunk is a piece of speech and nothing else: those are glued from parts that were encoded once.
    """

    def __init__(self, conversation: _Conversation, answers: Sequence[_Answer], *, with_usage: bool) -> None:
        self._conversation = conversation
        self._answers = answers
        self._counts = conversation.counts()
        self._with_usage = with_usage
        self._head = conversation.head("chat.completion.chunk")
        self._started = False
        opening = encode(self._head)[:-1]
        self._before = [
            f'data: {opening},"choices":[{{"index":{index},"delta":{{"content":' for index in range(len(answers))
        ]
        usage = ',"usage":null' if with_usage else ""
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'

    def render(self, taken: Sequence[Numbered]) -> bytes:
        """Return the events for these chunks."""
        events: list[str] = []
        if not self._started:
            self._started = True
            opening = {"role": "assistant", "content": ""}
            events += [self._event(index, opening) for index in range(len(self._answers))]
        for index, chunk in taken:
            self._add(events, index, chunk)
        return "".join(events).encode()

    def _add(self, events: list[str], index: int, chunk: Chunk) -> None:
        answer = self._answers[index]
        self._counts.add(chunk)
        for part in answer.take(chunk):
            match part:
                case Speech(text) if not answer.logprobs:
                    events.append(self._before[index] + encode(text) + self._after)
                case Speech(text):
                    events.append(self._event(index, {"content": text}, logprobs=answer.logprobs_json()))
                case Thought(text):
                    events.append(self._event(index, {"reasoning_content": text}, logprobs=answer.logprobs_json()))
                case Call():
                    delta = {"tool_calls": [{"index": part.index, **_call_json(part)}]}
                    events.append(self._event(index, delta, logprobs=answer.logprobs_json()))
        if answer.finish_reason is not None:
            left = answer.logprobs_json() if answer.logprobs else None
            events.append(self._event(index, {}, logprobs=left, finish_reason=answer.finish_reason))

    def end(self) -> bytes:
        """Return the usage, if it is wanted, and the end."""
        self._conversation.exchange.finish_reason = self._answers[0].finish_reason
        if not self._with_usage:
            return DONE
        self._counts.reasoning_tokens = sum(answer.parts.reasoning_tokens for answer in self._answers)
        return event({**self._head, "choices": [], "usage": self._counts.as_json()}) + DONE

    def _event(
        self, index: int, delta: dict[str, Any], *, logprobs: Any = None, finish_reason: str | None = None
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._with_usage else {}
        return f"data: {encode({**self._head, 'choices': [choice], **usage})}\n\n"
