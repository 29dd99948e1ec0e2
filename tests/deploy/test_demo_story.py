"""The demo's course: a step's answer, its failure and its end, a home of its own, and what is asked over HTTP."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from qwenops.deploy import demo_story
from qwenops.deploy.demo_steps import Step
from qwenops.deploy.demo_story import (
    Done,
    Stage,
    ask,
    heard_of,
    last_json,
    read_calls,
    reports_of,
    run_step,
    set_up,
)
from qwenops.errors import CommandError, DeadlineError, EngineError
from qwenops.text import Report, Text, say


@dataclass
class Listening:
    """Keeps what it is told."""

    typed: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @contextmanager
    def begins(self, title: Text, typed: str) -> Iterator[Report]:
        del title
        self.typed.append(typed)
        yield lambda _fraction, doing: self.heard.append(doing)

    def ends(self, done: Done) -> None:
        self.done.append(done)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return set_up(tmp_path / "demo", {"QWENOPS_API_KEYS": "qo-secret", "LANG": "C.UTF-8"}, "en", Listening())


def step(code: str, *, timeout_s: float = 60.0) -> Step:
    return Step(
        name="one",
        title=say("One"),
        words=("python", "-c", code),
        told=lambda told: say("{count} of them", count=told["count"]),
        usual_s=1.0,
        timeout_s=timeout_s,
    )


def listening(stage: Stage) -> Listening:
    assert isinstance(stage.audience, Listening)
    return stage.audience


def test_a_step_is_shown_told_and_timed(stage: Stage) -> None:
    done = run_step(step("print('{\"count\": 3}')"), stage)
    assert done.came_out == "3 of them"
    assert done.took_s > 0
    assert listening(stage).done == [done]
    assert listening(stage).typed == [done.typed]
    assert done.typed.startswith("python -c ")


def test_a_step_runs_in_the_demos_folder_with_a_home_of_its_own(stage: Stage) -> None:
    code = "import json, os; print(json.dumps({'count': 0, 'cwd': os.getcwd(), 'env': dict(os.environ)}))"
    answer = run_step(step(code), stage).answer
    assert Path(answer["cwd"]) == stage.folder.resolve()
    assert Path(answer["env"]["QWENOPS_HOME"]) == stage.folder / "home"
    assert "QWENOPS_API_KEYS" not in answer["env"]
    assert Path(answer["env"]["QWENOPS_CONFIG"]).read_text() == ""


def test_a_step_that_fails_is_quoted_and_its_log_is_kept(stage: Stage) -> None:
    code = "import sys; print('INFO busy', file=sys.stderr); print('Error: No room.', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandError, match="status 3: Error: No room") as caught:
        run_step(step(code), stage)
    assert caught.value.returncode == 3
    assert "INFO busy" in stage.log("one").read_text()
    assert not listening(stage).done


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(stage: Stage) -> None:
    inner = "import time; time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {inner!r}]); time.sleep(60)"
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    with pytest.raises(DeadlineError, match="longer than"):
        run_step(step(code, timeout_s=1.0), stage)
    left = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive


def test_a_step_that_answers_nothing_readable_is_an_error(stage: Stage) -> None:
    with pytest.raises(CommandError, match="JSON"):
        run_step(step("print('fine')"), stage)


def test_what_a_step_tells_is_passed_on_while_it_runs(stage: Stage) -> None:
    telling = "print('  40%  Reading', file=sys.stderr, flush=True)"
    code = f"import sys, time; {telling}; time.sleep(1.5); print('{{\"count\": 1}}')"
    run_step(step(code), stage)
    assert "Reading" in listening(stage).heard


def test_progress_is_read_from_the_last_line_that_tells_any() -> None:
    assert heard_of("  0%  One\n 41%  Two of 3\nnothing\n") == (0.41, "Two of 3")
    assert heard_of("100%  下载完成\n") == (1.0, "下载完成")
    assert heard_of("a remark\n") is None


def test_the_last_document_counts() -> None:
    assert last_json('{"a": 1}\n{"a": 2}\n') == {"a": 2}
    assert last_json('{\n  "a": {\n    "b": 1\n  }\n}\n') == {"a": {"b": 1}}


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CommandError, match="not empty"):
        set_up(tmp_path, {}, "en", Listening())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_both_reports_are_named_in_the_order_of_the_steps(tmp_path: Path) -> None:
    def done(name: str, **answer: str) -> Done:
        return Done(name=name, title=say("x"), typed="x", came_out=say("x"), took_s=0.0, answer=answer)

    steps = [done("evaluate", report="/run/report.html"), done("x"), done("bench", report="b/r.html")]
    found = reports_of(tmp_path, steps)
    assert found == (Path("/run/report.html"), tmp_path / "b/r.html")


@asynccontextmanager
async def classifying(status: int = 200) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Serve the two routes, keeping what was asked."""
    asked: list[dict[str, Any]] = []

    async def classify(request: web.Request) -> web.Response:
        asked.append(await request.json())
        given = asked[-1]["input"]
        decisions = ["auto", "review", "parent"]
        calls = given if isinstance(given, list) else [given]
        results = [{"decision": decisions[place % 3]} for place, _ in enumerate(calls)]
        return web.json_response({"results": results}, status=status)

    async def queue(_request: web.Request) -> web.Response:
        return web.json_response({"open": 2})

    app = web.Application()
    app.router.add_post("/v1/classify", classify)
    app.router.add_get("/v1/review", queue)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


async def test_new_calls_are_asked_about_together_and_then_each_once() -> None:
    calls = [{"conversation_id": str(number)} for number in range(6)]
    began_s = time.monotonic()
    async with classifying() as (url, asked):
        told = await ask(url, calls)
    assert asked[0]["input"] == calls
    assert sorted(each["input"]["conversation_id"] for each in asked[1:]) == list("012345")
    assert all(each["review"] is False for each in asked[1:])
    assert 0 < told["median_s"] <= time.monotonic() - began_s
    came_out = demo_story._came_out(told)
    assert "6 calls: 4 filed, 2 for a person; 2 wait" in came_out


async def test_a_server_that_refuses_is_a_typed_error() -> None:
    async with classifying(status=503) as (url, _):
        with pytest.raises(EngineError, match="refused"):
            await ask(url, [{}])
    with pytest.raises(EngineError, match="broke off"):
        await ask(url, [{}])


def test_as_many_calls_are_read_as_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps({"n": number}) + "\n" for number in range(5)))
    assert read_calls(path, 3) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len(read_calls(path, 9)) == 5
