"""What every engine promises, held against each of them.

Engines that are a server elsewhere give no token ids, know nothing of that machine and score no labels; what is asked
only of those in this process or its worker is marked `IN_PROCESS`.
"""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
import pytest_asyncio

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import serve_simulated
from qwenops.command import PIPE, spawn
from qwenops.engines import open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import Engine, EngineState, LabelScorer
from qwenops.errors import EngineUnavailableError, InvalidRequestError, PromptTooLongError
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    Message,
    Messages,
    SamplingParams,
    Tokens,
)
from qwenops.models.spec import TINY, Scheme
from tests.serve.conftest import MODEL

EOS = 151_645
PROMPT = Tokens(ids=(9707, 11, 1879, 0, 106287, 99489, 264, 1273))
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Scoring(Engine, LabelScorer, Protocol):
    """Every engine in this process does both."""


Start = Callable[[], Awaitable[Scoring]]

LOCAL = [
    "fake",
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("transformers", marks=[pytest.mark.slow, pytest.mark.reference]),
]
REMOTE = ["openai", "ollama"]
IN_PROCESS = pytest.mark.parametrize("start", LOCAL, indirect=True)
GIVES_TOKENS = pytest.mark.parametrize("start", [*LOCAL, "openai"], indirect=True)
"""Ollama's API takes no tokens, no bias on them, and no order to go on after the end."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[str]:
    """Return the address of our own server with the fake engine, which answers as the contract says."""
    plan = {"slots": 4, "context_tokens": 512, "tokens_per_s": 2000.0, "options": {"port": 0}}
    argv = [sys.executable, "-m", "tests.serve.real_server", json.dumps(plan)]
    with spawn(argv, stdout=PIPE) as child:
        assert child.stdout is not None
        url = (await asyncio.to_thread(child.stdout.readline)).decode().strip()
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(is_ready, url):  # noqa: ASYNC110 -- another process sets no event
                await asyncio.sleep(0.02)
        yield url


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=5) as reply:  # noqa: S310 -- an address of this machine
            return bool(reply.status == 200)
    except urllib.error.HTTPError:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated() -> AsyncIterator[str]:
    """Return the address of the simulated server with its face of Ollama."""
    options = SimulatedOptions(
        model="tiny", slots=4, context_tokens=512, prefill_tokens_per_s=0, decode_tokens_per_s=500
    )
    async with serve_simulated(ServerModel(options)) as url:
        yield url


@pytest.fixture(scope="module", params=[*LOCAL, *REMOTE])
def start(request: pytest.FixtureRequest) -> Start:
    """Return what starts an engine and waits until it is ready."""
    name: str = request.param
    folder, url = Path(), ""
    if name == "openvino":
        folder = request.getfixturevalue("tiny_artefact")(Scheme.INT8).folder
    elif name == "transformers":
        folder = request.getfixturevalue("tiny_checkpoint")
    elif name == "openai":
        url = request.getfixturevalue("served")
    elif name == "ollama":
        url = request.getfixturevalue("simulated")
    model = MODEL if name == "openai" else "tiny"
    options = EngineOptions(model_dir=folder, model_name=model, url=url, context_tokens=512, max_running=4)

    async def begin() -> Scoring:
        engine = await open_engine(name, options)
        if hasattr(engine, "ready"):
            await engine.ready()
        return cast("Scoring", engine)

    return begin


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(start: Start) -> AsyncIterator[Scoring]:
    running = await start()
    yield running
    await running.aclose()


def asked(name: str = "a", prompt: Any = PROMPT, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(id=name, prompt=prompt, sampling=replace(GREEDY, **sampling))


async def answer(engine: Engine, request: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(suited(engine, request))]


def suited(engine: Engine, request: GenerationRequest) -> GenerationRequest:
    """Give an engine that takes conversations alone one with as many words as there were tokens."""
    if engine.info.accepts != "messages" or isinstance(request.prompt, Messages):
        return request
    words = " ".join("word" for _ in request.prompt.ids)
    return replace(request, prompt=Messages(messages=(Message(role="user", content=words),) if words else ()))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def tokens_of(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def said(chunks: list[Chunk]) -> tuple[list[int], str]:
    """Return the whole answer; a server elsewhere gives no token ids."""
    return tokens_of(chunks), text_of(chunks)


def num_tokens(chunks: list[Chunk]) -> int:
    """Count the tokens of an answer; a server elsewhere only tells how many there were."""
    usage = chunks[-1].usage
    assert usage is not None
    if told := tokens_of(chunks):
        assert len(told) == usage.completion_tokens
    return usage.completion_tokens


async def quiet(engine: Engine) -> None:
    """Wait until nothing runs or waits."""
    async with asyncio.timeout(10):
        while engine.info.health.running or engine.info.health.waiting:  # noqa: ASYNC110 -- nobody sets an event
            await asyncio.sleep(0.01)


@IN_PROCESS
async def test_it_says_what_it_is(engine: Scoring) -> None:
    info = engine.info
    assert info.model == "tiny"
    assert info.accepts in {"tokens", "messages", "both"}
    assert info.context_tokens == 512
    assert info.model_context_tokens == (0 if info.engine == "fake" else TINY.max_context_tokens)
    assert info.max_running == 4
    assert info.threads >= 1
    assert info.health.state is EngineState.READY
    assert 0.0 <= info.health.kv_used_ratio <= 1.0


async def test_an_answer_streams_and_its_last_chunk_alone_says_why_it_ended(engine: Scoring) -> None:
    chunks = await answer(engine, asked())
    assert len(chunks) > 1
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == len(PROMPT.ids) + (engine.info.accepts == "messages")
    assert num_tokens(chunks) == 12
    assert text_of(chunks)


async def test_it_stops_at_max_tokens_even_at_one(engine: Scoring) -> None:
    chunks = await answer(engine, asked(max_tokens=1))
    assert num_tokens(chunks) == 1
    assert chunks[-1].finish_reason is FinishReason.LENGTH


async def test_it_stops_at_the_end_of_the_context(engine: Scoring) -> None:
    chunks = await answer(engine, asked(prompt=Tokens(ids=PROMPT.ids[:5] * 100), max_tokens=1000))
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert num_tokens(chunks) == 12 - (engine.info.accepts == "messages")


@GIVES_TOKENS
async def test_it_stops_at_the_end_of_text_token_and_does_not_show_it(engine: Scoring) -> None:
    chunks = await answer(engine, asked(logit_bias=((EOS, 100.0),), ignore_eos=False))
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert text_of(chunks) == ""
    assert num_tokens(chunks) <= 1


@GIVES_TOKENS
async def test_it_stops_at_a_stop_string_and_shows_no_part_of_it(engine: Scoring) -> None:
    await stops(engine, include=False)


@IN_PROCESS
async def test_it_shows_the_stop_string_where_that_is_asked_for(engine: Scoring) -> None:
    await stops(engine, include=True)


async def stops(engine: Scoring, *, include: bool) -> None:
    whole = text_of(await answer(engine, asked()))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    end = whole.find(stop) + (len(stop) if include else 0)
    shown = ""
    chunks = []
    async for chunk in engine.generate(asked(stop=("never said", stop), include_stop=include)):
        shown += chunk.text
        assert whole[:end].startswith(shown)
        chunks.append(chunk)
    assert shown == whole[:end]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == num_tokens(chunks) <= 12


async def test_closing_the_iterator_cancels_and_frees_everything(engine: Scoring) -> None:
    stream = engine.generate(suited(engine, asked(max_tokens=480)))
    await anext(stream)
    await anext(stream)
    assert engine.info.health.running + engine.info.health.waiting >= 1
    await stream.aclose()  # type: ignore[attr-defined] # engines give asynchronous generators
    await quiet(engine)
    assert num_tokens(await answer(engine, asked())) == 12


async def test_a_cancelled_task_cancels_its_request(engine: Scoring) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in engine.generate(suited(engine, asked(max_tokens=480))):
            begun.set()

    task = asyncio.ensure_future(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await quiet(engine)


async def test_many_requests_at_once_are_all_answered_also_beyond_what_runs_at_a_time(engine: Scoring) -> None:
    lengths = [1, 3, 5, 7, 9, 11, 13, 15, 17]
    answers = await asyncio.gather(*(answer(engine, asked(str(each), max_tokens=each)) for each in lengths))
    assert [num_tokens(chunks) for chunks in answers] == lengths
    assert all(sum(chunk.finish_reason is not None for chunk in chunks) == 1 for chunks in answers)
    await quiet(engine)


async def test_equal_requests_get_equal_greedy_answers(engine: Scoring) -> None:
    assert said(await answer(engine, asked("a"))) == said(await answer(engine, asked("a")))


@GIVES_TOKENS
async def test_a_seed_repeats_a_drawn_answer(engine: Scoring) -> None:
    drawn = asked(temperature=1.0, top_k=0, top_p=1.0, seed=5)
    assert said(await answer(engine, drawn)) == said(await answer(engine, drawn))


@GIVES_TOKENS
async def test_a_probability_mass_of_nothing_still_keeps_the_best_token(engine: Scoring) -> None:
    drawn = asked(temperature=1.0, top_k=0, top_p=0.0, seed=5)
    assert said(await answer(engine, drawn)) == said(await answer(engine, asked()))


@IN_PROCESS
async def test_log_probabilities_are_those_of_the_chosen_and_the_best(engine: Scoring) -> None:
    chunks = await answer(engine, asked(logprobs=3))
    logprobs = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.token_id for each in logprobs] == tokens_of(chunks)
    for each in logprobs:
        best = [other.logprob for other in each.top]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert each.logprob == pytest.approx(best[0], abs=1e-3)
        assert each.logprob < 0.0


@IN_PROCESS
async def test_a_structured_answer_has_its_form_or_is_refused(engine: Scoring) -> None:
    wanted = asked(structure=Choice(choices=("yes", "no")), ignore_eos=False)
    if engine.info.structure:
        assert text_of(await answer(engine, wanted)) in {"yes", "no"}
    else:
        with pytest.raises(InvalidRequestError):
            await answer(engine, wanted)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (asked(prompt=Tokens(ids=())), InvalidRequestError),
        (asked(prompt=Tokens(ids=(1,) * 512)), PromptTooLongError),
        (asked(prompt=Tokens(ids=(1,) * 5000)), PromptTooLongError),
        (asked(max_tokens=0), InvalidRequestError),
        (asked(max_tokens=-1), InvalidRequestError),
    ],
    ids=["empty prompt", "full context", "over the context", "no tokens", "negative tokens"],
)
async def test_what_cannot_be_answered_is_refused_typed_and_disturbs_nobody(
    engine: Scoring, request_: GenerationRequest, kind: type[InvalidRequestError]
) -> None:
    other = asyncio.ensure_future(answer(engine, asked("other")))
    with pytest.raises(kind) as refused:
        await answer(engine, request_)
    assert refused.value.message
    assert num_tokens(await other) == 12


async def test_messages_are_answered_or_refused_as_info_says(engine: Scoring) -> None:
    wanted = asked(prompt=Messages(messages=(Message(role="user", content="Hello"),)))
    if engine.info.accepts == "tokens":
        with pytest.raises(InvalidRequestError):
            await answer(engine, wanted)
    else:
        assert num_tokens(await answer(engine, wanted)) > 0


@IN_PROCESS
async def test_label_scores_are_probabilities_in_the_order_of_the_prompts(engine: Scoring) -> None:
    prompts = [PROMPT, Tokens(ids=PROMPT.ids[::-1]), PROMPT]
    scores = await engine.score(prompts, [100, 200, 300])
    assert [len(each) for each in scores] == [3, 3, 3]
    for each in scores:
        assert sum(each) == pytest.approx(1.0)
        assert all(0.0 < probability < 1.0 for probability in each)
    assert scores[0] == pytest.approx(scores[2], rel=1e-2)
    assert await engine.score([], [1, 2]) == []


@IN_PROCESS
@pytest.mark.parametrize("labels", [[], [5], [5, 10**6], [5, -1], [5, 5]])
async def test_labels_that_are_not_two_tokens_of_the_vocabulary_are_refused(engine: Scoring, labels: list[int]) -> None:
    with pytest.raises(InvalidRequestError):
        await engine.score([PROMPT], labels)


@IN_PROCESS
async def test_a_prompt_that_is_too_long_cannot_be_scored(engine: Scoring) -> None:
    with pytest.raises(PromptTooLongError):
        await engine.score([Tokens(ids=(1,) * 600)], [1, 2])


async def test_closing_twice_is_once_and_refuses_what_comes_after(start: Start) -> None:
    engine = await start()
    stream = engine.generate(suited(engine, asked(max_tokens=480)))
    await anext(stream)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineUnavailableError):
        async for _ in stream:
            pass
    assert engine.info.health.state is EngineState.CLOSED
    with pytest.raises(EngineUnavailableError):
        await answer(engine, asked())
