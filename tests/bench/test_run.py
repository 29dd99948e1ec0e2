"""A run from its beginning to its folder."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from qwenops.bench.clock import Clock, RealClock
from qwenops.bench.collect.collector import Listen
from qwenops.bench.conclusion import EXIT_INVALID, EXIT_MISSED, Conclusion, Finding, Outcome, conclusion_of
from qwenops.bench.folder import read_manifest, read_run
from qwenops.bench.manifest import options_of
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, Phase
from qwenops.bench.run import Opening, Run, Snapshot, add_findings, begin, finish
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.bench.simulated.options import Simulated, SimulatedOptions
from qwenops.bench.workload import cache_sentence
from qwenops.errors import EngineError
from qwenops.text import say
from tests.bench.driving import Asks, S, target_of
from tests.bench.sitting import Sitting

SERVER = SimulatedOptions(service="fixed", service_s=0.5, contention=0.0, coherence=0.0, slots=64)
MILLION = 1_000_000
CLOSED = Segment(name="users=2", load=ClosedLoop(users=2), duration_s=10.0)
OPEN = Segment(name="load", load=OpenLoop(offsets_ns=tuple(range(0, 20 * S, S))), duration_s=20.0)


@asynccontextmanager
async def begun(folder: Path, verb: str = "load", **more: Any) -> AsyncIterator[Run]:
    """Begin a run against a simulated server, in virtual time unless a clock says otherwise."""
    clock: Clock = more.pop("clock", None) or VirtualClock()
    target = target_of(SimulatedEngine(Simulated(server=SERVER), clock=clock))
    options = more.pop("options", BenchOptions(folder=folder))
    opening = more.pop("opening", Opening(calibrate_s=0))
    async with begin(
        verb, {"": target}, options, clock=clock, workload=more.pop("workload", Asks()), opening=opening, **more
    ) as started:
        yield started


def done(outcome: Outcome = Outcome.DONE) -> Conclusion:
    return Conclusion(outcome=outcome, sentences=(say("It is done."),))


@pytest.mark.parametrize("cache", ["warm", "cold", "bust"])
def test_every_result_says_what_a_prefix_cache_could_find(
    tmp_path: Path, cache: Literal["warm", "cold", "bust"]
) -> None:
    async def main(conclusion: Conclusion) -> tuple[Conclusion, Conclusion]:
        async with begun(tmp_path, options=BenchOptions(folder=tmp_path, cache=cache)) as started:
            told = finish(started, conclusion)
            return told, conclusion_of(read_run(started.folder.path).summary)

    for told in run(main(done())):
        assert [each for each in told.sentences if str(each).startswith(f"Prefix cache: {cache};")]
        assert told.data["cache"] == cache
    once = replace(done(), sentences=(cache_sentence(cache),))
    assert [str(each) for each in run(main(once))[0].sentences].count(str(cache_sentence(cache))) == 1
    own = replace(done(), data={"cache": {"first": "warm", "second": "bust"}})
    assert not any("Prefix cache" in each for each in run(main(own))[0].sentences)


def test_what_is_driven_is_what_the_folder_holds(tmp_path: Path) -> None:
    async def main() -> tuple[Path, list[Driven]]:
        async with begun(tmp_path) as started:
            drivens = [
                await started.drive(Segment(name="warm-up", load=ClosedLoop(users=1, requests=2), phase=Phase.WARMUP)),
                await started.drive(OPEN),
                await started.drive(CLOSED),
            ]
            finish(started, done())
            return started.folder.path, drivens

    path, drivens = run(main())
    found = read_run(path)
    assert [list(each.records) for each in found.drivens] == [list(each.records) for each in drivens]
    assert [replace(each, records=()) for each in found.drivens] == [replace(each, records=()) for each in drivens]
    indices = [record.index for each in drivens for record in each.records]
    assert indices == list(range(len(indices)))
    assert [record.item for record in drivens[0].records] == ["item--1", "item--2"]
    assert [record.item for record in drivens[1].records] == [f"item-{number}" for number in range(20)]
    assert found.manifest["state"] == "done"
    assert found.manifest["validity"]["verdict"] == "VALID"
    assert found.manifest["hashes"]["prompts"] != "0" * 16
    assert conclusion_of(found.summary).sentences == (say("It is done."), cache_sentence("warm"))


def test_no_segment_asks_again_what_its_target_was_asked_before(tmp_path: Path) -> None:
    warming = Segment(name="warm-up", load=ClosedLoop(users=2, requests=2), phase=Phase.WARMUP)

    async def main() -> list[Driven]:
        async with begun(tmp_path) as started:
            started.targets = {**started.targets, "other": started.targets[""]}
            parts = (warming, CLOSED, OPEN, warming, replace(CLOSED, first_item=7), OPEN)
            return [*[await started.drive(each) for each in parts], await started.drive(OPEN, "other")]

    drivens = run(main())
    items = [[int(record.item.removeprefix("item-")) for record in each.records] for each in drivens]
    assert items == [
        [-1, -2],  # the items that only warm up are others
        list(range(40)),
        list(range(MILLION, MILLION + 20)),
        [-1 - MILLION, -2 - MILLION],
        list(range(7, 47)),  # as told
        list(range(3 * MILLION, 3 * MILLION + 20)),
        list(range(20)),  # of another target, which knows nothing yet
    ]


def test_the_manifest_says_what_was_measured_how_and_where(tmp_path: Path) -> None:
    options = BenchOptions(folder=tmp_path, rate=0.25, duration_s=90.0, thinking=True, seed=7)

    async def main() -> Path:
        opening = Opening(calibrate_s=0, command=("qwenops", "bench", "load", "simulated:"))
        async with begun(tmp_path, options=options, opening=opening) as started:
            assert read_manifest(started.folder.path)["state"] == "running"
            return started.folder.path

    path = run(main())
    manifest = read_manifest(path)
    assert path.name == "20260101-000000-load"
    assert (manifest["schema"], manifest["verb"], manifest["seed"]) == ("qwenops.run/1", "load", 7)
    assert manifest["command"] == ["qwenops", "bench", "load", "simulated:"]
    assert options_of(manifest) == options
    assert manifest["targets"][""]["engine"]["engine"] == "simulated"
    assert manifest["workload"] == {"name": "asks", "kind": "asks"}
    assert manifest["machine"]["usable_cores"] >= 1
    assert len(manifest["machine"]["fingerprint"]) == 16
    assert manifest["versions"]["qwenops"]
    assert manifest["began"] == "2026-01-01T00:00:00.000+00:00"
    assert manifest["state"] == "unfinished"


def test_equal_runs_have_equal_hashes_and_folders_of_their_own(tmp_path: Path) -> None:
    async def main(segment: Segment) -> Path:
        async with begun(tmp_path) as started:
            await started.drive(segment)
            finish(started, done())
            return started.folder.path

    first, second = (run(main(OPEN)) for _ in range(2))
    other = run(main(replace(OPEN, first_item=5)))
    later = run(main(replace(OPEN, load=OpenLoop(offsets_ns=tuple(range(1, 20 * S, S))))))
    assert len({first, second, other, later}) == 4
    hashes = [read_manifest(path)["hashes"] for path in (first, second, other, later)]
    assert hashes[0] == hashes[1]
    assert hashes[0]["prompts"] != hashes[2]["prompts"]
    assert hashes[0]["schedule"] == hashes[2]["schedule"]
    assert hashes[0]["schedule"] != hashes[3]["schedule"]


def test_records_can_be_told_one_by_one_instead_of_kept(tmp_path: Path) -> None:
    async def main() -> tuple[Driven, list[int]]:
        told: list[int] = []
        async with begun(tmp_path) as started:
            driven = await started.drive(CLOSED, each=lambda record: told.append(record.index))
        return driven, told

    driven, told = run(main())
    assert driven.records == ()
    assert sorted(told) == list(range(40))


def test_a_stopped_run_says_so_and_drives_no_more(tmp_path: Path) -> None:
    async def main() -> tuple[Path, Conclusion, Driven]:
        async with begun(tmp_path) as started:
            asyncio.get_running_loop().call_later(5.25, started.stop.set)
            await started.drive(OPEN)
            skipped = await started.drive(CLOSED)
            return started.folder.path, finish(started, done()), skipped

    path, conclusion, skipped = run(main())
    assert "stopped after 5.5 s" in conclusion.sentences[0]
    assert (skipped.records, skipped.window_ns, skipped.interrupted) == ((), 0, True)
    found = read_run(path)
    assert (found.manifest["state"], found.summary["state"]) == ("interrupted", "interrupted")
    (driven,) = found.drivens
    assert (len(driven.records), driven.interrupted) == (6, True)
    assert driven.window_ns == 5_250_000_000


def test_an_error_ends_the_run_and_leaves_a_readable_folder(tmp_path: Path) -> None:
    class Broken(Asks):
        def ask(self, index: int) -> Any:
            if index == 5:
                raise EngineError(say("No more questions."))
            return super().ask(index)

    async def main() -> None:
        async with begun(tmp_path / "runs", workload=Broken()) as started:
            await started.drive(OPEN)

    with pytest.raises(EngineError):
        run(main())
    (path,) = (tmp_path / "runs").iterdir()
    found = read_run(path)
    assert (found.manifest["state"], found.manifest["error"]) == ("failed", "EngineError: No more questions.")
    assert [record.index for record in found.drivens[0].records] == [0, 1, 2, 3, 4]


class Counting:
    """A collector that takes a sample every second."""

    journal = "host"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @asynccontextmanager
    async def watching(self, origin_ns: int, listen: Listen) -> AsyncIterator[None]:
        async def sample() -> None:
            while True:
                listen({"at_ns": self.clock.now_ns() - origin_ns, "cpu_cores": 0.5})
                await self.clock.sleep_until_ns(self.clock.now_ns() + S)

        task = asyncio.get_running_loop().create_task(sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


def test_samples_are_kept_and_the_listener_is_told(tmp_path: Path) -> None:
    seen: list[Snapshot] = []

    async def main() -> Path:
        clock = VirtualClock()
        async with begun(tmp_path, clock=clock, listen=seen.append, collectors=[Counting(clock)]) as started:
            started.expected_s = 30.0
            await started.drive(OPEN)
            await started.drive(CLOSED)
            return started.folder.path

    found = read_run(run(main()))
    assert [sample["at_ns"] // S for sample in found.host] == list(range(len(found.host)))
    assert len(found.host) >= 30
    middle = next(each for each in seen if each.segment == "load" and each.segment_elapsed_s >= 10)
    assert (middle.verb, middle.expected_s, middle.segment_expected_s) == ("load", 30.0, 20.0)
    assert middle.target_rate == 1.0
    assert middle.achieved_rate == pytest.approx(1.0, rel=0.1)
    assert middle.recent_ttft_s[-1] == pytest.approx(0.1)
    assert middle.recent_e2e_s[-1] == pytest.approx(0.5)
    assert middle.host["cpu_cores"] == 0.5
    last = seen[-1]
    assert (last.users, last.target_rate, last.segment) == (2, None, "users=2")
    assert last.done > 30


def test_an_invalid_client_is_told_first_and_leaves_no_verdict(tmp_path: Path) -> None:
    async def main(verb: str, outcome: Outcome) -> Conclusion:
        async with begun(tmp_path, verb) as started:
            await started.drive(replace(OPEN, max_in_flight=0))
            return finish(started, replace(done(), outcome=outcome))

    conclusion = run(main("load", Outcome.DONE))
    assert conclusion.sentences[0] == "This measurement is INVALID."
    assert "0.0 % were sent" in conclusion.sentences[1]
    assert (conclusion.outcome, conclusion.exit_code) == (Outcome.DONE, 0)
    for verb, outcome in (("slo", Outcome.PASS), ("compare", Outcome.IMPROVED), ("soak", Outcome.STABLE)):
        judged = run(main(verb, outcome))
        assert (judged.outcome, judged.exit_code) == (Outcome.INVALID, EXIT_INVALID)
        assert f"So there is no verdict; it would have been {outcome.value.upper()}." in judged.sentences


def test_an_objective_that_an_invalid_client_missed_is_not_missed(tmp_path: Path) -> None:
    async def main() -> Conclusion:
        async with begun(tmp_path) as started:
            await started.drive(replace(OPEN, max_in_flight=0))
            return finish(started, replace(done(), exit_code=EXIT_MISSED))

    conclusion = run(main())
    assert (conclusion.outcome, conclusion.exit_code) == (Outcome.DONE, EXIT_INVALID)
    assert "So it does not show that the objective is missed." in conclusion.sentences


def test_what_is_dropped_by_design_makes_no_run_invalid(tmp_path: Path) -> None:
    async def main() -> tuple[Driven, Conclusion]:
        async with begun(tmp_path) as started:
            driven = await started.drive(replace(OPEN, max_in_flight=0), overload=True)
            return driven, finish(started, done())

    driven, conclusion = run(main())
    assert driven.dropped == 20
    assert conclusion.sentences == (say("It is done."), cache_sentence("warm"))


@pytest.mark.slow
async def test_in_real_time_the_client_is_calibrated_and_watched(tmp_path: Path) -> None:
    segment = Segment(name="users=2", load=ClosedLoop(users=2), duration_s=1.0)
    async with begun(tmp_path, clock=RealClock(), opening=Opening(calibrate_s=0.3)) as started:
        await started.drive(segment)
        conclusion = finish(started, done())
    figures: Mapping[str, float] = read_manifest(started.folder.path)["validity"]["figures"]
    assert {"bias_ttft_s", "cost_per_chunk_s", "loop_lag_p99_s", "client_cpu_share"} <= figures.keys()
    assert "The client itself adds about" in conclusion.sentences[-1]


LIMITED = """
import json, resource, sys
from tests.bench.sitting import Sitting
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
Sitting(**json.loads(sys.argv[1])).run()
"""


@pytest.mark.slow
def test_a_run_whose_disk_is_full_stops_with_the_error_and_can_be_continued(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow, in a process of its own."""
    sitting = Sitting(
        verb="load",
        target="simulated:?virtual=1",
        folder=str(tmp_path / "run"),
        options={"rate": 1.0, "duration_s": 1200.0},
        virtual=True,
    )
    python, _, _, given = sitting.argv()
    ended = subprocess.run(
        [python, "-c", LIMITED, given], cwd=Path(__file__).parents[2], capture_output=True, timeout=90, check=False
    )
    assert ended.returncode == 1
    assert b"InsufficientDiskError: The disk under" in ended.stderr
    found = read_run(tmp_path / "run")
    assert found.manifest["state"] == "failed"
    assert found.manifest["error"].startswith("InsufficientDiskError")
    assert 100 < len(found.drivens[1].records) < 1100
    replace(sitting, resumed=True).run()
    assert read_manifest(tmp_path / "run")["state"] == "done"


def test_the_last_request_has_as_much_time_as_the_first(tmp_path: Path) -> None:
    """Three minutes for an answer are within the time-out of five, whether it was asked at once or at the end."""

    async def main() -> list[Failure | None]:
        slow = SimulatedOptions(service="fixed", service_s=180.0, contention=0.0, coherence=0.0, slots=64)
        target = target_of(SimulatedEngine(Simulated(server=slow), clock=VirtualClock()))
        options, opening = BenchOptions(folder=tmp_path), Opening(calibrate_s=0)
        async with begin("load", {"": target}, options, clock=VirtualClock(), workload=Asks(), opening=opening) as run:
            return [record.failure for record in (await run.drive(OPEN)).records]

    assert run(main()) == [None] * 20


def test_what_is_found_afterwards_joins_a_result_that_is_kept_already(tmp_path: Path) -> None:
    async def main() -> tuple[Path, Conclusion]:
        async with begun(tmp_path) as started:
            await started.drive(CLOSED)
            finished = finish(started, done())
            assert conclusion_of(read_run(started.folder.path).summary) == finished
            return started.folder.path, add_findings(started, finished, [Finding(text=say("It was seen."))], seen=1)

    path, conclusion = run(main())
    assert conclusion_of(read_run(path).summary) == conclusion
    assert conclusion.findings[-1].text == "It was seen."
    assert conclusion.data["seen"] == 1


async def test_a_run_that_is_stopped_while_the_client_measures_itself_says_so(tmp_path: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    began_s = time.monotonic()
    opening = Opening(calibrate_s=30.0, stop=stop)
    async with begun(tmp_path, clock=RealClock(), opening=opening) as started:
        assert time.monotonic() - began_s < 20
        assert started.interrupted
        assert (await started.drive(CLOSED)).records == ()
        finish(started, done())
        path = started.folder.path
    assert read_manifest(path)["state"] == "interrupted"


async def test_a_run_that_is_cut_while_the_client_measures_itself_is_not_left_running(tmp_path: Path) -> None:
    async def opened() -> None:
        async with begun(tmp_path, clock=RealClock(), opening=Opening(calibrate_s=30.0)):
            raise AssertionError("the client measures itself for longer")

    task = asyncio.get_running_loop().create_task(opened())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (folder,) = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    assert read_manifest(folder)["state"] == "interrupted"
