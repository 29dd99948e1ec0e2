"""The client's verdict on itself."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.calibrate import calibrate
from qwenops.bench.clock import RealClock
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.bench.validity import Calibration, ClientWatch, Tally, Verdict, bias_sentence
from qwenops.statistics.samples import quantile
from qwenops.text import say
from tests.bench.driving import MS, S

OPEN = Segment(name="load", load=OpenLoop(offsets_ns=tuple(range(0, 100 * S, S))), duration_s=100.0)


def record(lag_ms: float = 0.0, ttft_ms: float = 100.0, phase: Phase = Phase.MEASURE) -> RequestRecord:
    sent_ns = round(lag_ms * MS)
    return RequestRecord(
        index=0,
        segment="load",
        phase=phase,
        item="",
        prompt_hash="",
        scheduled_ns=0,
        sent_ns=sent_ns,
        first_content_ns=sent_ns + round(ttft_ms * MS),
    )


def driven(segment: Segment = OPEN, **more: Any) -> Driven:
    given: dict[str, Any] = {"began_ns": 0, "window_ns": 100 * S, "ended_ns": 100 * S, "records": ()}
    return Driven(segment=segment, **(given | more))


def watch(**more: Any) -> ClientWatch:
    return ClientWatch(**{"cores": 2, **more})


@pytest.mark.parametrize(
    ("lag_ms", "ttft_ms", "verdict"),
    [
        (4, 100, Verdict.VALID),
        (6, 100, Verdict.SUSPECT),
        (6, 1000, Verdict.VALID),
        (30, 1000, Verdict.SUSPECT),
        (30, 100, Verdict.INVALID),
        (120, 1000, Verdict.INVALID),
    ],
)
def test_late_sending_is_held_against_the_time_to_first_token(lag_ms: float, ttft_ms: float, verdict: Verdict) -> None:
    seen = watch()
    for _ in range(98):
        seen.add(record(0.1, ttft_ms))
    for _ in range(2):
        seen.add(record(lag_ms, ttft_ms))
    found = seen.judge()
    assert found.verdict is verdict
    assert found.figures["schedule_lag_p99_s"] == pytest.approx(lag_ms / 1000, rel=0.021)
    assert all("sent its requests late" in reason for reason in found.reasons)
    assert len(found.reasons) == (verdict is not Verdict.VALID)


def test_warm_up_requests_are_not_judged() -> None:
    seen = watch()
    seen.add(record(500, phase=Phase.WARMUP))
    assert seen.judge().verdict is Verdict.VALID
    assert "schedule_lag_p99_s" not in seen.judge().figures


@pytest.mark.parametrize(("share", "verdict"), [(0.05, Verdict.VALID), (0.15, Verdict.SUSPECT), (0.4, Verdict.INVALID)])
async def test_the_clients_cpu_time_is_held_against_the_whole_machine(share: float, verdict: Verdict) -> None:
    clock, cores = RealClock(), 2
    seen = watch(cpu_ns=lambda: round(time.perf_counter_ns() * share * cores))
    async with seen.watching(clock):
        await asyncio.sleep(0.12)
    found = seen.judge()
    busy = [reason for reason in found.reasons if "CPU time" in reason]
    assert len(busy) == (verdict is not Verdict.VALID)
    assert found.figures["client_cpu_share"] == pytest.approx(share, rel=0.05)
    assert found.figures["client_cores"] == pytest.approx(share * cores, rel=0.05)
    if verdict is Verdict.INVALID:
        assert found.verdict is verdict


async def test_cpu_time_says_nothing_where_the_model_is_computed_in_this_process() -> None:
    seen = watch(separate=False, cpu_ns=lambda: time.perf_counter_ns() * 2)
    async with seen.watching(RealClock()):
        await asyncio.sleep(0.06)
    assert not [reason for reason in seen.judge().reasons if "CPU time" in reason]


async def test_a_held_up_event_loop_is_noticed() -> None:
    seen = watch()
    async with seen.watching(RealClock()):
        for _ in range(4):
            await asyncio.sleep(0.03)
            time.sleep(0.2)  # noqa: ASYNC251 -- holding up the loop is the point
    found = seen.judge()
    assert found.figures["loop_lag_p99_s"] > 0.1
    assert found.verdict is Verdict.INVALID
    assert any("slow to see what arrived" in reason for reason in found.reasons)


def test_a_stall_counts_for_all_the_ticks_that_it_swallowed() -> None:
    seen = watch()
    for _ in range(1000):
        seen.add_loop_lag(0.0001)
    assert seen.judge().verdict is Verdict.VALID
    seen.add_loop_lag(5.0)
    found = seen.judge()
    assert found.verdict is Verdict.INVALID
    assert found.figures["loop_lag_max_s"] == 5.0
    assert found.figures["loop_lag_p99_s"] == pytest.approx(5 - 11 * 0.05, rel=0.03)


@pytest.mark.parametrize(("gap_ms", "verdict"), [(20, Verdict.SUSPECT), (100, Verdict.VALID), (None, Verdict.VALID)])
def test_a_late_loop_is_held_against_the_gaps_between_chunks(gap_ms: int | None, verdict: Verdict) -> None:
    seen = watch()
    gaps_us = () if gap_ms is None else (gap_ms * 1000,) * 5
    for _ in range(100):
        seen.add(replace(record(0.1, 10_000), chunk_gaps_us=gaps_us))
        seen.add_loop_lag(0.015)
    assert seen.judge().verdict is verdict


def test_a_request_that_this_machine_could_not_send_makes_the_run_invalid() -> None:
    seen = watch()
    seen.add(replace(record(), failure=Failure.CONNECT))
    assert seen.judge().verdict is Verdict.VALID
    seen.add(replace(record(), failure=Failure.CLIENT))
    found = seen.judge()
    assert found.verdict is Verdict.INVALID
    assert "for 1 of the requests" in found.reasons[0]


def test_what_others_doubt_makes_it_suspect() -> None:
    found = watch().judge((say("Something changed."),))
    assert (found.verdict, found.reasons) == (Verdict.SUSPECT, ("Something changed.",))


def test_the_cpu_time_of_other_processes_of_the_client_counts() -> None:
    seen = watch()
    seen.add_cpu(S, 2 * S)
    assert seen.judge().figures["client_cpu_share"] == pytest.approx(0.25)
    assert seen.judge().verdict is Verdict.SUSPECT


@pytest.mark.parametrize(
    ("sent", "verdict"), [(100, Verdict.VALID), (98, Verdict.VALID), (95, Verdict.SUSPECT), (80, Verdict.INVALID)]
)
def test_what_was_due_must_have_been_sent(sent: int, verdict: Verdict) -> None:
    seen = watch()
    seen.close_segment(driven(dropped=100 - sent), sent, overload=False)
    found = seen.judge()
    assert (found.verdict, found.figures["achieved_ratio"]) == (verdict, sent / 100)
    assert found.figures["dropped"] == 100 - sent


def test_an_overload_by_design_and_a_stop_are_no_fault_of_the_client() -> None:
    seen = watch()
    seen.close_segment(driven(dropped=60), 40, overload=True)
    seen.close_segment(driven(window_ns=30 * S, interrupted=True), 31, overload=False)
    seen.close_segment(driven(Segment(name="x", load=ClosedLoop(users=1))), 5, overload=False)
    assert seen.judge().verdict is Verdict.VALID
    assert seen.judge().figures["achieved_ratio"] == 1.0


@given(st.lists(st.floats(2e-6, 1e4), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_tally_knows_quantiles_within_two_percent(values: list[float], p: float) -> None:
    tally = Tally()
    for value in values:
        tally.add(value)
    assert tally.quantile(p) == pytest.approx(quantile(sorted(values), p), rel=0.021)


def test_an_empty_tally_knows_nothing() -> None:
    assert Tally().quantile(0.5) is None


@pytest.mark.slow
async def test_a_calibration_measures_what_the_client_adds() -> None:
    found = await calibrate(RealClock(), 0.5)
    assert found.chunks == 8 * 20
    assert 0 <= found.bias_ttft_s < 0.5
    assert 0 <= found.bias_gap_s < 0.5
    assert 0 < found.cost_per_chunk_s < 0.01


async def test_a_calibration_for_servers_goes_over_http_to_another_process() -> None:
    found = await calibrate(RealClock(), 0.5, over_http=True)
    assert (found.over_http, found.chunks) == (True, 8 * 20)
    assert 0 < found.bias_ttft_s < 0.5
    assert 0 < found.cost_per_chunk_s < 0.05
    sentence = bias_sentence(watch(calibration=found).judge())
    assert sentence is not None
    assert "a server of its own" in sentence


async def test_a_calibration_without_a_server_says_that_no_network_was_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.bench.calibrate.MODEL", "simulated:?slots=none")
    found = await calibrate(RealClock(), 0.1, over_http=True)
    assert not found.over_http
    sentence = bias_sentence(watch(calibration=found).judge())
    assert sentence is not None
    assert "network" in sentence


def test_a_calibration_in_virtual_time_finds_nothing() -> None:
    async def main() -> Calibration:
        return await calibrate(VirtualClock(), 3.0)

    found = run(main())
    assert (found.bias_ttft_s, found.bias_gap_s, found.chunks) == (0.0, 0.0, 8 * 120)


def test_the_bias_is_told_where_it_was_measured() -> None:
    assert bias_sentence(watch().judge()) is None
    measured = Calibration(bias_ttft_s=0.0004, bias_gap_s=0.001, cost_per_chunk_s=0.00003, chunks=9)
    sentence = bias_sentence(watch(calibration=measured).judge())
    assert sentence is not None
    assert "0.40 ms" in sentence
    assert "30 microseconds" in sentence
