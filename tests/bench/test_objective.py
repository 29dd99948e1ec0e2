"""An objective is read as it was meant; its verdict is wrong as seldom as it says, in thousands of simulated runs."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from qwenops.bench.conclusion import Outcome
from qwenops.bench.dependence import correlation_time, midranks
from qwenops.bench.objective import (
    ALPHA,
    SPENDING,
    Bound,
    Decision,
    alpha_spent,
    decide,
    dependence_time,
    judge,
    more_to_decide,
    parse_slo,
)
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.errors import ConfigError
from qwenops.statistics import binomial_upper
from tests.bench.queues import (
    Runs,
    mm1_sojourn_bound,
    mm1_sojourns,
    mmc_wait_share,
    mmc_waits,
    shared_sojourns,
    shed_share,
    shedding,
)

S = 1_000_000_000


def record(index: int, *, ttft_s: float = 0.5, e2e_s: float = 1.0, failure: Failure | None = None) -> RequestRecord:
    at_ns = index * S
    return RequestRecord(
        index=index,
        segment="rate",
        phase=Phase.MEASURE,
        item="0",
        prompt_hash="",
        scheduled_ns=at_ns,
        sent_ns=at_ns,
        first_content_ns=None if failure else at_ns + round(ttft_s * S),
        first_answer_ns=None if failure else at_ns + round(ttft_s * S),
        last_content_ns=None if failure else at_ns + round(e2e_s * S),
        completion_tokens=1,
        failure=failure,
    )


class TestLanguage:
    def test_the_parts_mean_what_they_say(self) -> None:
        slo = parse_slo("ttft p95 < 2s, e2e P99.9 <= 1m30s , errors < 1%, goodput > 95%")
        assert [(each.kind, each.allowed, each.bound) for each in slo.clauses] == [
            ("percentile", pytest.approx(0.05), Bound(metric="ttft", limit_s=2.0)),
            ("percentile", pytest.approx(0.001), Bound(metric="e2e", limit_s=90.0, inclusive=True)),
            ("errors", 0.01, None),
            ("goodput", pytest.approx(0.05), None),
        ]
        assert slo.bounds == (
            Bound(metric="ttft", limit_s=2.0),
            Bound(metric="e2e", limit_s=90.0, inclusive=True),
        )

    def test_bounds_without_a_percentile_belong_to_goodput(self) -> None:
        slo = parse_slo("ttft < 500ms, tpot≤100ms, attainment >= 90%")
        assert [each.kind for each in slo.clauses] == ["goodput"]
        assert [each.metric for each in slo.bounds] == ["ttft", "tpot"]

    def test_a_dot_in_a_name_is_an_underline(self) -> None:
        assert parse_slo("ttft.response p95<8s").bounds[0].metric == "ttft_response"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "The objective is empty"),
            (" , ", "The objective is empty"),
            ("fast", "'fast' cannot be read as part of an objective: it is no comparison"),
            ("ttft p95 < 2", "2 has no unit"),
            ("ttft p95 < 2 parsecs", "'2 parsecs' is no duration"),
            ("ttft p95 < 0s", "nothing is faster than 0s"),
            ("ttft p95 > 2s", "a latency can only be asked to be lower than something"),
            ("ttft p100 < 2s", "p100 is no percentile between 0 and 100"),
            ("ttft p0 < 2s", "p0 is no percentile"),
            ("speed p95 < 2s", "there is no metric speed of single requests"),
            ("itl p95 < 2s", "there is no metric itl of single requests"),
            ("errors < 0.01", "'0.01' is no share in percent"),
            ("errors < 0%", "no number of requests can prove that"),
            ("errors > 1%", "errors is compared with <"),
            ("goodput < 95%", "goodput is compared with >"),
            ("errors p95 < 1%", "errors is a share and has no percentile"),
            ("ttft p95 < 2s, ttft p95 < 2s", "it is there twice"),
            ("ttft < 2s", "does not say how many must meet it"),
            ("errors < 1%, goodput > 95%", "has no bound that a request could meet"),
        ],
    )
    def test_what_cannot_be_read_is_quoted_with_what_is_possible(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_slo(text)
        assert said in caught.value.message
        assert caught.value.hint

    def test_the_hint_lists_metrics_and_units(self) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_slo("latency p95 < 2s")
        assert "ttft_response" in caught.value.hint
        assert "ms" in caught.value.hint


class TestRequests:
    slo = parse_slo("ttft p95 < 1s, e2e p95 < 3s, errors < 10%, goodput > 50%")

    def test_a_request_meets_all_bounds_or_misses(self) -> None:
        assert self.slo.met(record(0)) is True
        assert self.slo.met(record(0, ttft_s=1.0)) is False
        assert self.slo.met(record(0, e2e_s=3.5)) is False
        assert self.slo.met(record(0, failure=Failure.SHED)) is False
        assert self.slo.met(record(0, failure=Failure.INTERRUPTED)) is None

    def test_a_metric_that_does_not_apply_is_no_miss(self) -> None:
        slo = parse_slo("tpot p95 < 100ms")
        assert slo.met(record(0)) is True
        assert slo.missed(slo.clauses[0], record(0)) is None
        assert judge([record(each) for each in range(400)], slo).clauses[0].n == 0

    def test_a_failure_misses_every_clause_and_an_interrupted_request_says_nothing(self) -> None:
        records = [record(0), record(1, failure=Failure.TIMEOUT), record(2, failure=Failure.INTERRUPTED)]
        verdict = judge(records, self.slo)
        assert [(each.n, each.misses) for each in verdict.clauses] == [(2, 1)] * 4
        assert verdict.attainment == 0.5

    def test_what_was_not_sent_is_a_miss(self) -> None:
        verdict = judge([record(0), record(1)], self.slo, dropped=2)
        assert [(each.n, each.misses) for each in verdict.clauses] == [(4, 2)] * 4
        assert verdict.attainment == 0.5

    def test_all_clauses_must_pass_and_one_suffices_to_fail(self) -> None:
        slo = parse_slo("ttft p95 < 1s, e2e p50 < 500ms")
        assert judge([record(each) for each in range(400)], slo).decision is Outcome.FAIL
        assert judge([record(each, e2e_s=0.5) for each in range(400)], slo).decision is Outcome.FAIL
        assert judge([record(each, e2e_s=0.4) for each in range(400)], slo).decision is Outcome.PASS

    def test_no_requests_decide_nothing(self) -> None:
        verdict = judge([], self.slo)
        assert verdict.decision is Outcome.UNDECIDED
        assert verdict.attainment is None
        assert verdict.more_requests is not None

    def test_the_order_of_the_records_does_not_matter(self) -> None:
        records = [record(each, ttft_s=2.0 if 40 < each < 60 else 0.1) for each in range(300)]
        assert judge(records[::-1], self.slo) == judge(records, self.slo)


def verdicts(latencies: Runs, bound: float, allowed: float, *, alpha: float = ALPHA) -> list[Decision]:
    """Judge each run as `judge` does."""
    found = []
    for row in latencies:
        misses = row > bound
        time = dependence_time(misses, row)
        found.append(decide(int(misses.sum()), row.size, time, allowed, alpha, alpha))
    return found


def share(found: list[Decision], decision: Decision) -> float:
    return found.count(decision) / len(found)


def naive_passes(latencies: Runs, bound: float, allowed: float) -> float:
    """How often a verdict that takes requests as independent would pass."""
    counts = (latencies > bound).sum(axis=1)
    return float(np.mean([binomial_upper(int(each), latencies.shape[1]) <= allowed for each in counts]))


class TestIndependentRequests:
    @pytest.mark.parametrize(("allowed", "n"), [(0.05, 100), (0.05, 300), (0.05, 1200), (0.01, 600), (0.1, 60)])
    def test_a_server_exactly_at_its_limit_seldom_passes_and_seldom_fails(self, allowed: float, n: int) -> None:
        random = np.random.default_rng(n)
        found = verdicts(random.exponential(1.0, (2000, n)), -math.log(allowed), allowed)
        assert share(found, Outcome.PASS) <= ALPHA
        assert share(found, Outcome.FAIL) <= ALPHA

    def test_a_good_server_passes_and_a_bad_one_fails(self) -> None:
        random = np.random.default_rng(1)
        good = verdicts(random.exponential(1.0, (500, 300)), -math.log(0.01), 0.05)
        bad = verdicts(random.exponential(1.0, (500, 300)), -math.log(0.12), 0.05)
        assert share(good, Outcome.PASS) > 0.9
        assert share(bad, Outcome.FAIL) > 0.9

    def test_constant_latencies_are_independent(self) -> None:
        assert dependence_time(np.zeros(100, dtype=np.bool_), np.full(100, 0.3)) == 1.0
        assert decide(0, 110, 1.0, 0.05, ALPHA, ALPHA) is Outcome.PASS


QUEUES: dict[str, tuple[Callable[[np.random.Generator, int], Runs], float]] = {
    "M/M/1 load 0.3": (lambda random, n: mm1_sojourns(random, 1000, n, 0.3), mm1_sojourn_bound(0.3, 0.05)),
    "M/M/1 load 0.6": (lambda random, n: mm1_sojourns(random, 1000, n, 0.6), mm1_sojourn_bound(0.6, 0.05)),
    "M/M/1 load 0.8": (lambda random, n: mm1_sojourns(random, 1000, n, 0.8), mm1_sojourn_bound(0.8, 0.05)),
    "M/M/1 load 0.95": (lambda random, n: mm1_sojourns(random, 1000, n, 0.95), mm1_sojourn_bound(0.95, 0.05)),
    "M/M/4 load 0.8, waiting": (
        lambda random, n: mmc_waits(random, 1000, n, 0.8, 4),
        math.log(mmc_wait_share(0.8, 4, 0.0) / 0.05) / (4 * 0.2),
    ),
    # The bound of processor sharing has no short formula; it is the quantile of two million simulated requests.
    "processor sharing load 0.7": (lambda random, n: shared_sojourns(random, 500, n, 0.7), 12.15),
}


class TestQueues:
    @pytest.mark.parametrize("name", QUEUES)
    @pytest.mark.parametrize("n", [120, 400])
    def test_a_queue_exactly_at_its_limit_seldom_passes_and_seldom_fails(self, name: str, n: int) -> None:
        make, bound = QUEUES[name]
        found = verdicts(make(np.random.default_rng(n), n), bound, 0.05)
        assert share(found, Outcome.PASS) <= ALPHA
        assert share(found, Outcome.FAIL) <= ALPHA

    @pytest.mark.slow
    @pytest.mark.parametrize("name", QUEUES)
    def test_so_it_is_for_long_runs(self, name: str) -> None:
        make, bound = QUEUES[name]
        found = verdicts(make(np.random.default_rng(2), 2000), bound, 0.05)
        assert share(found, Outcome.PASS) <= ALPHA
        assert share(found, Outcome.FAIL) <= ALPHA

    def test_without_blocks_the_same_queues_would_pass_most_of_the_time(self) -> None:
        make, bound = QUEUES["M/M/1 load 0.8"]
        assert naive_passes(make(np.random.default_rng(3), 400), bound, 0.05) > 0.5

    @pytest.mark.parametrize("name", ["M/M/1 load 0.6", "M/M/1 load 0.8", "processor sharing load 0.7"])
    def test_alpha_is_spent_over_three_looks_at_growing_data(self, name: str) -> None:
        make, bound = QUEUES[name]
        runs = make(np.random.default_rng(4), 800)
        passed = np.zeros(len(runs), dtype=np.bool_)
        for look, n in enumerate((200, 400, 800)):
            found = verdicts(runs[:, :n], bound, 0.05, alpha=alpha_spent(look))
            passed |= [each is Outcome.PASS for each in found]
        assert float(passed.mean()) <= ALPHA

    def test_a_queue_far_inside_its_limit_passes_and_one_beyond_its_capacity_fails(self) -> None:
        random = np.random.default_rng(5)
        light = verdicts(mm1_sojourns(random, 300, 600, 0.4), mm1_sojourn_bound(0.4, 0.001), 0.05)
        heavy = verdicts(mm1_sojourns(random, 300, 400, 1.5), 10.0, 0.05)
        assert share(light, Outcome.PASS) > 0.9
        assert share(heavy, Outcome.FAIL) > 0.9

    @pytest.mark.parametrize(("load", "room"), [(0.5, 6), (0.8, 14), (0.9, 23)])
    def test_a_server_that_sheds_exactly_what_it_may_seldom_passes(self, load: float, room: int) -> None:
        refused, seen = shedding(np.random.default_rng(room), 200, 900, load, room)
        slo = parse_slo("errors < 1%")
        passed = 0
        for shed, there in zip(refused, seen, strict=True):
            records = [
                record(index, e2e_s=1.0 + float(there[index]), failure=Failure.SHED if shed[index] else None)
                for index in range(shed.size)
            ]
            clause = slo.clauses[0]
            found = judge(records, slo)
            assert found.clauses[0].clause is clause
            passed += found.decision is Outcome.PASS
        assert shed_share(load, room) > 0.0075
        assert passed / len(refused) <= ALPHA


class TestHowManyMore:
    def test_exactly_that_many_more_decide_if_the_share_stays(self) -> None:
        for misses, n, time in ((0, 30, 1.0), (1, 80, 1.0), (0, 100, 8.0), (20, 300, 3.0)):
            more = more_to_decide(misses, n, time, 0.05, ALPHA, ALPHA)
            assert more is not None
            total = n + more
            assert decide(misses, n, time, 0.05, ALPHA, ALPHA) is Outcome.UNDECIDED
            assert decide(round(misses / n * total), total, time, 0.05, ALPHA, ALPHA) is not Outcome.UNDECIDED

    def test_without_misses_and_dependence_p95_needs_a_hundred(self) -> None:
        more = more_to_decide(0, 30, 1.0, 0.05, ALPHA, ALPHA)
        assert more is not None
        assert 59 <= 30 + more <= 110

    def test_exactly_at_the_limit_no_number_decides(self) -> None:
        assert more_to_decide(50, 1000, 1.0, 0.05, ALPHA, ALPHA) is None

    def test_the_verdict_tells_the_largest_of_its_clauses(self) -> None:
        verdict = judge([record(each) for each in range(40)], parse_slo("ttft p95 < 1s, ttft p99 < 2s"))
        assert verdict.decision is Outcome.UNDECIDED
        assert verdict.more_requests == max(each.more_requests or 0 for each in verdict.clauses)


class TestDependence:
    @pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
    def test_the_correlation_time_of_an_autoregressive_series_is_found(self, phi: float) -> None:
        random = np.random.default_rng(6)
        found = []
        for _ in range(40):
            noise = random.normal(size=4000)
            series = np.empty(4000)
            value = 0.0
            for index, each in enumerate(noise):
                value = phi * value + each
                series[index] = value
            found.append(correlation_time(series))
        assert float(np.mean(found)) == pytest.approx((1 + phi) / (1 - phi), rel=0.1)

    def test_equal_values_share_a_rank_and_no_answer_is_the_longest(self) -> None:
        assert midranks(np.array([3.0, 1.0, math.inf, 1.0, math.inf])).tolist() == [2.0, 0.5, 3.5, 0.5, 3.5]

    def test_all_looks_together_spend_alpha(self) -> None:
        assert sum(alpha_spent(look) for look in range(len(SPENDING))) == pytest.approx(ALPHA)
