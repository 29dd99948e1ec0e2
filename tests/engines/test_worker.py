import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineState
from qwenops.engines.worker import RestartPolicy, WorkerEngine
from qwenops.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import FinishReason, GenerationRequest, Messages, SamplingParams, Tokens
from qwenops.text import Text
from tests.engines.steppers import Deed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # every test starts a process
QUICK = RestartPolicy(first_delay_s=0.01, limit=3)

Opener = Callable[..., WorkerEngine]


@pytest.fixture(autouse=True)
def _the_child_finds_the_test_steppers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No descriptor and no child, living or dead, outlives a test."""
    before = open_files()
    children = child_pids()
    yield
    assert open_files() == before
    assert child_pids() == children


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- the kernel's list


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def child_pids() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    engines: list[WorkerEngine] = []

    def make(*, policy: RestartPolicy = QUICK, **options: Any) -> WorkerEngine:
        given = replace(EngineOptions(stall_timeout_s=30.0), **options)
        engine = WorkerEngine("tests.engines.steppers:open_counting", given, name="counting", policy=policy)
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        await engine.aclose()


def request(name: str = "a", *, deed: Deed = Deed.ANSWER, max_tokens: int = 5, prompt: int = 3) -> GenerationRequest:
    return GenerationRequest(
        id=name, prompt=Tokens(ids=(deed,) * prompt), sampling=SamplingParams(max_tokens=max_tokens)
    )


async def read(engine: WorkerEngine, wanted: GenerationRequest) -> str:
    return "".join([chunk.text async for chunk in engine.generate(wanted)])


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def test_answers_stream_from_another_process(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    chunks = [chunk async for chunk in engine.generate(request())]
    assert "".join(chunk.text for chunk in chunks) == "1 2 3 4 5 "
    assert [each for chunk in chunks for each in chunk.token_ids] == [1, 2, 3, 4, 5]
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert engine.pid not in {0, os.getpid()}


async def test_many_answers_at_once_stay_apart(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    lengths = range(1, 40)
    answers = await asyncio.gather(*(read(engine, request(str(size), max_tokens=size)) for size in lengths))
    assert answers == ["".join(f"{k + 1} " for k in range(size)) for size in lengths]


async def test_it_says_what_it_is_and_how_it_is(opened: Opener) -> None:
    engine = opened(model_name="loads slowly", context_tokens=64)
    assert engine.info.health.state is EngineState.STARTING
    assert (engine.info.engine, engine.info.model, engine.info.context_tokens) == ("counting", "loads slowly", 64)
    with pytest.raises(EngineUnavailableError, match="starting") as refused:
        await read(engine, request())
    assert refused.value.retry_after_s
    await until(lambda: engine.info.health.load_progress == 0.75)
    assert engine.info.health.reason == "Warming up."
    assert isinstance(engine.info.health.reason, Text)  # so that it can be said in another language
    await engine.ready()
    info = engine.info
    assert (info.context_tokens, info.max_running, info.health.load_progress) == (100_000, 7, 1.0)
    assert info.load_s > 0.5
    assert info.health.memory_bytes > 1_000_000
    assert info.health.reason == ""


async def test_leaving_an_answer_cancels_it_in_the_child(opened: Opener) -> None:
    engine = opened(model_name="slow")
    await engine.ready()
    answer = engine.generate(request(max_tokens=10_000))
    async with contextlib.aclosing(answer):  # type: ignore[type-var] # it is an asynchronous generator
        assert (await anext(answer)).text == "1 "
        other = engine.generate(request("b", max_tokens=10_000))
        await anext(other)
        assert engine.info.health.running == 2
    assert engine.info.health.running == 1
    await until(lambda: engine._stats["running"] == 1)
    await other.aclose()  # type: ignore[attr-defined] # it is an asynchronous generator
    assert await read(engine, request(max_tokens=2)) == "1 2 "
    await until(lambda: engine._stats["running"] == 0)
    steps = engine.info.health.preemptions
    await asyncio.sleep(0.1)
    assert engine.info.health.preemptions == steps


async def test_the_same_id_may_come_again_after_a_cancel(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    for _ in range(20):
        answer = engine.generate(request("same", max_tokens=100_000))
        assert (await anext(answer)).text.startswith("1 ")
        await answer.aclose()  # type: ignore[attr-defined] # it is an asynchronous generator
    assert await read(engine, request("same")) == "1 2 3 4 5 "


async def test_a_reader_who_does_not_read_holds_up_nobody_and_its_answer_waits_merged(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    lazy = engine.generate(request("lazy", max_tokens=20_000))
    text = (await anext(lazy)).text
    assert await read(engine, request("b")) == "1 2 3 4 5 "
    (answer,) = engine._answers.values()
    await until(lambda: not engine._answers)
    assert len(answer.pieces) <= 65
    rest = [chunk async for chunk in lazy]
    assert len(rest) == 1
    assert text + rest[0].text == "".join(f"{k + 1} " for k in range(20_000))
    assert rest[0].usage is not None


async def test_refusals_are_typed_and_concern_one_request_only(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    with pytest.raises(PromptTooLongError) as refused:
        await read(engine, request(prompt=50_001))
    assert isinstance(refused.value.message, Text)
    with pytest.raises(InvalidRequestError, match="tokens, not messages"):
        await read(engine, GenerationRequest(id="m", prompt=Messages(messages=())))
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        await read(engine, replace(request(), model="unexpected"))
    good = asyncio.ensure_future(read(engine, request("good", max_tokens=2000)))
    with pytest.raises(InvalidRequestError, match="This one only"):
        await read(engine, request("bad", deed=Deed.FAIL_ONE, max_tokens=2000))
    assert (await good).endswith("2000 ")
    assert engine.info.health.restarts == 0


async def test_scores_come_in_the_order_of_the_prompts_however_many_there_are(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    prompts = [Tokens(ids=(0,) * size) for size in (1500, 1, 600, 2, 3000, 5)]
    scores, text = await asyncio.gather(engine.score(prompts, [10, 20]), read(engine, request()))
    assert scores == [(len(prompt.ids) + 10, len(prompt.ids) + 20) for prompt in prompts]
    assert text == "1 2 3 4 5 "
    with pytest.raises(InvalidRequestError, match="Too few"):
        await engine.score(prompts, [1])
    with pytest.raises(EngineCrashedError):
        await engine.score([Tokens(ids=(Deed.KILL_ITSELF,))], [1, 2])


async def test_scoring_that_takes_longer_than_a_freeze_is_none_and_answers_stream_meanwhile(opened: Opener) -> None:
    engine = opened(model_name="slow", stall_timeout_s=1.0)
    await engine.ready()
    scoring = asyncio.ensure_future(engine.score([Tokens(ids=(0,))] * 120, [10, 20]))  # 2.4 s in one call
    await until(lambda: engine._stats.get("running") == 1)
    assert await read(engine, request()) == "1 2 3 4 5 "
    assert not scoring.done()
    assert len(await scoring) == 120
    assert engine.info.health.restarts == 0


async def test_leaving_scores_cancels_them_in_the_child(opened: Opener) -> None:
    engine = opened(model_name="slow")
    await engine.ready()
    scoring = asyncio.ensure_future(engine.score([Tokens(ids=(0,))] * 2000, [10, 20]))
    await until(lambda: engine._stats.get("running") == 1)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    await until(lambda: engine._stats["running"] == 0)
    assert not engine._scores
    assert await read(engine, request(max_tokens=2)) == "1 2 "


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (Deed.KILL_ITSELF, "ended by SIGKILL"),
        (Deed.SEGFAULT, "ended by SIGSEGV"),
        (Deed.EXIT, "ended with status 3: the disk is on fire"),
        (Deed.RAISE, "ZeroDivisionError: nobody expected this"),
        (Deed.SEND_GARBAGE, "no message"),
        (Deed.SPEAK_WRONGLY, "message"),
        (Deed.RUN_OUT_OF_MEMORY, "ran out of memory"),
    ],
)
async def test_a_dead_engine_fails_all_its_requests_typed_and_comes_back_by_itself(
    opened: Opener, deed: Deed, words: str
) -> None:
    engine = opened(policy=replace(QUICK, first_delay_s=0.3), model_name="slow")
    await engine.ready()
    pid = engine.pid
    wanted = [request("a", max_tokens=1000), request("b", max_tokens=1000), request("c", deed=deed, max_tokens=1000)]
    results = await asyncio.gather(*(read(engine, each) for each in wanted), return_exceptions=True)
    for result in results:
        assert isinstance(result, EngineCrashedError)
        assert words in str(result)
        assert result.hint
    assert len({id(result) for result in results}) == 3
    assert engine.info.health.state is EngineState.RESTARTING
    assert words in engine.info.health.reason
    with pytest.raises(EngineUnavailableError):
        await read(engine, request())
    await engine.ready()
    assert engine.info.health.restarts == 1
    assert await read(engine, request()) == "1 2 3 4 5 "
    assert engine.pid != pid


async def test_the_log_names_what_failed_with_an_engine_and_says_when_it_is_back(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opened(model_name="slow")
    await engine.ready()
    caplog.set_level(logging.INFO, logger="qwenops.engines.worker")
    wanted = [request("call-17", max_tokens=1000), request("b:2", deed=Deed.KILL_ITSELF, max_tokens=1000)]
    await asyncio.gather(*(read(engine, each) for each in wanted), return_exceptions=True)
    await engine.ready()
    records = [record for record in caplog.records if record.name == "qwenops.engines.worker"]
    said = [record.getMessage() for record in records]
    assert said[:2] == [
        "The engine's process is gone: The engine's process was ended by SIGKILL.",
        "requests that failed with it: call-17, b:2",
    ]
    assert re.fullmatch(r"engine ready again after \d+\.\d s", said[2])
    assert [record.levelno for record in records] == [logging.ERROR, logging.ERROR, logging.INFO]


async def test_a_request_during_a_restart_is_told_how_long_the_last_load_took(opened: Opener) -> None:
    engine = opened(policy=replace(QUICK, first_delay_s=5.0))
    await engine.ready()
    engine._info = replace(engine._info, load_s=41.5)
    with pytest.raises(EngineCrashedError):
        await read(engine, request(deed=Deed.KILL_ITSELF))
    with pytest.raises(EngineUnavailableError) as refused:
        await read(engine, request())
    assert refused.value.retry_after_s == 42.0


async def test_the_last_words_of_a_segfault_say_where_it_was(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    with pytest.raises(EngineCrashedError) as crash:
        await read(engine, request(deed=Deed.SEGFAULT))
    cause = crash.value.__notes__[0]
    assert "Segmentation fault" in cause
    assert "steppers.py" in cause


async def test_what_arrived_before_a_crash_is_read_before_the_error(opened: Opener) -> None:
    engine = opened(model_name="slow")
    await engine.ready()
    answer = engine.generate(request(deed=Deed.KILL_ITSELF))
    text = (await anext(answer)).text
    await until(lambda: engine.info.health.state is not EngineState.READY)
    text += (await anext(answer)).text
    assert text == "1 2 "
    with pytest.raises(EngineCrashedError):
        await anext(answer)


async def test_a_frozen_engine_is_noticed_stopped_and_started_again(opened: Opener) -> None:
    engine = opened(stall_timeout_s=1.0)
    await engine.ready()
    started_s = time.monotonic()
    with pytest.raises(EngineCrashedError, match=r"no progress for 1 s after step 2") as stuck:
        await read(engine, request(deed=Deed.FREEZE))
    assert 1.0 <= time.monotonic() - started_s < 4.0
    assert "in do" in stuck.value.__notes__[0]
    await engine.ready()
    assert await read(engine, request()) == "1 2 3 4 5 "


async def test_an_engine_that_is_stopped_while_it_is_idle_is_noticed_too(opened: Opener) -> None:
    engine = opened(stall_timeout_s=1.0)
    await engine.ready()
    os.kill(engine.pid, signal.SIGSTOP)
    await until(lambda: engine.info.health.restarts == 1)
    await engine.ready()
    assert await read(engine, request()) == "1 2 3 4 5 "


async def test_a_pause_of_this_process_is_not_taken_for_a_freeze_of_the_other(opened: Opener) -> None:
    engine = opened(stall_timeout_s=1.0, model_name="slow")
    await engine.ready()
    answer = asyncio.ensure_future(read(engine, request(max_tokens=150)))
    await asyncio.sleep(0.2)
    time.sleep(2.0)  # noqa: ASYNC251 -- that is the pause
    assert (await answer).endswith("150 ")
    assert engine.info.health.restarts == 0


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("fails", ModelLoadError, "x.bin is damaged"),
        ("raises", ModelLoadError, "ZeroDivisionError: at load"),
        ("needs memory", InsufficientMemoryError, "Too big"),
        ("dies", EngineCrashedError, "SIGSEGV"),
        ("never loads", DeadlineError, "longer than 1 s"),
    ],
)
async def test_a_load_that_fails_says_why_and_is_final(
    opened: Opener, name: str, kind: type[QwenOpsError], words: str
) -> None:
    engine = opened(model_name=name, load_timeout_s=1.0)
    with pytest.raises(kind, match=words):
        await engine.ready()
    health = engine.info.health
    assert health.state is EngineState.FAILED
    assert words in health.reason
    with pytest.raises(EngineUnavailableError, match=words):
        await read(engine, request())
    with pytest.raises(kind):
        await engine.ready()


async def test_a_stepper_that_does_not_exist_is_a_load_failure() -> None:
    engine = WorkerEngine("qwenops.nowhere:open_nothing", EngineOptions(), name="x")
    engine.start()
    with pytest.raises(ModelLoadError, match="nowhere"):
        await engine.ready()
    await engine.aclose()


async def test_too_many_deaths_in_a_row_are_final(opened: Opener) -> None:
    engine = opened(policy=replace(QUICK, limit=2))
    for _ in range(3):
        await engine.ready()
        with pytest.raises(EngineCrashedError):
            await read(engine, request(deed=Deed.KILL_ITSELF))
    with pytest.raises(EngineCrashedError):
        await engine.ready()
    assert engine.info.health.state is EngineState.FAILED
    assert engine.info.health.restarts == 2


async def test_a_load_failure_at_a_restart_is_tried_again(opened: Opener, tmp_path: Path) -> None:
    engine = opened(model_name="dies once", model_dir=tmp_path)
    await engine.ready()
    with pytest.raises(EngineCrashedError):
        await read(engine, request(deed=Deed.KILL_ITSELF))
    await until(lambda: engine.info.health.restarts >= 2)
    assert engine.info.health.state is EngineState.RESTARTING
    (tmp_path / "died").unlink()
    await engine.ready()
    assert await read(engine, request()) == "1 2 3 4 5 "


async def test_closing_lets_the_stepper_give_everything_back(opened: Opener, tmp_path: Path) -> None:
    engine = opened(model_dir=tmp_path, model_name="slow")
    await engine.ready()
    answer = asyncio.ensure_future(read(engine, request(max_tokens=100_000)))
    await until(lambda: engine.info.health.running == 1)
    pid = engine.pid
    await asyncio.gather(engine.aclose(), engine.aclose())
    await engine.aclose()
    with pytest.raises(EngineUnavailableError, match="closed"):
        await answer
    assert names(tmp_path) == ["closed"]
    assert str(pid) not in child_pids()
    assert engine.info.health.state is EngineState.CLOSED
    with pytest.raises(EngineUnavailableError):
        await read(engine, request())
    with pytest.raises(EngineUnavailableError):
        await engine.ready()


@pytest.mark.parametrize("name", ["never loads", "loads slowly"])
async def test_closing_while_it_loads_does_not_wait_for_it(opened: Opener, name: str) -> None:
    engine = opened(model_name=name)
    await until(lambda: engine.info.health.load_progress > 0)
    started_s = time.monotonic()
    await engine.aclose()
    assert time.monotonic() - started_s < 0.5


async def test_closing_a_frozen_engine_takes_a_bounded_time(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.engines.worker._CLOSE_GRACE_S", 0.5)
    engine = opened()
    await engine.ready()
    answer = asyncio.ensure_future(read(engine, request(deed=Deed.FREEZE)))
    await asyncio.sleep(0.2)
    started_s = time.monotonic()
    await engine.aclose()
    assert time.monotonic() - started_s < 2.0
    with pytest.raises(EngineUnavailableError):
        await answer


async def test_signals_for_the_whole_group_do_not_end_the_child(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(engine.pid, number)
    assert await read(engine, request()) == "1 2 3 4 5 "
    assert engine.info.health.restarts == 0


async def test_an_idle_engine_costs_no_processor_time(opened: Opener) -> None:
    engine = opened()
    await engine.ready()
    await read(engine, request())

    def ticks() -> int:
        fields = Path(f"/proc/{engine.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    await asyncio.sleep(0.5)
    assert ticks() - before <= 1


PARENT = textwrap.dedent("""
    import asyncio, sys, os
    from qwenops.engines.options import EngineOptions
    from qwenops.engines.worker import WorkerEngine
    from qwenops.generation import GenerationRequest, SamplingParams, Tokens

    async def main():
        engine = WorkerEngine("tests.engines.steppers:open_counting", EngineOptions(), name="x")
        engine.start()
        await engine.ready()
        prompt = Tokens(ids=(int(sys.argv[1]),))
        answer = engine.generate(GenerationRequest(id="a", prompt=prompt, sampling=SamplingParams(max_tokens=100000)))
        await anext(answer)
        await asyncio.sleep(0.2)
        heavy = {"torch", "numpy", "openvino", "transformers", "tokenizers"} & set(sys.modules)
        print(engine.pid, *heavy, flush=True)
        await asyncio.sleep(1000)

    asyncio.run(main())
""")


@pytest.mark.parametrize("deed", [Deed.ANSWER, Deed.FREEZE])
def test_the_child_ends_with_its_parent_and_the_parent_imports_nothing_heavy(deed: Deed) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(int(deed))], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, *heavy = parent.stdout.readline().split()
        assert heavy == []
        parent.kill()
    deadline_s = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


async def test_a_kill_by_the_kernel_for_lack_of_memory_says_so(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([7, 8, 8, 8])
    monkeypatch.setattr("qwenops.engines.worker.count_oom_kills", lambda: next(counts))
    engine = opened()
    await engine.ready()
    with pytest.raises(EngineCrashedError, match="memory limit was reached") as crash:
        await read(engine, request(deed=Deed.KILL_ITSELF))
    assert "max_running" in crash.value.hint
    assert isinstance(crash.value.__cause__, InsufficientMemoryError)
    await engine.ready()
