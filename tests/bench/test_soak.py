"""`bench soak` tells a server that stays what it was from one that leaks or drifts."""

import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.bench.conclusion import EXIT_INCONCLUSIVE, Conclusion, Outcome
from qwenops.bench.folder import read_lines, read_records
from qwenops.bench.objective import parse_slo
from qwenops.bench.options import BenchOptions
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.segment import ClosedLoop, Segment
from qwenops.bench.simulated.engine import open_simulated
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.bench.soak import EXIT_UNSTABLE, soak, summarise_journal
from qwenops.bench.stats import summarise
from qwenops.bench.target import Target
from qwenops.engines.seam import Engine, EngineInfo
from qwenops.errors import OverloadedError
from qwenops.generation import Chunk, GenerationRequest
from tests.bench.records import NS
from tests.bench.test_load import measured

STEADY = "simulated:?prefill_tokens_per_s=2000&decode_tokens_per_s=40"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "outcome", "said"),
    [
        ("", Outcome.STABLE, "STABLE"),
        ("&leak_bytes_per_h=30000000", Outcome.LEAK, "LEAK: Memory of the engine grows by 28.6"),
        ("&drift_per_h=0.5", Outcome.DRIFT, "DRIFT: Time to first token"),
    ],
)
def test_half_an_hour_shows_what_becomes_of_a_server(tmp_path: Path, more: str, outcome: Outcome, said: str) -> None:
    conclusion, found = measured(
        tmp_path, soak, verb="soak", target=STEADY + more, duration_s=1800.0, users=1, prompt_tokens=128
    )
    assert conclusion.outcome is outcome
    assert conclusion.sentences[0].startswith(said)
    assert conclusion.exit_code == (0 if outcome is Outcome.STABLE else EXIT_UNSTABLE)
    assert sum(window["ok"] for window in conclusion.data["windows"]) == len(found.drivens[-1].records)
    assert len(list(read_lines(found.path, "engine"))) > 400
    json.dumps(conclusion.data)


def test_figures_from_the_journal_are_those_of_all_records_at_once(tmp_path: Path) -> None:
    target = f"{STEADY}&fault_ratio=0.1&status=500&answer_spread=0.4"
    _, found = measured(tmp_path, soak, verb="soak", target=target, duration_s=900.0, rate=1.5)
    driven = found.drivens[-1]
    assert len(driven.records) > 1200
    bounds = parse_slo("ttft p95 < 500ms").met
    whole = summarise(driven, bounds=bounds)
    joined, _ = summarise_journal(replace(driven, records=()), read_records(found.path), bounds)
    assert joined.counts == whole.counts
    # Where the ramp ends is seen from the first answers alone.
    assert joined.rates == pytest.approx(whole.rates, rel=1e-3)
    assert (joined.prompt_tokens, joined.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    assert {name: whole.distributions[name] for name in joined.distributions} == joined.distributions
    assert whole.distributions.keys() - joined.distributions.keys() == {"icl", "itl"}


def eight_callers(duration_s: float) -> Segment:
    return Segment(name="soak", load=ClosedLoop(users=8), duration_s=duration_s)


@pytest.mark.slow
def test_the_client_needs_no_more_memory_for_longer(tmp_path: Path) -> None:
    """Three times as many requests leave nothing more behind in memory."""

    async def main(duration_s: float) -> int:
        options = BenchOptions(folder=tmp_path, max_tokens=24)
        async with begin("soak", {"": open_simulated(STEADY)}, options, opening=Opening(calibrate_s=0)) as started:
            await started.drive(eight_callers(30.0), each=lambda _record: None)  # fills what is filled once
            tracemalloc.start()
            driven = await started.drive(eight_callers(duration_s), each=lambda _record: None)
            assert driven.records == ()
            # The simulated server remembers the truth of every request; that is not the client's memory.
            found = tracemalloc.take_snapshot().filter_traces(
                [
                    tracemalloc.Filter(inclusive=True, filename_pattern=f"*/bench/{name}.py")
                    for name in ("run", "drive", "send", "folder", "validity", "manifest", "record")
                ]
            )
            tracemalloc.stop()
            return sum(each.size for each in found.statistics("filename"))

    short, long = run(main(200.0)), run(main(600.0))
    assert long < short + 100_000


def test_a_stopped_soak_says_what_it_can(tmp_path: Path) -> None:
    conclusion, _ = measured(tmp_path, soak, verb="soak", target=STEADY, duration_s=7200.0, stop_s=30.0)
    assert conclusion.outcome in {Outcome.INCONCLUSIVE, Outcome.STABLE}
    assert conclusion.exit_code == (EXIT_INCONCLUSIVE if conclusion.outcome is Outcome.INCONCLUSIVE else 0)
    assert "stopped after" in conclusion.sentences[0]
    nothing, found = measured(tmp_path, soak, verb="soak", target=STEADY, duration_s=60.0, stop_s=0.0)
    assert found.drivens == ()
    assert nothing.outcome is Outcome.INCONCLUSIVE
    assert nothing.exit_code == EXIT_INCONCLUSIVE


class Refusing:
    """An engine that turns everybody away from some moment on."""

    def __init__(self, engine: Engine, from_s: float) -> None:
        self.engine = engine
        self.from_s = from_s

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if VirtualClock().now_ns() > self.from_s * NS:
            raise OverloadedError("full", retry_after_s=1.0)
        async for chunk in self.engine.generate(request):
            yield chunk

    async def aclose(self) -> None:
        await self.engine.aclose()


def soaked(
    folder: Path,
    meanwhile: Callable[[Run], None] = lambda _run: None,
    *,
    text: str = STEADY,
    change: Callable[[Target], Target] = lambda target: target,
) -> Conclusion:
    async def main() -> Conclusion:
        options = BenchOptions(folder=folder, max_tokens=8, duration_s=1200.0, users=1, prompt_tokens=128)
        async with begin(
            "soak", {"": change(open_simulated(text))}, options, opening=Opening(calibrate_s=0)
        ) as started:
            meanwhile(started)
            return finish(started, await soak(started))

    return run(main())


def test_a_server_that_refuses_everybody_after_five_minutes_is_not_stable(tmp_path: Path) -> None:
    conclusion = soaked(tmp_path, change=lambda target: replace(target, engine=Refusing(target.engine, 300.0)))
    assert conclusion.outcome is Outcome.FAIL
    assert conclusion.exit_code == EXIT_UNSTABLE
    assert conclusion.sentences[0].startswith("FAIL: ")
    assert not any(sentence.startswith("STABLE") for sentence in conclusion.sentences)


SAW_S, LOSS_PER_S = 600, 20_000


def looked_at(run: Run, *, restarted: bool, cgroup_bytes: int = 64 << 30) -> None:
    """Write what a host shows of a server that leaks and may be started again every ten minutes."""
    for second in range(1, 1200):
        life, age_s = divmod(second, SAW_S) if restarted else (0, second)
        run.sample(
            "host",
            {
                "at_ns": second * NS,
                "server_rss_bytes": (2 << 30) + LOSS_PER_S * age_s * (not restarted or life > 0),
                "server_descriptors": 20,
                "memory_total_bytes": cgroup_bytes,
                "server_process_ids": [100 + life],
                "server_largest_process": 100 + life,
            },
        )


def test_a_server_that_is_started_again_is_not_stable_and_its_leak_is_seen(tmp_path: Path) -> None:
    conclusion = soaked(tmp_path, lambda run: looked_at(run, restarted=True))
    assert conclusion.outcome is Outcome.LEAK
    assert "LEAK: Memory of the server (RSS) grows by 68." in conclusion.sentences[0]
    assert any("was started again, 1 times, first at 600 s" in sentence for sentence in conclusion.sentences)
    assert [each.severity for each in conclusion.findings if "started again" in each.text] == ["error"]


def test_a_restart_alone_is_a_failure(tmp_path: Path) -> None:
    def meanwhile(run: Run) -> None:
        for second, process in ((5, 7), (600, 7), (610, 8)):
            at = {"at_ns": second * NS, "server_process_ids": [process], "server_largest_process": process}
            run.sample("host", at)

    conclusion = soaked(tmp_path, meanwhile)
    assert (conclusion.outcome, conclusion.exit_code) == (Outcome.FAIL, EXIT_UNSTABLE)
    assert conclusion.sentences[0].startswith("FAIL: the server was started again")


def test_memory_within_what_the_servers_cache_fills_is_undecided(tmp_path: Path) -> None:
    def meanwhile(run: Run) -> None:
        looked_at(run, restarted=False)

    def told(target: Target) -> Target:
        return replace(target, facts={"/api/v1/model": {"kv_cache_bytes": 1 << 30}})

    first, second = soaked(tmp_path / "bare", meanwhile), soaked(tmp_path / "said", meanwhile, change=told)
    assert first.outcome is Outcome.LEAK
    assert second.outcome is Outcome.INCONCLUSIVE
    assert second.exit_code == EXIT_INCONCLUSIVE
    assert "smaller cache (kv_cache_bytes)" in second.sentences[0]


def test_where_no_memory_can_be_watched_that_is_said(tmp_path: Path) -> None:
    conclusion = soaked(tmp_path, text=STEADY + "&memory_bytes=0")
    assert conclusion.outcome is Outcome.STABLE
    assert any("memory could not be watched" in sentence for sentence in conclusion.sentences)
