"""The rate that is found is the one that queueing theory knows, also where a server does one request in 20 seconds."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwenops.bench.capacity import HEADROOM
from qwenops.bench.clock import running_clock
from qwenops.bench.conclusion import Conclusion, Outcome, conclusion_data, conclusion_of
from qwenops.bench.folder import read_run
from qwenops.bench.highest_rate import Observed, bracket, highest_rate, monotone_shares
from qwenops.bench.objective import parse_slo
from qwenops.bench.options import BenchOptions
from qwenops.bench.report.verbs import verb_tiles
from qwenops.bench.run import Opening, begin, finish
from qwenops.bench.segment import OpenLoop
from qwenops.bench.simulated import loop
from qwenops.bench.slo import SETTLING, find_capacity, slo
from qwenops.bench.targets import open_target
from qwenops.errors import ConfigError
from qwenops.options import parse_seconds
from tests.bench.queue_server import QueueServer
from tests.bench.queues import mmc_wait_share


def lines_capacity(servers: int, service_s: float, bound_s: float, allowed: float) -> float:
    """Return the rate at which the share `allowed` of M/M/c waits longer than the bound."""
    low, high = 1e-9, 1.0 - 1e-9
    for _ in range(80):
        middle = (low + high) / 2
        kept = mmc_wait_share(middle, servers, bound_s / service_s) <= allowed
        low, high = (middle, high) if kept else (low, middle)
    return low * servers / service_s


KNOWN: dict[str, tuple[Callable[[], QueueServer], str, float, float]] = {
    "M/M/1, 0.05 requests/s": (
        lambda: QueueServer(service_s=13.5),
        "ttft p95 < 108s",
        lines_capacity(1, 13.5, 108.0, 0.05),
        40_000 * 13.5,
    ),
    "M/M/1, 20 requests/s": (
        lambda: QueueServer(service_s=0.034),
        "ttft p95 < 272ms, errors < 1%",
        lines_capacity(1, 0.034, 0.272, 0.05),
        40_000 * 0.034,
    ),
    "M/M/4": (
        lambda: QueueServer(service_s=2.0, servers=4),
        "ttft p95 < 6s",
        lines_capacity(4, 2.0, 6.0, 0.05),
        20_000.0,
    ),
    "M/M/8 with a strict bound": (
        lambda: QueueServer(service_s=1.0, servers=8),
        "ttft p90 < 200ms",
        lines_capacity(8, 1.0, 0.2, 0.1),
        10_000.0,
    ),
    # At load 0.7 the p95 of M/M/1 with sharing is 12.15 services, by two million simulated requests.
    "processor sharing": (lambda: QueueServer(service_s=1.0, discipline="sharing"), "e2e p95 < 12.15s", 0.7, 40_000.0),
    "processor sharing, 0.05 requests/s": (
        lambda: QueueServer(service_s=14.0, discipline="sharing"),
        "goodput > 95%, e2e < 170.1s",
        0.05,
        40_000 * 14.0,
    ),
}


class TestSearch:
    @pytest.mark.parametrize("name", KNOWN)
    @pytest.mark.parametrize("seed", [1, 2, 3])
    async def test_the_capacity_is_within_ten_percent_of_the_true_one(self, name: str, seed: int) -> None:
        make, objective, truth, budget_s = KNOWN[name]
        server = make()
        server.seed = seed
        found = await find_capacity(server, parse_slo(objective), BenchOptions(seed=seed), budget_s)
        assert found.found is not None
        assert found.found.rate_per_s == pytest.approx(truth, rel=0.1)
        assert found.found.inside
        assert found.advised_per_s == pytest.approx((1 - HEADROOM) * found.found.rate_per_s)
        assert found.proof is not None
        assert found.decision is Outcome.PASS
        assert server.now_s <= budget_s * 1.01

    async def test_a_short_search_says_how_little_it_knows(self) -> None:
        truth = lines_capacity(4, 1.0, 3.0, 0.05)
        inside = 0
        for seed in range(20):
            server = QueueServer(service_s=1.0, servers=4, seed=seed)
            found = await find_capacity(server, parse_slo("ttft p95 < 3s"), BenchOptions(seed=seed), 600.0)
            assert found.found is not None
            assert found.found.interval.high / found.found.interval.low > 1.2
            inside += truth in found.found.interval
        assert inside >= 17

    async def test_the_backlog_is_bounded_and_what_is_not_sent_counts_as_missed(self) -> None:
        server = QueueServer(service_s=1.0)
        found = await find_capacity(server, parse_slo("ttft p95 < 4s"), BenchOptions(), 4000.0)
        most = {segment.max_in_flight for segment in server.segments if isinstance(segment.load, OpenLoop)}
        assert len(most) == 1
        bound = most.pop()
        assert bound is not None
        assert server.most_present <= bound < 30
        for load in found.loads:
            assert load.verdict.clauses[0].n == len(load.records) + load.dropped

    async def test_a_server_that_is_too_slow_alone_is_not_searched(self) -> None:
        server = QueueServer(service_s=1.0)
        found = await find_capacity(server, parse_slo("e2e p95 < 100ms"), BenchOptions(), 2000.0)
        assert found.found is None
        assert found.alone.decision is Outcome.FAIL
        assert len(server.segments) == 1

    async def test_an_objective_that_no_rate_breaks_is_said_to_hold_everywhere(self) -> None:
        server = QueueServer(service_s=1.0, servers=4, options=BenchOptions(slo="e2e p95 < 1h"))
        conclusion = await slo(server, budget_s=3000.0)
        said = " ".join(conclusion.sentences)
        assert "No limit was seen: up to" in said
        assert "capacity_per_s" not in conclusion.data
        assert conclusion.data["proving_per_s"] <= conclusion.data["most_tried_per_s"]

    async def test_without_a_proof_nothing_is_advised_and_what_would_decide_is_said(self) -> None:
        server = QueueServer(service_s=1.0, servers=4, options=BenchOptions(slo="ttft p95 < 6s, errors < 1%"))
        conclusion = await slo(server, budget_s=60.0)
        assert (conclusion.outcome, conclusion.exit_code) == (Outcome.UNDECIDED, 12)
        assert "do not decide" in conclusion.sentences[0]
        said = " ".join(conclusion.sentences)
        assert "Plan for" not in said
        assert "is kept" not in said
        assert "was kept" not in said
        assert "To decide, search for longer: --duration" in said
        assert conclusion.data["advised_per_s"] is None
        rates = [row[0] for row in conclusion.tables[0].rows]
        assert any(rate == pytest.approx(conclusion.data["proving_per_s"], rel=1e-4) for rate in rates)
        assert not any(str(tile.name) == "Advised" for tile in verb_tiles(conclusion.data))

    async def test_the_same_answers_make_the_same_search(self) -> None:
        searches = []
        for _ in range(2):
            server = QueueServer(service_s=1.0, servers=2)
            await find_capacity(server, parse_slo("ttft p95 < 2s"), BenchOptions(), 2000.0)
            searches.append(server.segments)
        assert searches[0] == searches[1]
        assert all(segment.first_item is None for segment in searches[0])  # so that no item is asked twice

    @pytest.mark.parametrize("after", [2, 4, 9])
    async def test_an_interrupted_search_says_what_it_has(self, after: int) -> None:
        server = QueueServer(service_s=1.0, stop_after=after, options=BenchOptions(slo="ttft p95 < 2s"))
        conclusion = await slo(server, budget_s=4000.0)
        assert len(server.segments) == after
        assert conclusion.outcome is Outcome.UNDECIDED
        assert any("interrupted" in str(each) or "ended before" in str(each) for each in conclusion.sentences)


class TestVerb:
    async def test_without_an_objective_nothing_is_sent(self) -> None:
        server = QueueServer(service_s=1.0)
        with pytest.raises(ConfigError, match="no objective"):
            await slo(server)
        assert server.segments == []

    async def test_the_conclusion_has_the_rate_the_advice_and_the_proof(self) -> None:
        server = QueueServer(service_s=1.0, servers=4, options=BenchOptions(slo="ttft p95 < 3s"))
        conclusion = await slo(server, budget_s=10_000.0)
        assert (conclusion.outcome, conclusion.exit_code) == (Outcome.PASS, 0)
        said = " ".join(conclusion.sentences)
        assert "the objective is kept: " in conclusion.sentences[0]
        assert "the limit is at about 3." in said
        assert "ttft p95 < 3s is missed first" in said
        assert "30% less" in said
        assert "requests prove it" in said
        assert conclusion.data["capacity_low_per_s"] < 3.18 < conclusion.data["capacity_high_per_s"]
        assert len(conclusion.tables) == 2
        rates = [row[0] for row in conclusion.tables[0].rows]
        assert rates == sorted(each for each in rates if isinstance(each, float))
        assert conclusion_of(conclusion_data(conclusion)) == conclusion

    async def test_too_slow_alone_fails_and_says_by_how_much(self) -> None:
        server = QueueServer(service_s=1.0, options=BenchOptions(slo="e2e p95 < 100ms"))
        conclusion = await slo(server, budget_s=2000.0)
        assert (conclusion.outcome, conclusion.exit_code) == (Outcome.FAIL, 11)
        assert "Not even one request at a time" in str(conclusion.sentences[0])
        assert "of the requests missed it, and 5.0% may" in str(conclusion.sentences[1])

    @pytest.mark.parametrize(
        ("rate", "duration_s", "outcome", "exit_code"),
        [
            (0.4, 4000.0, Outcome.PASS, 0),
            (1.3, 4000.0, Outcome.FAIL, 11),
            (0.4, 40.0, Outcome.UNDECIDED, 12),
        ],
    )
    async def test_a_rate_is_judged_with_the_exit_codes_of_the_architecture(
        self, rate: float, duration_s: float, outcome: Outcome, exit_code: int
    ) -> None:
        options = BenchOptions(slo="ttft p95 < 8s", rate=rate, duration_s=duration_s)
        server = QueueServer(service_s=1.0, options=options)
        conclusion = await slo(server)
        assert (conclusion.outcome, conclusion.exit_code) == (outcome, exit_code)
        assert conclusion.data["rate_per_s"] == rate
        assert conclusion_of(conclusion_data(conclusion)) == conclusion

    async def test_undecided_says_how_many_more_requests_and_how_long_that_takes(self) -> None:
        options = BenchOptions(slo="ttft p95 < 8s", rate=0.1, requests=10)
        conclusion = await slo(QueueServer(service_s=1.0, options=options))
        assert conclusion.outcome is Outcome.UNDECIDED
        assert "more would (" in str(conclusion.sentences[0])

    async def test_there_are_at_most_three_looks(self) -> None:
        looks = []
        for seed in range(6):
            options = BenchOptions(slo="ttft p95 < 8s", rate=0.6747, duration_s=6000.0, seed=seed)
            server = QueueServer(service_s=1.0, options=options, seed=seed)
            await slo(server)
            looks.append([segment.duration_s for segment in server.segments[1:]])
        assert max(looks, key=len) == [1500.0, 1500.0, 3000.0]

    async def test_a_rate_exactly_at_the_limit_passes_in_at_most_one_of_twenty_runs(self) -> None:
        rate, passed = lines_capacity(1, 1.0, 8.0, 0.05), 0
        for seed in range(120):
            options = BenchOptions(slo="ttft p95 < 8s", rate=rate, duration_s=900.0, seed=seed)
            passed += (await slo(QueueServer(service_s=1.0, seed=seed, options=options))).outcome is Outcome.PASS
        assert passed / 120 <= 0.05

    @pytest.mark.parametrize("service_s", [1.0, 14.0])
    async def test_without_a_budget_it_takes_what_a_decision_needs_and_says_so_first(self, service_s: float) -> None:
        passed = 0
        for seed in range(6):
            options = BenchOptions(slo=f"ttft p95 < {8 * service_s:g}s", seed=seed)
            server = QueueServer(service_s=service_s, seed=seed, options=options)
            told: list[tuple[str, float]] = []
            conclusion = await slo(server, announce=lambda text: told.append((str(text), server.now_s)))  # noqa: B023 -- it is called in this turn
            passed += conclusion.outcome is Outcome.PASS
            assert "A decision takes about 843 requests" in told[0][0]
            assert told[0][1] < 25 * service_s
            assert all(when_s < 0.35 * server.now_s for _, when_s in told)
            said_s = parse_seconds(told[-1][0].rpartition("about ")[2].rstrip("."))
            assert server.now_s == pytest.approx(said_s, rel=0.35)
        assert passed >= 4

    async def test_a_budget_that_is_too_short_is_told_before_it_is_spent(self) -> None:
        server = QueueServer(service_s=14.0, options=BenchOptions(slo="ttft p95 < 108s"))
        told: list[tuple[str, float]] = []
        await slo(server, budget_s=600.0, announce=lambda text: told.append((str(text), server.now_s)))
        ((sentence, when_s),) = told
        assert "After 10m it will likely still be open" in sentence
        assert when_s < 200.0

    async def test_a_rate_without_a_time_is_judged_until_it_is_decided(self) -> None:
        server = QueueServer(service_s=14.0, options=BenchOptions(slo="ttft p95 < 108s", rate=0.02))
        told: list[str] = []
        conclusion = await slo(server, announce=lambda text: told.append(str(text)))
        assert conclusion.outcome is Outcome.PASS
        assert "A decision takes about" in told[0]
        assert server.now_s > 3600.0

    async def test_what_is_not_sent_is_counted_from_when_it_was_due(self) -> None:
        """While a load settles nothing counts, sent or not; and misses that came together are alike where they came."""
        options = BenchOptions(slo="ttft p95 < 8s", rate=1.5, duration_s=1000.0)
        server = QueueServer(service_s=1.0, options=options)
        conclusion = await slo(server)
        (clause,) = conclusion.data["verdict"]["clauses"]
        looks = [each for each in server.drivens if isinstance(each.segment.load, OpenLoop)]
        assert sum(each.dropped for each in looks) > 50
        settled = [
            offset
            for each in looks
            if isinstance(each.segment.load, OpenLoop)
            for offset in each.segment.load.offsets_ns
            if offset >= round(SETTLING * each.window_ns)
        ]
        assert clause["n"] == len(settled)
        assert clause["decision"] == "fail"

    async def test_failures_are_judged_too(self) -> None:
        options = BenchOptions(slo="errors < 1%", rate=0.2, duration_s=6000.0)
        bad = await slo(QueueServer(service_s=0.1, fail_share=0.05, options=options))
        good = await slo(QueueServer(service_s=0.1, options=dataclasses.replace(options, duration_s=4000.0)))
        assert (bad.outcome, good.outcome) == (Outcome.FAIL, Outcome.PASS)


def seen(rate: float, misses: int, n: int = 1000, time: float = 1.0) -> Observed:
    return Observed(rate_per_s=rate, misses=misses, n=n, time=time)


class TestCurve:
    def test_shares_are_made_monotone(self) -> None:
        shares = monotone_shares([seen(2.0, 10), seen(1.0, 30), seen(4.0, 500)])
        assert [rate for rate, _ in shares] == [1.0, 2.0, 4.0]
        assert [share for _, share in shares] == pytest.approx([0.02, 0.02, 0.5])

    def test_the_bracket_is_of_the_monotone_shares(self) -> None:
        assert bracket([seen(1.0, 0), seen(2.0, 80), seen(3.0, 900)], 0.05) == (1.0, 2.0)
        assert bracket([seen(1.0, 0)], 0.05) == (1.0, None)
        assert bracket([seen(1.0, 100)], 0.05) == (None, 1.0)

    @pytest.mark.parametrize("steepness", [2.0, 6.0, 12.0])
    def test_a_curve_of_the_assumed_shape_is_found_and_covered(self, steepness: float) -> None:
        random = np.random.default_rng(int(steepness))
        inside, errors = 0, []
        for _ in range(60):
            loads = []
            for rate in (0.7, 0.9, 1.05, 1.2, 1.4):
                odds = 0.05 / 0.95 * rate**steepness
                loads.append(seen(rate, int(random.binomial(2000, odds / (1 + odds))), 2000))
            found = highest_rate(loads, 0.05)
            errors.append(math.log(found.rate_per_s))
            inside += 1.0 in found.interval
        assert abs(float(np.mean(errors))) < 0.02
        assert inside >= 55

    def test_all_good_or_all_bad_lies_beyond_what_was_tried(self) -> None:
        good = highest_rate([seen(1.0, 0), seen(1.2, 0)], 0.05)
        bad = highest_rate([seen(1.0, 1000), seen(1.2, 1000)], 0.05)
        assert not good.inside
        assert not bad.inside
        assert good.rate_per_s > 1.2
        assert bad.rate_per_s < 1.0

    def test_dependent_requests_make_the_interval_wider(self) -> None:
        rates = ((0.8, 10), (1.0, 50), (1.2, 150))
        free = highest_rate([seen(rate, misses) for rate, misses in rates], 0.05).interval
        bound = highest_rate([seen(rate, misses, time=20.0) for rate, misses in rates], 0.05).interval
        assert bound.high / bound.low > 1.5 * free.high / free.low


class TestWholeRun:
    @pytest.mark.slow
    def test_the_capacity_of_a_simulated_server_is_found_through_everything_that_a_user_runs(
        self, tmp_path: Path
    ) -> None:
        """M/M/1 at about 0.1 requests/s: schedule, client, engine and journal, in virtual time."""
        options = BenchOptions(folder=tmp_path, slo="ttft p95 < 40s, errors < 1%", max_tokens=1, prompt_tokens=16)
        text = "simulated:?virtual=1&service=exponential&service_s=5&slots=1"

        async def main() -> Conclusion:
            target = await open_target(text, options, model="simulated")
            opening = Opening(out=tmp_path / "run", calibrate_s=0)
            async with begin("slo", {"": target}, options, clock=running_clock(), opening=opening) as run:
                return finish(run, await slo(run, budget_s=120_000.0))

        found = loop.run(main())
        # An answer of one token has it at its end, and the time in M/M/1 is exponential with rate 1/5 - capacity.
        assert found.data["capacity_per_s"] == pytest.approx(1 / 5 - math.log(20) / 40, rel=0.1)
        assert found.outcome is Outcome.PASS
        assert read_run(tmp_path / "run").summary["exit_code"] == 0
