"""A run that is killed and continued: nothing is lost, nothing is there twice, and the gap is marked."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.folder import read_lines, read_manifest, read_records, read_run
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, Phase
from qwenops.bench.run import Opening, begin
from qwenops.bench.segment import OpenLoop
from qwenops.bench.simulated import loop
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import serve_simulated
from qwenops.bench.targets import open_target
from qwenops.bench.validity import Validity, Verdict, validity_data, validity_of
from qwenops.errors import InvalidRunError, RunFolderError
from qwenops.generation import Chunk, GenerationRequest
from qwenops.text import say
from tests.bench.driving import S
from tests.bench.sitting import Sitting

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90.0
SERVER = SimulatedOptions(service="fixed", service_s=0.4, first_share=0.5, slots=16, contention=0.0, coherence=0.0)


async def killed_after(sitting: Sitting, lines: int) -> bytes:
    """Start a sitting, kill it when the journal has so many lines, and return what was written by then."""
    return await asyncio.to_thread(kill_after, sitting, lines)


def kill_after(sitting: Sitting, lines: int) -> bytes:
    journal = Path(sitting.folder) / "requests.jsonl"
    until_s = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(sitting.argv(), cwd=ROOT) as process:
        while process.poll() is None and count_lines(journal) < lines:
            if time.monotonic() > until_s:
                process.kill()
                pytest.fail("it wrote nothing")
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    return journal.read_bytes() if journal.exists() else b""


async def ended(sitting: Sitting) -> None:
    process = await asyncio.create_subprocess_exec(*sitting.argv(), cwd=ROOT)
    async with asyncio.timeout(TIMEOUT_S):
        assert await process.wait() == 0


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def whole_lines(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"rate": 12.0, "duration_s": 5.0, "warmup": 2}, {"users": 4, "requests": 60}])
async def test_killed_twice_and_continued_in_real_time(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    async with serve_simulated(ServerModel(SERVER)) as url:
        first = Sitting(verb="load", target=url, folder=str(folder), options={"max_tokens": 4, **options})
        again = replace(first, resumed=True)
        before = await killed_after(first, 10)
        after = await killed_after(again, 30)
        assert after.startswith(whole_lines(before))
        await ended(again)
        journal = (folder / "requests.jsonl").read_bytes()
        assert journal.startswith(whole_lines(after))

    found = read_run(folder)
    indices = [record.index for driven in found.drivens for record in driven.records]
    assert indices == list(range(len(indices)))
    assert {record.failure for driven in found.drivens for record in driven.records} == {None}
    assert not any(driven.interrupted for driven in found.drivens)
    measured = next(driven for driven in found.drivens if driven.segment.phase is Phase.MEASURE)
    wanted = len(measured.segment.load.offsets_ns) if isinstance(measured.segment.load, OpenLoop) else 60
    assert len(measured.records) == wanted
    assert [gap.lost_s > 0.1 for gap in found.gaps] == [True, True]
    assert found.gaps[0].at_ns < found.gaps[1].at_ns
    # The run's own time has no holes: nothing takes longer than it would have without the gaps.
    assert max(record.ended_ns or 0 for record in measured.records) < measured.began_ns + 12 * S
    assert found.manifest["state"] == "done"
    assert len(found.manifest["sittings"]) == 2
    assert found.summary["outcome"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_what_is_in_flight_when_the_window_has_closed_is_asked_again(tmp_path: Path, how: signal.Signals) -> None:
    """Four callers whose answers take ever longer: it ends after the window, with some answered and some not."""
    folder = tmp_path / "run"
    server = SimulatedOptions(service="exponential", service_s=1.5, first_share=0.5, slots=4, contention=0.0, seed=3)
    async with serve_simulated(ServerModel(server)) as url:
        options = {"max_tokens": 4, "users": 4, "duration_s": 4.0, "warmup": 0, "sample_every_s": 0.1}
        first = Sitting(verb="load", target=url, folder=str(folder), options=options)
        answered = await asyncio.to_thread(end_in_the_drain, first, how)
        await ended(replace(first, resumed=True))
    found = read_run(folder)
    (driven,) = found.drivens
    positions = sorted(record.index for record in driven.records)
    assert positions == list(range(len(positions)))
    # Who was stopped waits a moment for what is in flight; who is killed does not.
    assert answered <= len(positions) <= answered + 4
    assert how is signal.SIGINT or answered < len(positions)
    assert {record.failure for record in driven.records} == {None}
    assert (found.manifest["state"], driven.interrupted) == ("done", False)


def end_in_the_drain(sitting: Sitting, how: signal.Signals) -> int:
    """End it when its window is over and an answer has come after that; return how many were answered."""
    folder, until_s = Path(sitting.folder), time.monotonic() + TIMEOUT_S
    with subprocess.Popen(sitting.argv(), cwd=ROOT) as process:
        while process.poll() is None and not late_answers(folder):
            if time.monotonic() > until_s:
                process.kill()
                pytest.fail("no answer came after the window")
            time.sleep(0.002)
        process.send_signal(how)
        process.wait(TIMEOUT_S)
    return sum(record.failure is None for record in read_records(folder))


def late_answers(folder: Path) -> int:
    if not (folder / "requests.jsonl").exists():
        return 0
    return sum((record.ended_ns or 0) > 4.3 * S for record in read_records(folder))


QUICK = SimulatedOptions(service="fixed", service_s=0.03, first_share=0.5, slots=4, contention=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "options", "lines"),
    [
        ("slo", {"slo": "ttft p50 < 1s", "rate": 10.0, "duration_s": 6.0}, 20),
        ("stress", {"max_tokens": 4}, 100),
        ("compare", {}, 30),
    ],
)
async def test_longer_commands_that_are_killed_go_on_where_they_were(
    tmp_path: Path, verb: str, options: dict[str, Any], lines: int
) -> None:
    """A judgement, a ladder and a comparison: each request has one record, and the verdict comes from all of them."""
    folder = tmp_path / "run"
    models = [ServerModel(QUICK), ServerModel(replace(QUICK, seed=2))]
    async with serve_simulated(models[0]) as url, serve_simulated(models[1]) as other:
        first = Sitting(verb=verb, target=url, folder=str(folder), options={"max_tokens": 4, **options})
        first.other = other if verb == "compare" else ""
        before = await killed_after(first, lines)
        await ended(replace(first, resumed=True))
    journal = (folder / "requests.jsonl").read_bytes()
    assert journal.startswith(whole_lines(before))
    found = read_run(folder)
    indices = [record.index for driven in found.drivens for record in driven.records]
    assert len(set(indices)) == len(indices)
    assert len(indices) == journal.count(b"\n")
    assert not any(driven.interrupted for driven in found.drivens)
    assert (found.manifest["state"], len(found.gaps)) == ("done", 1)
    # What the server did and no record tells of was in flight when the client was killed.
    done = sum(len(model.truths) for model in models)
    assert len(indices) <= done <= len(indices) + 64
    assert found.summary["verb"] == verb
    assert found.summary["outcome"] in {"pass", "done", "equivalent", "inconclusive", "improved", "regressed"}


FORGETS = "simulated:?virtual=1&answer_spread=0.5&leak_bytes_per_h=1000000&stall_ratio=0.1"
REMEMBERS = FORGETS + "&cache_tokens=9000"
SLOW = FORGETS + "&prefill_tokens_per_s=200"
SLO = "ttft p90 < 3s"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sitting", "lines", "kept"),
    [
        (Sitting(verb="soak", target=REMEMBERS, folder="", options={"duration_s": 600.0, "users": 3}), (200,), 0),
        (Sitting(verb="soak", target=FORGETS, folder="", options={"duration_s": 1200.0, "users": 3}), (300,), 6),
        (Sitting(verb="soak", target=FORGETS, folder="", options={"duration_s": 5e3, "rate": 0.1}), (200, 350), 300),
        (Sitting(verb="load", target=FORGETS, folder="", options={"rate": 0.3, "duration_s": 2e3}), (1, 200, 2), 150),
        (Sitting(verb="load", target=FORGETS, folder="", options={"users": 1, "duration_s": 900.0}), (100,), 100),
        (Sitting(verb="latency", target=FORGETS, folder="", options={"requests": 40}), (50,), 50),
        (Sitting(verb="slo", target=FORGETS, folder="", options={"slo": SLO}), (200,), 20),
        (Sitting(verb="stress", target=FORGETS, folder="", options={"max_tokens": 8}), (80,), 20),
        (Sitting(verb="compare", target=FORGETS, other=SLOW, folder="", options={}), (40,), 40),
    ],
    ids=lambda given: given.verb if isinstance(given, Sitting) else None,
)
def test_killed_and_continued_in_virtual_time_equals_a_run_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sitting: Sitting, lines: tuple[int, ...], kept: int
) -> None:
    """Requests that were over when nothing was in flight are not sent again; all others are, at their own time."""
    quiet = replace(sitting, folder=str(tmp_path / "quiet"), virtual=True)
    disturbed = replace(quiet, folder=str(tmp_path / "disturbed"))
    asked: list[str] = []
    generate = SimulatedEngine.generate

    def counted(engine: SimulatedEngine, request: GenerationRequest) -> AsyncIterator[Chunk]:
        asked.append(request.id)
        return generate(engine, request)

    monkeypatch.setattr(SimulatedEngine, "generate", counted)
    quiet.run()
    whole = sorted(asked)
    for number, each in enumerate(lines):
        kill_after(replace(disturbed, resumed=number > 0), each)
        assert read_manifest(Path(disturbed.folder))["state"] == "running"
    before = (Path(disturbed.folder) / "requests.jsonl").read_bytes().splitlines()
    asked.clear()
    replace(disturbed, resumed=True).run()
    assert contents(disturbed.folder) == contents(quiet.folder)
    assert comparable(disturbed.folder) == comparable(quiet.folder)
    again = len(asked)
    assert set(asked) < set(whole) if kept else sorted(asked) == whole
    assert len(whole) - again >= kept
    assert len(before) >= len(whole) - again
    journal = (Path(disturbed.folder) / "requests.jsonl").read_bytes().splitlines()
    sent_again = {int(name.rpartition("-")[2]) for name in asked}
    assert [line for line in journal if json.loads(line)["index"] not in sent_again] == journal[: len(whole) - again]


@pytest.mark.parametrize(
    ("target", "said"), [(REMEMBERS, "remembers what came before"), (FORGETS, "nothing was in flight")]
)
def test_a_run_in_virtual_time_says_from_where_it_is_continued(tmp_path: Path, target: str, said: str) -> None:
    sitting = Sitting(verb="load", target=target, folder=str(tmp_path / "run"), virtual=True)
    sitting.options = {"rate": 0.2, "duration_s": 60.0}

    async def notes() -> list[str]:
        options = BenchOptions(folder=tmp_path, **sitting.options)
        targets = {"": await open_target(target, options, model="simulated")}
        opening = Opening(resume_from=Path(sitting.folder))
        async with begin("load", targets, options, opening=opening) as run:
            return [str(run.continued)]

    sitting.run()
    drop_lines(Path(sitting.folder) / "segments.jsonl", 1)
    drop_lines(Path(sitting.folder) / "requests.jsonl", 3)
    (note,) = loop.run(notes())
    assert said in note


def drop_lines(path: Path, number: int) -> None:
    """Leave a journal as if its writer had been killed before the last lines."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-number]))


def contents(folder: str) -> dict[str, bytes]:
    """Return every file but the manifest."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "manifest.json"}


def comparable(folder: str) -> Mapping[str, Any]:
    """Return the manifest without how much memory the machine had free."""
    manifest = read_manifest(Path(folder))
    machine = {name: value for name, value in manifest["machine"].items() if "available" not in name}
    del machine["memory_limit_bytes"]
    return {**manifest, "machine": machine}


def virtual(folder: Path, **options: Any) -> Sitting:
    given = {"rate": 2.0, "duration_s": 20.0, **options}
    return Sitting(verb="load", target="simulated:?virtual=1", folder=str(folder), options=given, virtual=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rate": 3.0}, "rate"), ({"max_tokens": 9}, "max_tokens"), ({"seed": 9}, "seed"), ({"cache": "bust"}, "cache")],
)
def test_a_run_is_not_continued_as_another_one(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    virtual(tmp_path / "run").run()
    with pytest.raises(RunFolderError, match=f"has another {said}") as caught:
        replace(virtual(tmp_path / "run", **change), resumed=True).run()
    assert "begun with" in caught.value.hint
    other = replace(virtual(tmp_path / "run"), resumed=True, target="simulated:?virtual=1&slots=9")
    with pytest.raises(RunFolderError, match="has another targets"):
        other.run()
    with pytest.raises(RunFolderError, match="has another verb"):
        replace(virtual(tmp_path / "run"), resumed=True, verb="soak").run()


def test_a_run_of_another_machine_is_not_continued(tmp_path: Path) -> None:
    virtual(tmp_path / "run").run()
    manifest = read_manifest(tmp_path / "run")
    manifest["machine"]["fingerprint"] = "0" * 16
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match="measured on another machine"):
        replace(virtual(tmp_path / "run"), resumed=True).run()


@pytest.mark.slow
async def test_a_run_that_was_over_is_answered_from_its_journal(tmp_path: Path) -> None:
    """Continuing what has ended sends nothing and says the same."""
    model = ServerModel(SERVER)
    async with serve_simulated(model) as url:
        sitting = Sitting(
            verb="load", target=url, folder=str(tmp_path / "run"), options={"users": 2, "requests": 6, "max_tokens": 4}
        )
        first = await sitting.sit()
        asked = len(model.truths)
        second = await replace(sitting, resumed=True).sit()
    assert len(model.truths) == asked
    assert second.data == first.data
    assert len(list(read_lines(tmp_path / "run", "segments"))) == 5


@pytest.mark.slow
async def test_a_stopped_run_is_continued_with_what_was_given_up(tmp_path: Path) -> None:
    """Ctrl-C leaves interrupted requests; continued, each is sent again and counts once."""
    async with serve_simulated(ServerModel(replace(SERVER, service_s=3.5))) as url:
        sitting = Sitting(
            verb="load",
            target=url,
            folder=str(tmp_path / "run"),
            options={"rate": 12.0, "duration_s": 2.0, "warmup": 0, "max_tokens": 4},
        )
        process = await asyncio.create_subprocess_exec(*stopping_argv(sitting), cwd=ROOT)
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.wait() == 0
        partial = read_run(tmp_path / "run")
        gone = [record for record in partial.drivens[0].records if record.failure is Failure.INTERRUPTED]
        assert gone
        assert (partial.manifest["state"], partial.drivens[0].interrupted) == ("interrupted", True)
        assert "stopped after" in json.dumps(partial.summary["sentences"])
        await ended(replace(sitting, resumed=True))
    whole = read_run(tmp_path / "run")
    assert {record.failure for record in whole.drivens[0].records} == {None}
    load = whole.drivens[0].segment.load
    assert isinstance(load, OpenLoop)
    assert [record.index for record in whole.drivens[0].records] == list(range(len(load.offsets_ns)))
    assert whole.manifest["state"] == "done"


def stopping_argv(sitting: Sitting) -> list[str]:
    """Return a command that sets the run's stop after a second."""
    python, _, _, given = sitting.argv()
    code = (
        "import asyncio, json, sys\n"
        "from tests.bench.sitting import Sitting\n"
        "class Stopped(Sitting):\n"
        "    async def _act(self, run):\n"
        "        asyncio.get_running_loop().call_later(1.0, run.stop.set)\n"
        "        return await super()._act(run)\n"
        "Stopped(**json.loads(sys.argv[1])).run()\n"
    )
    return [python, "-c", code, given]


async def twice(folder: Path, change: Callable[[dict[str, Any]], None]) -> Mapping[str, Any]:
    """Make a run, change its manifest as if its sitting had ended so, continue it, and return the new manifest."""
    async with serve_simulated(ServerModel(replace(SERVER, service_s=0.01))) as url:
        options = {"users": 1, "requests": 3, "warmup": 0, "max_tokens": 4}
        sitting = Sitting(verb="load", target=url, folder=str(folder), options=options)
        await sitting.sit()
        manifest = read_manifest(folder)
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        await replace(sitting, resumed=True).sit()
    return read_manifest(folder)


async def test_a_run_is_no_better_than_the_worst_of_its_sittings(tmp_path: Path) -> None:
    busy = say("The client used {share:.0f} % of this machine's CPU time.", share=45.0)

    def disturbed(manifest: dict[str, Any]) -> None:
        found = Validity(verdict=Verdict.INVALID, reasons=(busy,), figures={"client_cpu_share": 0.9})
        manifest["validity"] = validity_data(found)

    found = validity_of((await twice(tmp_path / "run", disturbed))["validity"])
    assert found.verdict is Verdict.INVALID
    assert busy in found.reasons
    assert found.figures["client_cpu_share"] == 0.9
    assert validity_of(read_run(tmp_path / "run").summary["validity"]).verdict is Verdict.INVALID


async def test_a_sitting_that_took_its_evidence_with_it_is_not_taken_for_valid(tmp_path: Path) -> None:
    def killed(manifest: dict[str, Any]) -> None:
        del manifest["validity"]
        manifest["state"] = "running"

    found = validity_of((await twice(tmp_path / "run", killed))["validity"])
    assert found.verdict is not Verdict.VALID
    assert "cut off once" in " ".join(found.reasons)


async def test_in_real_time_a_part_that_lost_records_is_not_continued(tmp_path: Path) -> None:
    def cut(_manifest: dict[str, Any]) -> None:
        drop_lines(tmp_path / "run" / "requests.jsonl", 1)

    with pytest.raises(InvalidRunError, match="2 of the 3 requests"):
        await twice(tmp_path / "run", cut)
