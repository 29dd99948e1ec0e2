"""`qwenops run`: one answer, or a chat, on this terminal, with the engine in its own process and without a server."""

import asyncio
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.models import NAME
from qwenops.cli.opening import engine_options, open_tokenizer, prepare_model, until_ready, wanted_model
from qwenops.cli.terminal import Terminal, printable
from qwenops.engines import open_engine
from qwenops.errors import ConfigError
from qwenops.generation import Chunk, GenerationRequest, Message, Messages, SamplingParams, Usage
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.config import Settings
    from qwenops.engines.seam import Engine

Result = TypeVar("Result")

CLOSE_TIMEOUT_S = 20.0
LEAVE = frozenset({"/bye", "/exit", "/quit"})
FORGET = "/clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer and what it took."""

    text: str
    thought: str
    usage: Usage
    ttft_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first, by the time after the first."""
        after_s = self.total_s - self.ttft_s
        return (self.usage.completion_tokens - 1) / after_s if self.usage.completion_tokens > 1 and after_s > 0 else 0.0


@dataclass(slots=True, kw_only=True)
class Talk:
    """A conversation with one engine."""

    engine: "Engine"
    tokenizer: Any
    sampling: SamplingParams
    thinking: bool
    messages: list[Message] = field(default_factory=list)

    async def answer(self, text: str, *, show: bool) -> Said:
        """Ask, print the answer as it arrives where that is wanted, and remember both."""
        from qwenops.serve.reasoning import ReasoningSplitter, Thought

        asked = [*self.messages, Message(role="user", content=text)]
        splitter = ReasoningSplitter()
        parts: dict[bool, list[str]] = {True: [], False: []}
        usage = Usage(prompt_tokens=0, completion_tokens=0)
        began_s, first_s = time.monotonic(), 0.0
        async for chunk in self._chunks(tuple(asked)):
            if chunk.token_ids or chunk.text:
                first_s = first_s or time.monotonic()
            usage = chunk.usage or usage
            pieces = splitter.push(chunk.text) + (splitter.finish() if chunk.finish_reason else [])
            for piece in pieces:
                parts[isinstance(piece, Thought)].append(piece.text)
                if show:
                    _print_piece(piece.text, thought=isinstance(piece, Thought))
        ended_s = time.monotonic()
        if show:
            print(flush=True)
        said = "".join(parts[False])
        self.messages = [*asked, Message(role="assistant", content=said)]
        return Said(
            text=said,
            thought="".join(parts[True]),
            usage=usage,
            ttft_s=(first_s or ended_s) - began_s,
            total_s=ended_s - began_s,
        )

    async def _chunks(self, messages: tuple[Message, ...]) -> AsyncIterator[Chunk]:
        conversation = Messages(messages=messages, enable_thinking=self.thinking)
        prompt = conversation if self.engine.info.accepts == "messages" else self.tokenizer.render(conversation)
        request = GenerationRequest(id=uuid.uuid4().hex, prompt=prompt, sampling=self.sampling)
        stream = self.engine.generate(request)
        try:
            async for chunk in stream:
                yield chunk
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()


def _print_piece(text: str, *, thought: bool) -> None:
    """Print a piece of an answer; thoughts go where remarks go, so that a pipe gets the answer alone."""
    if thought:
        dim = sys.stderr.isatty()
        print(f"\x1b[2m{printable(text)}\x1b[0m" if dim else printable(text), end="", file=sys.stderr, flush=True)
    else:
        print(printable(text), end="", flush=True)


@click.command(
    "run",
    cls=Verb,
    help=say(
        "Ask a model once, or chat with it when there is no prompt and this is a terminal. The model is fetched and "
        "converted first where that is needed. What comes through a pipe is the prompt."
    ),
    examples=(
        ('qwenops run qwen3:0.6b "Why do customers call twice?"', say("One answer.")),
        ("qwenops run qwen3:0.6b --thinking", say("A chat with a model that thinks first.")),
    ),
)
@click.argument("model", cls=Operand, required=False, help=NAME)
@click.argument("prompt", cls=Operand, required=False, help=say("What to ask."))
@click.option("--system", cls=Flag, default="", metavar="TEXT", help=say("What the model is told about itself first."))
@click.option(
    "--thinking", cls=Flag, is_flag=True, help=say("Let the model think first; thoughts go to standard error.")
)
@click.option("--max-tokens", cls=Flag, type=click.IntRange(min=1), metavar="N", help=say("Longest answer."))
@click.option("--temperature", cls=Flag, type=click.FloatRange(0, 2), metavar="N", help=say("0 is greedy."))
@click.option("--seed", cls=Flag, type=int, metavar="N", help=say("Makes sampling repeatable."))
@option_flags("model", "engine", without=("model.fallback",))
@json_flag
@click.pass_context
def run(  # noqa: PLR0913 -- one for each flag that only this command has
    ctx: click.Context,
    /,
    model: str | None,
    prompt: str | None,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    *,
    thinking: bool,
    as_json: bool,
) -> None:
    """Open the model and talk."""
    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    name = wanted_model(model, made)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt is not None and not prompt.strip():
        raise ConfigError(say("The prompt is empty."), hint=say("Give one, or run without one on a terminal to chat."))
    if prompt is None and as_json:
        raise ConfigError(say("A chat is no JSON."), hint=say("Give a prompt together with --json."))
    usual = default_sampling(made)
    sampling = replace(
        usual,
        max_tokens=usual.max_tokens if max_tokens is None else max_tokens,
        temperature=usual.temperature if temperature is None else temperature,
        seed=seed,
    )
    opening = [Message(role="system", content=system)] if system else []
    with loop_aside() as aside, opened(aside, terminal, made, name) as (engine, tokenizer):
        talk = Talk(engine=engine, tokenizer=tokenizer, sampling=sampling, thinking=thinking, messages=opening)
        if prompt is None:
            chat(terminal, aside, talk, opening)
            return
        said = aside.result(talk.answer(prompt, show=not as_json))
        if as_json:
            terminal.show_json("qwenops.answer/1", {"model": name, **as_data(said)})
        else:
            terminal.tell(summary(said))


def default_sampling(made: "Settings") -> SamplingParams:
    """Return how a request is answered that says nothing about it: the same as the server's."""
    usual = made.serve.sampling
    return SamplingParams(
        max_tokens=usual.max_tokens,
        temperature=usual.temperature,
        top_p=usual.top_p,
        top_k=usual.top_k,
        min_p=usual.min_p,
        repetition_penalty=usual.repetition_penalty,
    )


def chat(terminal: Terminal, aside: "Aside", talk: Talk, opening: list[Message]) -> None:
    """Talk until the user leaves; Ctrl-C stops an answer, not the chat."""
    import readline  # noqa: F401 -- gives input() its history and its editing

    terminal.tell(
        say("Type a message. /clear forgets the conversation, /bye or Ctrl-D leaves, Ctrl-C stops an answer.")
    )
    while True:
        try:
            text = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            terminal.tell()
            return
        if text in LEAVE:
            return
        if text == FORGET:
            talk.messages = list(opening)
        elif text:
            try:
                said = aside.result(talk.answer(text, show=True))
            except KeyboardInterrupt:
                terminal.tell()
            else:
                terminal.tell(summary(said))


def summary(said: Said) -> str:
    """Say in one line what an answer took."""
    return say(
        "[{prompt} + {answer} tokens, first after {ttft:.2f} s, then {rate:.1f} tokens/s]",
        prompt=said.usage.prompt_tokens,
        answer=said.usage.completion_tokens,
        ttft=said.ttft_s,
        rate=said.tokens_per_s,
    )


def as_data(said: Said) -> dict[str, Any]:
    """Return an answer for scripts."""
    return {
        "text": said.text,
        "reasoning": said.thought or None,
        "prompt_tokens": said.usage.prompt_tokens,
        "completion_tokens": said.usage.completion_tokens,
        "ttft_s": round(said.ttft_s, 4),
        "total_s": round(said.total_s, 4),
        "tokens_per_s": round(said.tokens_per_s, 2),
    }


class Aside:
    """An event loop in a thread: the engine's process is watched also while this one waits for the keyboard."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the loop."""
        self._loop = loop

    def result(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something there and wait for it; Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


@contextmanager
def loop_aside() -> Iterator[Aside]:
    """Run an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="engine loop")
    thread.start()
    try:
        yield Aside(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextmanager
def opened(aside: Aside, terminal: Terminal, made: "Settings", name: str) -> Iterator[tuple["Engine", Any]]:
    """Prepare and open a model; close it in the end."""
    with terminal.progress() as report:
        prepared = aside.result(prepare_model(name, made, terminal, report, report))
        tokenizer = open_tokenizer(prepared)
        engine = aside.result(open_engine(made.model.engine, engine_options(made, prepared)))
        try:
            aside.result(until_ready(engine, report))
        except BaseException:
            aside.result(asyncio.wait_for(engine.aclose(), CLOSE_TIMEOUT_S))
            raise
    try:
        yield engine, tokenizer
    finally:
        aside.result(asyncio.wait_for(engine.aclose(), CLOSE_TIMEOUT_S))
