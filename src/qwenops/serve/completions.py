"""`POST /v1/completions`: text or tokens in, their continuation out, without a chat template."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.errors import InvalidRequestError
from qwenops.generation import Chunk, Prompt, SamplingParams, TokenLogprob, Tokens
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
    check_token_ids,
    choose_model,
    fit,
    full_sampling_of,
    plan_of,
    tokens_of,
)
from qwenops.serve.openapi import COMPLETIONS, described
from qwenops.serve.schemas import CompletionRequest
from qwenops.serve.serving import ServedModel, Serving
from qwenops.serve.stream import DONE, Numbered, encode, event
from qwenops.text import say


def completions_router(serving: Serving) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post(COMPLETIONS, **described(COMPLETIONS))
    async def complete(
        request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]
    ) -> Response:
        asked = await begin(request, serving, principal, CompletionRequest)
        completion = await _completion(asked)
        if asked.body.stream:
            options = asked.body.stream_options
            with_usage = bool(options and options.include_usage)
            return await answer_stream(asked, completion.plan, _CompletionStream(completion, with_usage=with_usage))
        answers = completion.answers()
        counts = completion.counts()
        await answer_whole(asked, completion.plan, lambda index, chunk: answers[index].keep(chunk, counts))
        asked.exchange.finish_reason = answers[0].finish_reason
        asked.exchange.succeed()
        choices = [answer.choice(index) for index, answer in enumerate(answers)]
        return JSONResponse({**completion.head(), "choices": choices, "usage": counts.as_json()})

    return router


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """A completion request, ready for the engine."""

    plan: Plan
    exchange: Exchange
    id: str
    created: int
    fingerprint: str
    echoes: tuple[str, ...]
    """For each answer, what is put before it."""
    logprobs: bool

    def answers(self) -> "list[_Answer]":
        """Return an empty answer for each request to the engine."""
        return [_Answer(echo, logprobs=self.logprobs) for echo in self.echoes]

    def counts(self) -> Counts:
        """Return the count of the tokens so far."""
        return Counts(exchange=self.exchange, prompt_tokens=self.plan.prompt_tokens)

    def head(self) -> dict[str, Any]:
        """Return the fields that every object of this answer begins with."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            **answered_by(self.plan.served),
            "system_fingerprint": self.fingerprint,
        }


async def _completion(asked: Asked[CompletionRequest]) -> _Completion:
    body, exchange = asked.body, asked.exchange
    served = choose_model(exchange, asked.principal, body.model)
    options = exchange.serving.options()
    info = served.engine.info
    _refuse_impossible(body, served)
    given = _prompts(body)
    num_choices = body.n or 1
    check_choices(num_choices * len(given), options.limits, param="n" if num_choices > 1 else "prompt")
    length = sum(len(each) for each in given)
    note_prompt(asked, length=length, text=lambda: encode(body.prompt))
    sampling = replace(full_sampling_of(body, served, options.sampling, options.limits), logprobs=body.logprobs)
    prompts: list[tuple[Prompt, SamplingParams]] = []
    echoes: list[str] = []
    num_tokens = 0
    for each in given:
        tokens = await _tokens(each, served)
        room = fit(
            info, options.limits, prompt_tokens=len(tokens.ids), wanted_tokens=sampling.max_tokens, param="prompt"
        )
        prompts.append((tokens, replace(sampling, max_tokens=room)))
        num_tokens += len(tokens.ids)
        echoes += [_echo(each, served) if body.echo else ""] * num_choices
    return _Completion(
        plan=plan_of(asked, served, prompts, num_choices=num_choices, prompt_tokens=num_tokens),
        exchange=exchange,
        id=f"cmpl-{exchange.unique_id}",
        created=int(exchange.serving.now()),
        fingerprint=fingerprint_of(served),
        echoes=tuple(echoes),
        logprobs=body.logprobs is not None,
    )


def _refuse_impossible(body: CompletionRequest, served: ServedModel) -> None:
    info = served.engine.info
    if info.accepts == "messages":
        raise InvalidRequestError(
            say("The engine {engine} takes conversations only.", engine=info.engine),
            hint=say("Use /v1/chat/completions."),
        )
    if body.logprobs is None:
        return
    if body.echo:
        raise InvalidRequestError(
            say("The tokens of the prompt have no log-probabilities here, so echo and logprobs exclude each other."),
            hint=say("Leave one of them out."),
            param="echo",
        )
    if not info.logprobs:
        raise InvalidRequestError(
            say("The engine {engine} gives no log-probabilities.", engine=info.engine),
            hint=say("Leave logprobs out."),
            param="logprobs",
        )


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        # A list that begins with a token is one prompt: the schema lets no list mix tokens with texts.
        return [prompt]
    return list(cast("list[str | list[int]]", prompt))


async def _tokens(given: str | list[int], served: ServedModel) -> Tokens:
    if isinstance(given, str):
        return await tokens_of(served, given)
    check_token_ids(given, served, param="prompt")
    return Tokens(ids=tuple(given))


def _echo(given: str | list[int], served: ServedModel) -> str:
    return given if isinstance(given, str) else served.tokenizer.decode(given, skip_special=False)


class _Answer:
    """One continuation while it comes."""

    def __init__(self, echo: str, *, logprobs: bool) -> None:
        self.echo = echo
        self.finish_reason: str | None = None
        self._texts = [echo]
        self._tokens: list[TokenLogprob] | None = [] if logprobs else None
        self._offset = len(echo)

    def keep(self, chunk: Chunk, counts: Counts) -> None:
        """Add the chunk to the whole answer."""
        counts.add(chunk)
        self._texts.append(chunk.text)
        self.note(chunk)

    def note(self, chunk: Chunk) -> None:
        """Remember what is beside the text."""
        if self._tokens is not None:
            self._tokens.extend(chunk.logprobs)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason.value

    def choice(self, index: int) -> dict[str, Any]:
        """Return the whole answer."""
        return {
            "index": index,
            "text": "".join(self._texts),
            "logprobs": self.logprobs_json(),
            "finish_reason": self.finish_reason,
        }

    def logprobs_json(self) -> dict[str, Any] | None:
        """Return the log-probabilities that were not given out before, and forget them."""
        if self._tokens is None:
            return None
        tokens, offsets = [], []
        for each in self._tokens:
            text = each.raw.decode("utf-8", "replace")
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(text)
        found = {
            "tokens": tokens,
            "token_logprobs": [logprob_of(each) for each in self._tokens],
            "top_logprobs": [
                {other.raw.decode("utf-8", "replace"): logprob_of(other) for other in each.top} for each in self._tokens
            ],
            "text_offset": offsets,
        }
        self._tokens.clear()
        return found


class _CompletionStream:
    """The events of a streamed completion."""

    def __init__(self, completion: _Completion, *, with_usage: bool) -> None:
        self._completion = completion
        self._answers = completion.answers()
        self._counts = completion.counts()
        self._with_usage = with_usage
        self._head = completion.head()
        self._started = False
        opening = encode(self._head)[:-1]
        self._before = [f'data: {opening},"choices":[{{"index":{index},"text":' for index in range(len(self._answers))]
        usage = ',"usage":null' if with_usage else ""
        self._after = f',"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'

    def render(self, taken: Sequence[Numbered]) -> bytes:
        """Return the events for these chunks."""
        events: list[str] = []
        if not self._started:
            self._started = True
            for index, answer in enumerate(self._answers):
                if answer.echo:
                    events.append(self._before[index] + encode(answer.echo) + self._after)
        for index, chunk in taken:
            self._add(events, index, chunk)
        return "".join(events).encode()

    def _add(self, events: list[str], index: int, chunk: Chunk) -> None:
        answer = self._answers[index]
        self._counts.add(chunk)
        answer.note(chunk)
        if chunk.finish_reason is None and not chunk.logprobs:
            if chunk.text:
                events.append(self._before[index] + encode(chunk.text) + self._after)
            return
        choice = {
            "index": index,
            "text": chunk.text,
            "logprobs": answer.logprobs_json() if chunk.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        usage = {"usage": None} if self._with_usage else {}
        events.append(f"data: {encode({**self._head, 'choices': [choice], **usage})}\n\n")

    def end(self) -> bytes:
        """Return the usage, if it is wanted, and the end."""
        self._completion.exchange.finish_reason = self._answers[0].finish_reason
        if not self._with_usage:
            return DONE
        return event({**self._head, "choices": [], "usage": self._counts.as_json()}) + DONE
