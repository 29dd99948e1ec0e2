"""The demo of speed: a real server, started as anyone would start it, answers real requests over HTTP and is measured.

    weights, int8 ──> child: qwenops serve ──> wait until ready ──> three prompts ──> six calls at once
                                                                           stop <── four callers, measured by bench

Nothing here prints. What happens is told to an `Audience`, which the command line owns. The clock stands around the
chunks that arrive over HTTP, so the first token's time is what a client would see.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qwenops.bench.conclusion import Conclusion
from qwenops.bench.options import BenchOptions
from qwenops.command import DEVNULL, Spawned, spawn
from qwenops.errors import DeadlineError, EngineError, QwenOpsError
from qwenops.serve.runfile import run_folder, running
from qwenops.text import Report, Text, say

if TYPE_CHECKING:
    import aiohttp

PROMPTS = ("你好，请介绍一下你自己。", "请解释一下人工智能的基本概念。", "写一个简单的 Python 函数来计算阶乘。")
"""The quick test of the user's design."""
INSTRUCTIONS = {
    "zh": "请用一句话概括下面这通客服电话，并给出投诉类别：账单、网络、物流、服务、其他、不是投诉。",
    "en": "Summarise this customer call in one line and name its complaint category: "
    "billing, network, delivery, service, other, or no complaint.",
}
SPEAKERS = {"zh": {"agent": "客服", "customer": "客户"}, "en": {"agent": "Agent", "customer": "Customer"}}

MAX_TOKENS = 64
START_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 300.0
STOP_GRACE_S = 20.0
POLL_S = 0.2
LOAD_USERS = 4
LOAD_S = 10.0
CALIBRATE_S = 1.0
TAIL_LINES = 5
ERROR_MARKS = ("Error: ", "错误：")
"""How the command line begins its last message, in either language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request of the demo."""

    name: Text
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, measured at the client."""

    question: Question
    text: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    """From sending the request to its first token."""
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first, by the time after the first; 0 for an answer of one token."""
        after_s = self.total_s - self.ttft_s
        return (self.completion_tokens - 1) / after_s if self.completion_tokens > 1 and after_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that the demo measured."""

    answers: tuple[Answer, ...]
    load_s: float
    calls_s: float
    """How long the calls took, which were asked all at once."""
    calls_tokens_per_s: float
    api_memory_bytes: int
    engine_memory_bytes: int
    model: Mapping[str, Any]
    """What the server says about its model."""
    load: Conclusion
    """Of the load that ended it."""
    report: Path
    """The page of that load."""


class Audience(Protocol):
    """Is told what happens."""

    def progress(self) -> contextlib.AbstractContextManager[Report]:
        """Show how far one step is."""
        ...

    def started(self, url: str, load_s: float) -> None:
        """Take note that the server is ready."""
        ...

    def piece(self, question: Question, text: str) -> None:
        """Show a piece of the one answer that is streamed visibly; an empty one begins it."""
        ...


def questions() -> tuple[list[Question], list[Question]]:
    """Return the three prompts, and the calls with their instruction."""
    prompts = [
        Question(name=say("Prompt {number}", number=number), messages=({"role": "user", "content": prompt},))
        for number, prompt in enumerate(PROMPTS, 1)
    ]
    calls: list[Question] = []
    for line in files("qwenops.deploy").joinpath("demo_calls.jsonl").read_text("utf-8").splitlines():
        call = json.loads(line)
        speakers = SPEAKERS[call["language"]]
        transcript = "\n".join(f"{speakers[role]}: {text}" for role, text in call["turns"])
        content = f"{INSTRUCTIONS[call['language']]}\n\n{transcript}"
        name = say("Call {number} ({language})", number=len(calls) + 1, language=call["language"])
        calls.append(Question(name=name, messages=({"role": "user", "content": content},)))
    return prompts, calls


def server_argv(model: str, *, engine: str, scheme: str) -> list[str]:
    """Return the command line of the server: loopback, a free port, no log files."""
    return [
        *(sys.executable, "-m", "qwenops", "-q", "serve", model),
        *("--engine", engine, "--scheme", scheme),
        *("--host", "127.0.0.1", "--port", "0", "--log-destination", "off", "--log-level", "warning"),
    ]


def server_environ(environ: Mapping[str, str], folder: Path) -> dict[str, str | None]:
    """Return what makes a server its starter's alone: nothing of the user's file, variables or keys reaches it.

    Args:
        environ: The environment that the server would inherit.
        folder: Where its own, empty configuration and keys lie.

    Returns:
        Variables to set; None takes one away. The store of models stays the user's.
    """
    (folder / "empty.toml").touch()
    taken = {name: None for name in environ if name.startswith("QWENOPS_") and name != "QWENOPS_HOME"}
    kept = {name: environ[name] for name in ("QWENOPS_HOME",) if name in environ}
    own = {
        "QWENOPS_CONFIG": str(folder / "empty.toml"),
        "QWENOPS_SERVE_KEYS_DATABASE": str(folder / "keys.sqlite"),
        "QWENOPS_SERVE_DRAIN_DELAY_S": "0",
    }
    return {**taken, **kept, **own}


async def show_serving(
    argv: Sequence[str], environ: Mapping[str, str | None], log: Path, audience: Audience, load: BenchOptions
) -> Outcome:
    """Start the server, ask it everything, stop it, and return what was measured.

    Args:
        argv: The server's command line.
        environ: What is set on top of this process's environment; see `server_environ`.
        log: Where what it prints is kept; its end is in the error when it fails.
        audience: Is told what happens.
        load: How it is measured in the end; see `load_options`.

    Raises:
        EngineError: The server ended, or said that it cannot serve.
        DeadlineError: It was not ready, or did not answer, in time.
    """
    with log.open("wb") as sink, spawn(argv, env=environ, stdin=DEVNULL, stdout=sink, stderr=sink) as server:
        try:
            folder = run_folder({name: value for name, value in environ.items() if value is not None})
            return await _ask_everything(server, folder, log, audience, load)
        finally:
            await asyncio.to_thread(server.stop, grace_s=STOP_GRACE_S)


async def _ask_everything(
    server: Spawned, run_files: Path, log: Path, audience: Audience, load: BenchOptions
) -> Outcome:
    import aiohttp

    began_s = time.monotonic()
    prompts, calls = questions()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
        with audience.progress() as report:
            url = await wait_ready(server, session, run_files, log, report)
        load_s = time.monotonic() - began_s
        audience.started(url, load_s)
        streamed = [await _answer(session, url, prompts[0], lambda text: audience.piece(prompts[0], text))]
        with audience.progress() as report:
            for number, question in enumerate(prompts[1:], 1):
                report(
                    number / len(prompts),
                    say("Answering prompt {number} of {all}", number=number + 1, all=len(prompts)),
                )
                streamed.append(await _answer(session, url, question))
        began_s = time.monotonic()
        with audience.progress() as report:
            together = await _answer_all(session, url, calls, report)
        calls_s = time.monotonic() - began_s
        api_bytes, engine_bytes = memory_of(server.pid)
        async with session.get(f"{url}/api/v1/model") as reply:
            model = await reply.json() if reply.ok else {}
    with audience.progress() as report:
        conclusion, page = await _measure(url, load, report)
    return Outcome(
        answers=(*streamed, *together),
        load_s=load_s,
        calls_s=calls_s,
        calls_tokens_per_s=sum(each.completion_tokens for each in together) / calls_s,
        api_memory_bytes=api_bytes,
        engine_memory_bytes=engine_bytes,
        model=model,
        load=conclusion,
        report=page,
    )


def load_options(options: BenchOptions) -> BenchOptions:
    """Return how the demo is measured: four callers for ten seconds; the user's folder and duration hold."""
    return BenchOptions(
        users=LOAD_USERS,
        duration_s=options.duration_s or LOAD_S,
        prompt_tokens=256,
        max_tokens=32,
        folder=options.folder,
    )


async def _measure(url: str, options: BenchOptions, report: Report) -> tuple[Conclusion, Path]:
    """Load the server as `qwenops bench load` does, and write the page."""
    from qwenops.bench.clock import RealClock
    from qwenops.bench.collect.host import HostWatch
    from qwenops.bench.load import load
    from qwenops.bench.report.write import write_report
    from qwenops.bench.resume import Opening
    from qwenops.bench.run import Snapshot, begin, finish
    from qwenops.bench.targets import open_target

    doing = say("Measuring: {users} callers for {seconds:g} s", users=options.users, seconds=options.duration_s)
    report(0.0, doing)

    def listen(snapshot: Snapshot) -> None:
        report(min(snapshot.elapsed_s / (snapshot.expected_s or 1.0), 1.0), doing)

    clock = RealClock()
    target = await open_target(url, options)
    try:
        collectors = (HostWatch(target.process_ids, clock),)
        opening = Opening(calibrate_s=CALIBRATE_S)
        async with begin(
            "load", {"": target}, options, clock=clock, listen=listen, collectors=collectors, opening=opening
        ) as run:
            conclusion = finish(run, await load(run))
        return conclusion, await asyncio.to_thread(write_report, run.folder.path)
    finally:
        await target.engine.aclose()


async def wait_ready(
    server: Spawned, session: "aiohttp.ClientSession", run_files: Path, log: Path, report: Report
) -> str:
    """Return the server's address once it is ready."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    report(0.0, say("Starting the server"))
    url = ""
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            raise _ended(server, log)
        url = url or next((run.url for run in running(run_files) if run.pid == server.pid), "")
        if url and await _is_ready(session, url, report):
            return url
        await asyncio.sleep(POLL_S)
    raise DeadlineError(say("The server was not ready after {seconds:g} s.", seconds=START_TIMEOUT_S))


def _ended(server: Spawned, log: Path) -> EngineError:
    words = last_words(log.read_text("utf-8", errors="replace"))
    return EngineError(
        say("The server ended with status {status}: {words}", status=server.poll(), words=words),
        hint=say("`qwenops doctor` says whether this machine can serve."),
    )


async def _is_ready(session: "aiohttp.ClientSession", url: str, report: Report) -> bool:
    import aiohttp

    with contextlib.suppress(aiohttp.ClientConnectionError):
        async with session.get(f"{url}/startupz") as reply:
            told = await reply.json()
        if told.get("state") == "failed":
            async with session.get(f"{url}/readyz") as reply:
                reasons = (await reply.json()).get("reasons", [])
            raise EngineError(say("The server cannot serve: {why}", why="; ".join(reasons)))
        report(float(told.get("progress", 1.0)), say("Loading the model"))
        async with session.get(f"{url}/readyz") as reply:
            return reply.ok
    return False


async def _answer_all(
    session: "aiohttp.ClientSession", url: str, asked: Sequence[Question], report: Report
) -> list[Answer]:
    """Ask everything at once; what was asked ends with the first that fails."""
    text = say("Answering {all} calls at once", all=len(asked))
    report(0.0, text)
    done = 0
    total = len(asked) * MAX_TOKENS

    def count(piece: str) -> None:
        nonlocal done
        done += bool(piece)
        report(min(done / total, 1.0), text)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer(session, url, question, count)) for question in asked]
    except* QwenOpsError as failed:
        raise _first(failed) from None
    return [task.result() for task in tasks]


def _first(failed: BaseExceptionGroup[QwenOpsError]) -> QwenOpsError:
    """Return one of the errors; the others followed from it."""
    error = failed.exceptions[0]
    return error if isinstance(error, QwenOpsError) else _first(error)


async def _answer(
    session: "aiohttp.ClientSession", url: str, question: Question, on_text: Callable[[str], None] | None = None
) -> Answer:
    body = {
        "messages": list(question.messages),
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces: list[str] = []
    usage: Mapping[str, int] = {}
    first_s: float | None = None
    if on_text:
        on_text("")
    began_s = time.monotonic()
    async for event in _events(session, f"{url}/v1/chat/completions", body):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            delta = choice["delta"]
            if "content" in delta and not (delta.get("role") and not delta["content"]):
                first_s = first_s or time.monotonic()
                pieces.append(delta["content"] or "")
                if on_text and pieces[-1]:
                    on_text(pieces[-1])
    ended_s = time.monotonic()
    return Answer(
        question=question,
        text="".join(pieces),
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        ttft_s=(first_s or ended_s) - began_s,
        total_s=ended_s - began_s,
    )


async def _events(session: "aiohttp.ClientSession", url: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of one streamed answer.

    Raises:
        EngineError: The server refused, or ended the stream with an error.
    """
    import aiohttp

    try:
        async with session.post(url, json=body) as reply:
            if not reply.ok:
                raise EngineError(say("The server refused: {why}", why=(await reply.text())[:500]))
            async for raw in reply.content:
                line = raw.decode("utf-8").strip()
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event: dict[str, Any] = json.loads(data)
                if "error" in event:
                    raise EngineError(say("The answer broke off: {why}", why=event["error"].get("message", "")))
                yield event
            raise EngineError(say("The answer broke off: {why}", why=say("the stream ended too early")))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineError(say("The answer broke off: {why}", why=str(error) or type(error).__name__)) from error


def memory_of(pid: int) -> tuple[int, int]:
    """Return the resident memory of the API process and of the processes that it started, in bytes."""
    import psutil

    try:
        api = psutil.Process(pid)
        others = sum(child.memory_info().rss for child in api.children(recursive=True))
        return api.memory_info().rss, others
    except psutil.Error as error:
        raise QwenOpsError(say("The server's memory cannot be read: {why}.", why=error)) from error


def last_words(printed: str) -> str:
    """Return why a server ended: its final error and hint, without the log before it."""
    lines = printed.strip().splitlines()
    final = max((number for number, line in enumerate(lines) if line.startswith(ERROR_MARKS)), default=-TAIL_LINES)
    return " ".join(line.strip() for line in lines[final:]).strip()
