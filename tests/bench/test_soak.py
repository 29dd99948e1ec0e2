"""`bench soak` tells a server that stays what it was from one that leaks or drifts."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.bench.conclusion import Outcome
from qwenops.bench.folder import read_lines, read_records
from qwenops.bench.options import BenchOptions
from qwenops.bench.run import Opening, begin
from qwenops.bench.segment import ClosedLoop, Segment
from qwenops.bench.simulated.engine import open_simulated
from qwenops.bench.simulated.loop import run
from qwenops.bench.slo import parse_slo
from qwenops.bench.soak import EXIT_UNSTABLE, soak, summarise_journal
from qwenops.bench.stats import summarise
from tests.bench.test_load import measured

STEADY = "simulated:?prefill_tokens_per_s=2000&decode_tokens_per_s=40"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "outcome", "said"),
    [
        ("", Outcome.STABLE, "STABLE"),
        ("&leak_bytes_per_h=30000000", Outcome.LEAK, "LEAK: engine_memory_bytes grows by 28.6"),
        ("&drift_per_h=0.5", Outcome.DRIFT, "DRIFT: ttft"),
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
    assert "stopped after" in conclusion.sentences[0]
    nothing, found = measured(tmp_path, soak, verb="soak", target=STEADY, duration_s=60.0, stop_s=0.0)
    assert found.drivens == ()
    assert nothing.outcome is Outcome.INCONCLUSIVE
