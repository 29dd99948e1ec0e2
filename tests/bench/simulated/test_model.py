import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.simulated import oracles
from qwenops.bench.simulated.model import Demand, Emission, ServerModel, Shed, Truth, plan_of
from qwenops.bench.simulated.options import SimulatedOptions

S = 1_000_000_000
ALONE = SimulatedOptions(
    prefill_tokens_per_s=100.0, decode_tokens_per_s=10.0, slots=4, contention=0.0, coherence=0.0, queue_limit=1_000_000
)
Asked = tuple[int, Demand]


def asked(*times_s: float, prompt_tokens: int = 100, max_tokens: int = 5) -> list[Asked]:
    return [
        (round(at_s * S), Demand(digest=number, prompt_tokens=prompt_tokens, max_tokens=max_tokens))
        for number, at_s in enumerate(times_s)
    ]


def play(model: ServerModel, requests: Iterable[Asked], *, first: int = 0) -> list[Emission]:
    """Let requests come at their times and return all that leaves the server."""
    found: list[Emission] = []
    for number, (at_ns, demand) in enumerate(requests, start=first):
        found += model.advance(at_ns)
        model.arrive(str(number), demand, at_ns)
    while (due_ns := model.next_ns()) is not None:
        found += model.advance(due_ns)
    return found


def truths(options: SimulatedOptions, requests: Iterable[Asked]) -> list[Truth]:
    model = ServerModel(options)
    play(model, requests)
    return sorted(model.truths, key=lambda truth: int(truth.request))


def only(options: SimulatedOptions, requests: Iterable[Asked]) -> Truth:
    (truth,) = truths(options, requests)
    return truth


def poisson_s(rate_per_s: float, count: int, seed: int) -> list[float]:
    return list(np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count)))


def seconds(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


# One request ---------------------------------------------------------------------------------------------------------


def test_alone_a_request_takes_its_prompt_and_then_one_token_after_the_other() -> None:
    truth = only(ALONE, asked(2.0))
    assert (truth.queue_s, truth.ttft_s, truth.tpot_s, truth.e2e_s) == (0.0, 1.0, 0.1, 1.4)
    assert (truth.num_tokens, truth.num_chunks, truth.longest_gap_ns) == (5, 5, S // 10)


def test_a_rate_of_zero_takes_no_time() -> None:
    truth = only(replace(ALONE, prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0), asked(1.0))
    assert (truth.ttft_s, truth.e2e_s) == (0.0, 0.0)


def test_an_answer_of_one_token_has_a_first_token_and_no_time_per_token() -> None:
    truth = only(ALONE, asked(0.0, max_tokens=1))
    assert (truth.ttft_s, truth.tpot_s, truth.e2e_s) == (1.0, None, 1.0)


def test_tokens_that_are_bundled_leave_with_the_last_of_them() -> None:
    emissions = play(ServerModel(replace(ALONE, bundle=3)), asked(0.0, max_tokens=8))
    assert [(each.at_ns, each.first_token, each.num_tokens) for each in emissions] == [
        (round(1.2 * S), 0, 3),
        (round(1.5 * S), 3, 3),
        (round(1.7 * S), 6, 2),
    ]
    assert [each.truth is not None for each in emissions] == [False, False, True]


def test_a_stall_is_one_pause_in_the_middle() -> None:
    truth = only(replace(ALONE, stall_ratio=1.0, stall_s=2.0), asked(0.0))
    assert truth.longest_gap_ns == round(2.1 * S)
    assert truth.e2e_s == 3.4


def test_the_share_of_answers_that_stall_is_the_one_that_was_asked_for() -> None:
    options = replace(ALONE, stall_ratio=0.2, slots=4096)
    stalled = [truth.longest_gap_ns > S for truth in truths(options, asked(*range(2000)))]
    assert sum(stalled) == pytest.approx(400, abs=4 * math.sqrt(2000 * 0.2 * 0.8))


def test_an_answer_ends_by_itself_or_at_its_limit() -> None:
    options = replace(ALONE, answer_tokens=20, answer_spread=0.5)
    demands = [Demand(digest=number, prompt_tokens=1, max_tokens=20) for number in range(400)]
    plans = [plan_of(options, demand, 0, 0) for demand in demands]
    assert {plan.by_limit for plan in plans} == {True, False}
    assert all(plan.by_limit == (plan.num_tokens == 20) for plan in plans)
    natural = [plan_of(options, replace(each, max_tokens=10_000), 0, 0).num_tokens for each in demands]
    assert statistics.median(natural) == pytest.approx(20, abs=2)
    assert {plan_of(options, replace(each, forced=True), 0, 0).num_tokens for each in demands} == {20}


def test_thinking_comes_before_the_answer_and_counts() -> None:
    options = replace(ALONE, thinking_tokens=7, answer_tokens=5)
    demand = Demand(digest=1, prompt_tokens=1, max_tokens=100, thinking=True)
    plan = plan_of(options, demand, 0, 0)
    assert (plan.num_thinking, plan.num_tokens, plan.by_limit) == (7, 12, False)
    short = plan_of(options, replace(demand, max_tokens=4), 0, 0)
    assert (short.num_thinking, short.num_tokens, short.by_limit) == (4, 4, True)


# Many requests -------------------------------------------------------------------------------------------------------


def test_requests_beyond_the_slots_wait_in_order() -> None:
    found = truths(replace(ALONE, slots=1), asked(0.0, 0.1, 0.2))
    assert [truth.queue_s for truth in found] == [0.0, 1.3, 2.6]
    assert [truth.e2e_s for truth in found] == [1.4, 2.7, 4.0]


def test_requests_beyond_the_queue_are_shed() -> None:
    model = ServerModel(replace(ALONE, slots=1, queue_limit=1))
    for number, (at_ns, demand) in enumerate(asked(0.0, 0.0)):
        model.arrive(str(number), demand, at_ns)
    with pytest.raises(Shed):
        model.arrive("2", asked(0.0)[0][1], 0)
    assert (model.num_running, model.num_waiting, model.truths[0].shed) == (1, 1, True)


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 24])
def test_a_batch_is_as_fast_as_the_scalability_law_says(count: int) -> None:
    options = replace(ALONE, slots=32, contention=0.05, coherence=0.01, prefill_tokens_per_s=0.0)
    found = truths(options, asked(*[0.0] * count, max_tokens=101))
    per_stream = 1 / seconds([truth.tpot_s for truth in found])[0]
    assert count * per_stream == pytest.approx(oracles.usl_throughput(count, 10.0, 0.05, 0.01), rel=1e-6)


def test_the_knee_is_where_the_law_says() -> None:
    options = replace(ALONE, slots=64, contention=0.05, coherence=0.01, prefill_tokens_per_s=0.0)
    rates = {
        count: count / seconds([truth.tpot_s for truth in truths(options, asked(*[0.0] * count))])[0]
        for count in range(1, 30)
    }
    assert max(rates, key=lambda count: rates[count]) == round(oracles.usl_knee(0.05, 0.01))


def test_two_that_share_a_processor_are_both_half_as_fast_until_one_leaves() -> None:
    options = replace(ALONE, contention=1.0, decode_tokens_per_s=0.0)
    short, long = truths(options, [*asked(0.0, prompt_tokens=100), *asked(0.0, prompt_tokens=300)])
    assert (short.ttft_s, long.ttft_s) == (2.0, 4.0)


def test_who_is_given_up_frees_the_slot_for_the_next_one() -> None:
    model = ServerModel(replace(ALONE, slots=1))
    model.arrive("a", asked(0)[0][1], 0)
    model.arrive("b", asked(0)[0][1], 0)
    model.arrive("c", asked(0)[0][1], 0)
    model.advance(S // 2)
    model.cancel("a", S // 2)
    model.cancel("b", S // 2)
    model.cancel("nobody", S // 2)
    assert (model.num_running, model.num_waiting) == (1, 0)
    play(model, [])
    gone = {truth.request: truth for truth in model.truths}
    assert gone["a"].cancelled
    assert gone["a"].ttft_s is None
    assert gone["b"].cancelled
    assert gone["b"].queue_s == 0.5
    assert gone["c"].e2e_s == 1.9


# Freezes, drift, cache -----------------------------------------------------------------------------------------------


def test_nothing_leaves_a_frozen_server() -> None:
    options = replace(ALONE, freeze=("5s@10s",))
    before, within, after = truths(options, asked(9.5, 12.0, 15.0))
    assert (before.ttft_s, before.e2e_s) == (6.0, 6.4)
    assert within.ttft_s == 4.0
    assert after.ttft_s == 1.0


def test_even_what_takes_no_time_waits_for_the_end_of_a_freeze() -> None:
    options = replace(ALONE, prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0, freeze=("5s@10s", "1s@20s"))
    assert [truth.ttft_s for truth in truths(options, asked(9.0, 10.0, 12.0, 15.0, 20.5))] == [0, 5, 3, 0, 0.5]


def test_a_freeze_across_two_others_adds_both() -> None:
    options = replace(ALONE, freeze=("1s@1s", "1s@3s"))
    truth = only(options, asked(0.5, prompt_tokens=250))
    assert truth.ttft_s == 4.5


def test_a_drift_makes_later_requests_dearer() -> None:
    first, later = truths(replace(ALONE, drift_per_h=0.5), asked(0.0, 7200.0))
    assert (first.ttft_s, later.ttft_s) == (1.0, 2.0)


def test_a_leak_grows_with_time() -> None:
    model = ServerModel(replace(ALONE, memory_bytes=1000, leak_bytes_per_h=3600))
    assert (model.memory_bytes(0), model.memory_bytes(1800 * S)) == (1000, 2800)


def test_a_beginning_that_was_read_before_is_not_read_again() -> None:
    options = replace(ALONE, cache_tokens=64)
    one = Demand(digest=1, prompt_tokens=48, max_tokens=1, blocks=(11, 12, 13))
    two = Demand(digest=2, prompt_tokens=48, max_tokens=1, blocks=(11, 12, 99))
    found = truths(options, [(0, one), (10 * S, one), (20 * S, two), (30 * S, replace(one, blocks=(7, 8, 9, 10)))])
    assert [truth.cached_tokens for truth in found] == [0, 47, 32, 0]
    assert [truth.ttft_s for truth in found] == [0.48, 0.01, 0.16, 0.48]
    forgotten = truths(options, [(0, one), (10 * S, replace(one, blocks=(7, 8, 9, 10))), (20 * S, one)])
    assert forgotten[-1].cached_tokens == 0


# What makes a run repeatable -----------------------------------------------------------------------------------------

RANDOM = replace(ALONE, slots=3, contention=0.3, coherence=0.02, spread=0.4, stall_ratio=0.3, bundle=2, queue_limit=9)
TIMES = st.lists(st.floats(0.0, 60.0), min_size=1, max_size=25).map(sorted)


def comparable(truth: Truth) -> Truth:
    return replace(truth, request="")


@given(times=TIMES, looks=st.lists(st.integers(0, 90 * S), max_size=30))
def test_to_look_in_between_changes_nothing(times: list[float], looks: list[int]) -> None:
    undisturbed = ServerModel(RANDOM)
    expected = play(undisturbed, asked(*times))
    model, found, looks = ServerModel(RANDOM), [], sorted(looks)
    for number, (at_ns, demand) in enumerate(asked(*times)):
        while looks and looks[0] <= at_ns:
            found += model.advance(looks.pop(0))
        found += model.advance(at_ns)
        model.arrive(str(number), demand, at_ns)
    for look_ns in looks:
        found += model.advance(look_ns)
    found += model.advance(1_000 * S)
    assert found == expected
    assert list(model.truths) == list(undisturbed.truths)


@given(times=TIMES)
def test_after_an_idle_moment_the_server_is_as_new(times: list[float]) -> None:
    requests = asked(*times)
    whole = truths(RANDOM, requests)
    over_ns = list(itertools.accumulate((truth.last_ns or 0 for truth in whole), max))
    idle = [at for at in range(1, len(requests)) if over_ns[at - 1] < requests[at][0]]
    for at in idle:
        again = ServerModel(RANDOM)
        play(again, requests[at:], first=at)
        rest = sorted(again.truths, key=lambda truth: int(truth.request))
        assert rest == whole[at:]


def test_what_a_request_costs_depends_on_seed_prompt_and_time_and_on_nothing_else() -> None:
    demand = Demand(digest=5, prompt_tokens=10, max_tokens=8)
    options = replace(ALONE, service="exponential")
    cost = plan_of(options, demand, 7 * S, 0)
    assert plan_of(options, demand, 7 * S, 0) == cost
    assert plan_of(options, demand, 8 * S, 0) != cost
    assert plan_of(options, replace(demand, digest=6), 7 * S, 0) != cost
    assert plan_of(replace(options, seed=2), demand, 7 * S, 0) != cost


# Queueing theory -----------------------------------------------------------------------------------------------------


def mean_with_error(values: Sequence[float], num_batches: int = 20) -> tuple[float, float]:
    """Return the mean of a correlated series and four standard errors by batch means."""
    batches = [statistics.fmean(values[at::1][: len(values) // num_batches]) for at in _starts(values, num_batches)]
    return statistics.fmean(batches), 4 * statistics.stdev(batches) / math.sqrt(num_batches)


def _starts(values: Sequence[float], num_batches: int) -> range:
    size = len(values) // num_batches
    return range(0, size * num_batches, size)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_slot_and_a_fixed_cost_wait_as_pollaczek_and_khinchine_say(load: float) -> None:
    options = replace(ALONE, slots=1, service="fixed", service_s=0.5)
    found = truths(options, asked(*poisson_s(load / 0.5, 30_000, seed=1), max_tokens=1))
    wait_s, error_s = mean_with_error(seconds([truth.queue_s for truth in found]))
    assert wait_s == pytest.approx(oracles.md1_wait_s(load / 0.5, 0.5), abs=error_s)
    assert error_s < 0.25 * wait_s


@pytest.mark.parametrize(("slots", "load"), [(1, 0.7), (4, 0.8), (8, 0.5)])
def test_slots_with_exponential_costs_wait_as_erlang_says(slots: int, load: float) -> None:
    options = replace(ALONE, slots=slots, service="exponential", service_s=2.0)
    rate_per_s = load * slots / 2.0
    found = truths(options, asked(*poisson_s(rate_per_s, 30_000, seed=2), max_tokens=1))
    waits_s = seconds([truth.queue_s for truth in found])
    wait_s, error_s = mean_with_error(waits_s)
    assert wait_s == pytest.approx(oracles.mmc_wait_s(rate_per_s, 2.0, slots), abs=error_s)
    share, share_error = mean_with_error([float(wait > 1.0) for wait in waits_s])
    assert share == pytest.approx(oracles.mmc_wait_tail(rate_per_s, 2.0, slots, 1.0), abs=share_error)


@pytest.mark.parametrize("service", ["exponential", "fixed"])
def test_sharing_one_processor_takes_as_long_as_theory_says_whatever_the_costs_are(service: str) -> None:
    options = replace(ALONE, slots=4096, contention=1.0, service_s=1.0, service=service)  # type: ignore[arg-type]  # a parameter
    found = truths(options, asked(*poisson_s(0.7, 30_000, seed=3), max_tokens=1))
    time_s, error_s = mean_with_error(seconds([truth.e2e_s for truth in found]))
    assert time_s == pytest.approx(oracles.sharing_time_s(0.7, 1.0), abs=error_s)
    assert error_s < 0.25 * time_s


def test_exponential_costs_are_exponential() -> None:
    options = replace(ALONE, service="exponential", service_s=2.0)
    demand = Demand(digest=1, prompt_tokens=1, max_tokens=1)
    costs_s = [plan_of(options, demand, at, 0).prefill_ns / S for at in range(5000)]
    from scipy import stats

    assert stats.kstest(costs_s, stats.expon(scale=2.0).cdf).pvalue > 0.001


def test_a_virtual_hour_of_the_model_takes_a_second() -> None:
    import time

    began_s = time.process_time()
    found = truths(replace(ALONE, slots=8, contention=0.1), asked(*range(3600), max_tokens=32, prompt_tokens=10))
    assert len(found) == 3600
    assert time.process_time() - began_s < 3.0
