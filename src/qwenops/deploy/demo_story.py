"""The demo: the whole way from calls to a classifier that serves, on this machine, in a few minutes.

    for each step of `demo_steps`: show the command ──> child ──> its answer as JSON ──> one line, and the time
    in between: child: qwenops serve ──> ready ──> POST /v1/classify ──> the queue ──> stop

Nothing here prints. What happens is told to an `Audience`, which the command line owns. Everything lies in one folder,
the store, the registry and the review queue too, so nothing of the user's is read or changed and nothing stays behind
elsewhere. Each child dies with this process; the server is asked to stop first.
"""

import asyncio
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qwenops.command import DEVNULL, Spawned, shown, spawn
from qwenops.deploy import demo_steps as steps
from qwenops.deploy.demo_speed import STOP_GRACE_S, last_words, server_environ, wait_ready
from qwenops.deploy.demo_steps import Step
from qwenops.errors import CommandError, DeadlineError, EngineError
from qwenops.serve.runfile import run_folder
from qwenops.text import Report, Text, say

if TYPE_CHECKING:
    import aiohttp

SCHEMA = "qwenops.demo/2"
POLL_S = 0.2
ANSWER_TIMEOUT_S = 120.0
AT_ONCE = 4
_SHARE = re.compile(r"^\s*(\d{1,3})%\s+(\S.*)$")
"""How the command line tells progress through a pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One step that has come to its end."""

    name: str
    title: Text
    typed: str
    """The command, as one types it in the demo's folder."""
    came_out: Text
    took_s: float
    answer: Mapping[str, Any]
    """What the command said of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything that happened."""

    folder: Path
    done: tuple[Done, ...]
    reports: tuple[Path, ...]
    """Pages that need no network: of the evaluation, and of the measurement."""
    took_s: float


class Audience(Protocol):
    """Is told what happens."""

    def begins(self, title: Text, typed: str) -> AbstractContextManager[Report]:
        """Show the command of a step, and then how far it is."""
        ...

    def ends(self, done: Done) -> None:
        """Show what came out, and how long it took."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the story happens."""

    folder: Path
    """Absolute."""
    environ: Mapping[str, str | None]
    """On top of this process's own."""
    audience: Audience
    clock: Callable[[], float] = time.monotonic

    def log(self, name: str) -> Path:
        """Return the file in which a child's remarks are kept."""
        return self.folder / "logs" / f"{name}.log"


def tell_story(folder: Path, environ: Mapping[str, str], language: str, audience: Audience, *, num_calls: int) -> Story:
    """Go the whole way in a new folder.

    Args:
        folder: Where everything goes; it must not exist, or be empty.
        environ: Of this process; nothing of it that is about qwenops reaches the children.
        language: In which children tell what is wrong.
        audience: Is told what happens.
        num_calls: How many calls are made to learn from.

    Raises:
        CommandError: A step failed.
        EngineError: The server ended, or said that it cannot serve.
        DeadlineError: A step took too long.
    """
    stage = set_up(folder, environ, language, audience)
    began_s = stage.clock()
    done = [
        run_step(step, stage)
        for step in (
            *steps.preparing(num_calls),
            steps.baseline(),
            steps.base_model(),
            *steps.learning(),
            *steps.releasing(),
            steps.new_calls(),
        )
    ]
    done += _served(stage)
    return Story(
        folder=stage.folder,
        done=tuple(done),
        reports=reports_of(stage.folder, done),
        took_s=stage.clock() - began_s,
    )


def set_up(folder: Path, environ: Mapping[str, str], language: str, audience: Audience) -> Stage:
    """Make the folder, with a home in which nothing of the user's is seen.

    Raises:
        CommandError: There is something in it already.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise CommandError(
            say("The folder {folder} is not empty.", folder=str(folder)), hint=say("Name a new one with --out.")
        )
    home = folder / "home"
    home.mkdir(parents=True)
    (folder / "logs").mkdir()
    own = server_environ({**environ, "QWENOPS_HOME": str(home)}, home)
    return Stage(folder=folder, environ={**own, "QWENOPS_LANG": language}, audience=audience)


def run_step(step: Step, stage: Stage) -> Done:
    """Run one command to its end and return what came out.

    Raises:
        CommandError: It failed, or did not answer in JSON.
        DeadlineError: It took too long.
    """
    began_s = stage.clock()
    with stage.audience.begins(step.title, step.typed) as report:
        answer = _answer_of(step, stage, report)
    done = Done(
        name=step.name,
        title=step.title,
        typed=step.typed,
        came_out=step.told(answer),
        took_s=stage.clock() - began_s,
        answer=answer,
    )
    stage.audience.ends(done)
    return done


def _answer_of(step: Step, stage: Stage, report: Report) -> Mapping[str, Any]:
    log, out = stage.log(step.name), stage.log(step.name).with_suffix(".json")
    with log.open("wb") as sink, out.open("wb") as data:
        child = spawn(step.argv, env=stage.environ, cwd=stage.folder, stdin=DEVNULL, stdout=data, stderr=sink)
        with child:
            _wait(child, step, stage, report)
            status = child.wait()
    if status != 0:
        said = "\n".join(path.read_text("utf-8", errors="replace") for path in (out, log))
        words = last_words(said)
        raise CommandError(
            say("`{command}` ended with status {status}: {words}", command=step.typed, status=status, words=words),
            hint=say("All that it said is in {path}.", path=str(log)),
            returncode=status,
            stderr=said,
        )
    return last_json(out.read_text("utf-8", errors="replace"))


def _wait(child: Spawned, step: Step, stage: Stage, report: Report) -> None:
    """Wait for the end of a child, telling what it tells; by the clock where it tells nothing.

    Raises:
        DeadlineError: It takes too long; leaving the child's `with` block ends it.
    """
    began_s = stage.clock()
    while child.poll() is None:
        elapsed_s = stage.clock() - began_s
        if elapsed_s > step.timeout_s:
            raise DeadlineError(
                say("`{command}` took longer than {seconds:g} s.", command=step.typed, seconds=step.timeout_s)
            )
        heard = heard_of(stage.log(step.name).read_text("utf-8", errors="replace"))
        report(heard[0] if heard else min(0.95, elapsed_s / step.usual_s), heard[1] if heard else step.title)
        time.sleep(POLL_S)


def heard_of(log: str) -> tuple[float, str] | None:
    """Return the latest share and sentence of a command's progress; None where it has told none."""
    for line in reversed(log.splitlines()):
        if (found := _SHARE.match(line)) is not None:
            return min(1.0, int(found[1]) / 100), found[2]
    return None


def last_json(printed: str) -> Mapping[str, Any]:
    """Return the JSON document that a command printed, or the last of the lines where it printed several.

    Raises:
        CommandError: There is none.
    """
    for text in (printed, *reversed(printed.splitlines())):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise CommandError(say("The command did not answer in JSON."), hint=say("Its answer: {text}", text=printed[-500:]))


def reports_of(folder: Path, done: Sequence[Done]) -> tuple[Path, ...]:
    """Return the pages that steps have written, absolute, in the order of the steps."""
    named = (each.answer.get("report") for each in done)
    return tuple(folder / str(name) for name in named if name)


def _served(stage: Stage) -> list[Done]:
    """Start the server, ask it, classify a file, measure, and stop it."""
    began_s = stage.clock()
    log = stage.log("serve")
    with (
        log.open("wb") as sink,
        spawn(
            steps.serve_argv(), env=stage.environ, cwd=stage.folder, stdin=DEVNULL, stdout=sink, stderr=sink
        ) as server,
    ):
        try:
            with stage.audience.begins(say("Server"), shown(steps.serve_words())) as report:
                url = asyncio.run(_ready(server, stage, log, report))
            typed = shown(steps.serve_words())
            done = [_told(stage, "serve", say("Server"), typed, say("ready at {url}", url=url), began_s)]
            stage.audience.ends(done[0])
            done.append(_asked(url, stage))
            return [*done, *(run_step(step, stage) for step in steps.serving(url))]
        finally:
            server.stop(grace_s=STOP_GRACE_S)


async def _ready(server: Spawned, stage: Stage, log: Path, report: Report) -> str:
    import aiohttp

    folder = run_folder({name: value for name, value in stage.environ.items() if value is not None})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
        return await wait_ready(server, session, folder, log, report)


def _asked(url: str, stage: Stage) -> Done:
    """Ask about new calls over HTTP: all in one request, then one by one with a few callers."""
    calls = read_calls(stage.folder / steps.NEW_FILE, steps.ASKED_CALLS)
    (stage.folder / steps.REQUEST).write_text(json.dumps({"input": calls}, ensure_ascii=False), "utf-8")
    title, typed, began_s = say("Over HTTP"), shown(steps.curl_words(url)), stage.clock()
    with stage.audience.begins(title, typed) as report:
        report(0.0, say("Classifying {count} new calls", count=len(calls)))
        told = asyncio.run(ask(url, calls))
    done = _told(stage, "http", title, typed, _came_out(told), began_s, told)
    stage.audience.ends(done)
    return done


def _told(
    stage: Stage,
    name: str,
    title: Text,
    typed: str,
    came_out: Text,
    began_s: float,
    answer: Mapping[str, Any] | None = None,
) -> Done:
    took_s = stage.clock() - began_s
    return Done(name=name, title=title, typed=typed, came_out=came_out, took_s=took_s, answer=answer or {})


def read_calls(path: Path, most: int) -> list[dict[str, Any]]:
    """Return the first calls of a file, as they can be sent."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(most), lines, strict=False)]


async def ask(url: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ask the server about calls and return what it said, with the time of a single call at the client.

    Raises:
        EngineError: The server refused, or went away.
    """
    import aiohttp

    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
            together = await _post(session, f"{url}/v1/classify", {"input": list(calls)})
            waiting = iter(calls)
            callers = await asyncio.gather(*(_one_by_one(session, url, waiting) for _ in range(AT_ONCE)))
            async with session.get(f"{url}/v1/review") as reply:
                queue = await reply.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineError(say("The server broke off: {why}", why=str(error) or type(error).__name__)) from error
    took_s = [each for caller in callers for each in caller]
    return {"answer": together, "median_s": statistics.median(took_s), "queue": queue}


async def _one_by_one(session: "aiohttp.ClientSession", url: str, waiting: Iterator[Mapping[str, Any]]) -> list[float]:
    """Ask about calls that no other caller has taken; return how long each answer took."""
    took_s = []
    for call in waiting:
        began_s = time.monotonic()
        await _post(session, f"{url}/v1/classify", {"input": call, "review": False})
        took_s.append(time.monotonic() - began_s)
    return took_s


async def _post(session: "aiohttp.ClientSession", url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    async with session.post(url, json=body) as reply:
        if not reply.ok:
            raise EngineError(say("The server refused: {why}", why=(await reply.text())[:500]))
        answer: dict[str, Any] = await reply.json()
        return answer


def _came_out(told: Mapping[str, Any]) -> Text:
    results = told["answer"]["results"]
    filed = sum(each["decision"] != "review" for each in results)
    return say(
        "{count} calls: {filed} filed, {review} for a person; {waiting} wait in the queue; one call takes {ms:.0f} ms",
        count=len(results),
        filed=filed,
        review=len(results) - filed,
        waiting=told["queue"]["open"],
        ms=1000 * told["median_s"],
    )
