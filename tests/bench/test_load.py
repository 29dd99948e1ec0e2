"""`bench load` says what a server of known speed does."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.folder import RecordedRun, read_run
from qwenops.bench.load import load
from qwenops.bench.options import BenchOptions
from qwenops.bench.run import Opening, Run, begin, finish
from qwenops.bench.schedule import schedule_hash
from qwenops.bench.segment import ClosedLoop, OpenLoop
from qwenops.bench.simulated.engine import open_simulated
from qwenops.bench.simulated.loop import run
from qwenops.bench.stats import measure, summarise
from qwenops.errors import ConfigError

QUICK = "simulated:?service=fixed&service_s=0.5&first_share=0.2&contention=0&coherence=0&slots=64"


def measured(
    folder: Path,
    act: Callable[[Run], Coroutine[Any, Any, Conclusion]],
    *,
    verb: str = "load",
    target: str = QUICK,
    stop_s: float | None = None,
    **options: Any,
) -> tuple[Conclusion, RecordedRun]:
    """Run a command against a simulated server in virtual time."""

    async def main() -> tuple[Conclusion, Path]:
        made = BenchOptions(**{"folder": folder, "max_tokens": 8, **options})
        async with begin(verb, {"": open_simulated(target)}, made, opening=Opening(calibrate_s=0)) as started:
            if stop_s == 0:
                started.stop.set()
            elif stop_s is not None:
                asyncio.get_running_loop().call_later(stop_s, started.stop.set)
            return finish(started, await act(started)), started.folder.path

    conclusion, path = run(main())
    return conclusion, read_run(path)


def titles(conclusion: Conclusion) -> list[str]:
    return [str(table.title) for table in conclusion.tables]


@pytest.mark.parametrize("cache", ["warm", "cold", "bust"])
def test_a_step_finds_no_prompt_of_an_earlier_step_in_a_prefix_cache(tmp_path: Path, cache: str) -> None:
    target = "simulated:?prefill_tokens_per_s=1000&decode_tokens_per_s=50&cache_tokens=10000000&slots=8"
    _, found = measured(tmp_path, partial(load, users=(1, 2, 1)), target=target, cache=cache, duration_s=60.0, warmup=1)
    steps = found.drivens[1:]
    prompts = [record.prompt_hash for each in steps for record in each.records]
    assert len(set(prompts)) == len(prompts) > 60
    # One caller waits as long for its first token after others have asked as before.
    first, _, last = (summarise(each) for each in steps)
    before, after = (measure(each, "ttft p50") for each in (first, last))
    assert before is not None
    assert after == pytest.approx(before, rel=0.15)


@pytest.mark.proves("C1")
def test_without_a_word_it_is_five_callers_for_a_minute(tmp_path: Path) -> None:
    conclusion, found = measured(tmp_path, load)
    warm_up, driven = found.drivens
    assert (driven.segment.load, driven.segment.duration_s) == (ClosedLoop(users=5), 60.0)
    assert len(warm_up.records) == 8
    assert conclusion.outcome is Outcome.DONE
    assert conclusion.sentences[0].startswith("users=5: 600 of 600 requests had a good answer, 10 a second;")
    assert "100 ms" in conclusion.sentences[0]
    assert "500 ms" in conclusion.sentences[0]
    assert conclusion.data["qps_test"]["qps"] == pytest.approx(10.0)
    assert conclusion.data["qps_test"]["p95_latency_ms"] == pytest.approx(500)
    assert conclusion.data["qps_test"]["concurrent_users"] == 5
    json.dumps(conclusion.data)


def test_a_rate_is_an_open_loop_on_the_schedule(tmp_path: Path) -> None:
    conclusion, found = measured(tmp_path, load, rate=2.0, duration_s=120.0, seed=3)
    driven = found.drivens[-1]
    assert isinstance(driven.segment.load, OpenLoop)
    assert found.manifest["hashes"]["schedule"] == schedule_hash(driven.segment.load.offsets_ns)
    assert len(driven.records) == len(driven.segment.load.offsets_ns)
    (segment,) = conclusion.data["segments"]
    assert segment["distributions"]["ttft_s"]["p50"]["value"] == pytest.approx(0.1)
    assert segment["distributions"]["tpot_s"]["p50"]["value"] == pytest.approx(0.4 / 7)
    assert titles(conclusion) == ["Load", "Latencies: load"]


def test_several_numbers_of_callers_are_a_ladder(tmp_path: Path) -> None:
    users: Sequence[int] = (1, 2, 4)
    conclusion, found = measured(tmp_path, lambda run: load(run, users=users), duration_s=20.0, warmup=0)
    assert [driven.segment.name for driven in found.drivens] == ["users=1", "users=2", "users=4"]
    assert [len(driven.records) for driven in found.drivens] == [40, 80, 160]
    assert len(conclusion.tables[0].rows) == 3


def test_a_trace_is_replayed_at_its_own_times(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 1000 * second, "input_length": 40, "output_length": 4} for second in (0, 3, 4, 9)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, found = measured(tmp_path, load, workload=f"trace:{trace}", warmup=0)
    (driven,) = found.drivens
    assert [record.scheduled_ns // 10**9 for record in driven.records] == [0, 3, 4, 9]


def test_a_server_that_falls_behind_is_told(tmp_path: Path) -> None:
    slow = "simulated:?service=fixed&service_s=2&slots=1"
    conclusion, _ = measured(tmp_path, load, target=slow, rate=2.0, duration_s=60.0)
    assert any("did not keep up" in sentence for sentence in conclusion.sentences)
    quick, _ = measured(tmp_path, load, rate=2.0, duration_s=60.0)
    assert not any("did not keep up" in sentence for sentence in quick.sentences)


def test_a_slow_server_that_keeps_up_is_not_said_to_fall_behind(tmp_path: Path) -> None:
    """Eleven seconds for each at one a second are eleven in flight at any time, also at the end."""
    steady = "simulated:?service=fixed&service_s=11&slots=64&contention=0&coherence=0"
    conclusion, found = measured(tmp_path, load, target=steady, rate=1.0, duration_s=60.0, arrivals="constant")
    assert sum(record.ended_ns > 60 * 10**9 for record in found.drivens[-1].records if record.ended_ns) >= 10
    assert not any("did not keep up" in sentence for sentence in conclusion.sentences)
    assert conclusion.data["segments"][0]["rates"]["completed_rate"] == pytest.approx(1.0, rel=0.02)
    assert any(sentence.startswith("Rates are taken after the ramp") for sentence in conclusion.sentences)


@pytest.mark.parametrize(("bound", "decision"), [("5s", "PASS"), ("50ms", "FAIL")])
def test_an_objective_is_judged(tmp_path: Path, bound: str, decision: str) -> None:
    conclusion, _ = measured(tmp_path, load, rate=2.0, duration_s=200.0, slo=f"ttft p95 < {bound}")
    assert any(sentence.endswith(f"is judged {decision}.") for sentence in conclusion.sentences)
    attained = conclusion.data["segments"][0]["rates"]["attainment"]
    assert attained == (1.0 if decision == "PASS" else 0.0)
    assert conclusion.exit_code == (0 if decision == "PASS" else 11)


def test_an_objective_that_is_not_decided_is_no_failure_and_says_what_would_decide(tmp_path: Path) -> None:
    conclusion, _ = measured(tmp_path, load, users=1, requests=10, slo="ttft p95 < 5s")
    assert conclusion.exit_code == 0
    assert any(
        re.match(r"So many requests do not decide it; about \d+ more would", each) for each in conclusion.sentences
    )


def test_failures_are_counted_and_shown_by_class(tmp_path: Path) -> None:
    faulty = f"{QUICK}&status=503&fault_ratio=0.5"
    conclusion, found = measured(tmp_path, load, target=faulty, users=2, requests=100, warmup=0)
    failed = sum(record.failure is not None for record in found.drivens[0].records)
    assert 20 < failed < 80
    assert conclusion.tables[-1].title == "Failures"
    assert conclusion.tables[-1].rows == (("users=2", "shed", failed),)


@pytest.mark.parametrize("longest_s", [None, 90.0])
def test_a_server_that_says_come_back_in_an_hour_does_not_hold_callers_for_hours(
    tmp_path: Path, longest_s: float | None
) -> None:
    away = f"{QUICK}&status=503&retry_after=3600"
    given = {"requests": 1000} if longest_s is None else {"duration_s": longest_s}
    conclusion, found = measured(tmp_path, load, target=away, users=2, warmup=0, **given)
    (driven,) = found.drivens
    assert len(driven.records) == (2 * 20 if longest_s is None else 2 * 3)
    assert driven.ended_ns < 700 * 10**9
    said = " ".join(conclusion.sentences)
    assert "stay away for up to 1h" in said
    assert ("gave up after 20 times" in said) == (longest_s is None)


def test_many_tokens_a_second_are_written_as_people_write_them(tmp_path: Path) -> None:
    quick = "simulated:?service=fixed&service_s=0.01&first_share=0.2&contention=0&coherence=0&slots=64"
    conclusion, _ = measured(tmp_path, load, target=quick, users=4, duration_s=10.0, max_tokens=8, force_length=True)
    assert "400 a second" in conclusion.sentences[0]
    assert "3,200 tokens a second in all" in conclusion.sentences[0]


def test_a_stopped_load_still_concludes(tmp_path: Path) -> None:
    conclusion, found = measured(tmp_path, load, stop_s=19.8, users=2, warmup=0)
    assert "stopped after" in conclusion.sentences[0]
    assert len(found.drivens[0].records) == 80
    nothing, empty = measured(tmp_path, load, stop_s=0.0, users=2)
    assert empty.drivens == ()
    assert nothing.data["segments"] == []


def test_a_rate_and_callers_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Both a rate and a number of users"):
        measured(tmp_path, load, rate=1.0, users=2)
