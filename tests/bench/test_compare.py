import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from qwenops.bench.compare import Design, Pair, check_design, compare, failures_p, judge_logs
from qwenops.bench.comparing import verdict
from qwenops.bench.conclusion import Outcome
from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import Driven
from qwenops.errors import ConfigError
from tests.bench.records import answer, driven, failed
from tests.statistics.proportions import binomial_interval

Noise = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]
NOISE = 0.03
RUNS = 1500
"""Simulated comparisons; the Monte-Carlo error of a rate of 5 % is 0.6 %, of one of 80 % it is 1 %."""


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return rng.normal(0, NOISE, size)


def heavy_tailed(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return NOISE / math.sqrt(3) * rng.standard_t(3, size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return NOISE * (rng.exponential(1, size) - 1)


def rates(logs: npt.NDArray[np.float64], alpha: float = 0.05) -> dict[Outcome, float]:
    counted = Counter(judge_logs(each, "lower", 0.03, alpha).outcome for each in logs)
    return {outcome: counted[outcome] / len(logs) for outcome in Outcome}


def pairs_of(logs: Sequence[float], requests: int = 6) -> list[Pair]:
    """Return blocks whose requests differ in length, and whose B takes exp(log) times as long as their A."""

    def block(factor: float) -> list[RequestRecord]:
        return [
            answer(each, at_s=each, ttft_s=0.1 * (1 + each) * factor, gaps_s=[0.02 * factor] * 5)
            for each in range(requests)
        ]

    return [(driven(block(1.0)), driven(block(math.exp(log)))) for log in logs]


@pytest.mark.parametrize("noise", [normal, heavy_tailed, skewed])
@pytest.mark.parametrize("pairs", [6, 8, 12])
def test_a_server_differs_from_itself_in_at_most_five_percent_of_comparisons(noise: Noise, pairs: int) -> None:
    runs = 4000  # the Monte-Carlo error of 5 % is then 0.3 %
    found = rates(noise(np.random.default_rng(pairs), (runs, pairs)))
    alarms = round((found[Outcome.IMPROVED] + found[Outcome.REGRESSED]) * runs)
    assert binomial_interval(alarms, runs, 0.99).high <= 0.05


@pytest.mark.parametrize("noise", [normal, heavy_tailed, skewed])
def test_five_percent_are_found_in_eight_blocks_at_three_percent_noise(noise: Noise) -> None:
    slower = noise(np.random.default_rng(5), (RUNS, 8)) + math.log1p(0.05)
    found = rates(slower)
    assert binomial_interval(round(found[Outcome.REGRESSED] * RUNS), RUNS, 0.99).low >= 0.8
    assert found[Outcome.IMPROVED] == 0
    faster = rates(-slower)
    assert faster[Outcome.IMPROVED] == found[Outcome.REGRESSED]


@pytest.mark.parametrize("pairs", [8, 12])
def test_a_change_exactly_as_large_as_what_matters_is_seldom_called_equivalent(pairs: int) -> None:
    logs = normal(np.random.default_rng(7), (RUNS, pairs)) + math.log1p(0.03)
    equal = round(rates(logs)[Outcome.EQUIVALENT] * RUNS)
    assert binomial_interval(equal, RUNS, 0.99).low <= 0.05


def test_looking_twice_keeps_the_error_rate() -> None:
    design = Design(looks=(8, 16))
    assert sum(design.share(look) for look in range(2)) == pytest.approx(design.alpha)
    logs = normal(np.random.default_rng(9), (RUNS, 16))
    alarms = 0
    for each in logs:
        for look, until in enumerate(design.looks):
            outcome = judge_logs(each[:until], "lower", design.effect, design.share(look)).outcome
            if outcome is not Outcome.INCONCLUSIVE:
                alarms += outcome is not Outcome.EQUIVALENT
                break
    assert binomial_interval(alarms, RUNS, 0.99).high <= 0.05


def test_looking_twice_can_decide_at_the_first_look_already_with_six_pairs() -> None:
    design = Design(looks=(6, 12))
    logs = [math.log(1.3) + each for each in (0.01, -0.01, 0.02, -0.02, 0.01, 0.0)]
    assert judge_logs(logs, "lower", design.effect, design.share(0)).outcome is Outcome.REGRESSED


def test_secondary_figures_are_corrected_together() -> None:
    rng = np.random.default_rng(11)
    alarms = 0
    runs = 200
    for _ in range(runs):
        blocks = []
        for _pair in range(8):
            both = []
            for _side in range(2):
                ttft_s, gap_s = 0.1 * math.exp(rng.normal(0, 0.03)), 0.02 * math.exp(rng.normal(0, 0.03))
                both.append(driven([answer(each, at_s=each, ttft_s=ttft_s, gaps_s=[gap_s] * 5) for each in range(2)]))
            blocks.append((both[0], both[1]))
        found = compare(blocks, Design(primary="e2e mean", secondary=("ttft mean", "tpot mean", "stall mean")))
        alarms += any(each.outcome in {Outcome.IMPROVED, Outcome.REGRESSED} for each in found.secondary)
        assert all(each.adjusted_p >= each.p for each in found.secondary)
    assert binomial_interval(alarms, runs, 0.99).low <= 0.05


def test_the_ratio_is_the_geometric_mean_over_the_pairs() -> None:
    logs = [0.05, 0.03, 0.06, 0.04, 0.05, 0.07, 0.02, 0.05]
    found = compare(pairs_of(logs), Design())
    assert found.outcome is Outcome.REGRESSED
    assert found.primary is not None
    assert found.primary.ratio == pytest.approx(math.exp(np.mean(logs)), rel=1e-4)
    assert found.primary.interval is not None
    assert found.primary.bootstrap is not None
    assert found.primary.interval.low < found.primary.ratio < found.primary.interval.high
    assert found.primary.bootstrap.low < found.primary.ratio < found.primary.bootstrap.high
    assert found.primary.noise == pytest.approx(np.std(logs, ddof=1), rel=0.05)
    assert found.length_ratio == 1.0


def test_what_is_exactly_equal_is_equivalent() -> None:
    assert compare(pairs_of([0.0] * 8), Design()).outcome is Outcome.EQUIVALENT


def test_more_tokens_per_second_are_an_improvement() -> None:
    found = compare(pairs_of([-0.2, -0.21, -0.19, -0.2, -0.2, -0.22, -0.2, -0.18]), Design())
    assert found.outcome is Outcome.IMPROVED
    assert {each.outcome for each in found.secondary} <= {Outcome.IMPROVED, Outcome.EQUIVALENT}


def test_only_requests_that_both_answered_are_compared() -> None:
    pairs = []
    for a, b in pairs_of([0.0] * 8):
        slowest = max(b.records, key=lambda each: each.last_content_ns or 0)
        kept = [each for each in b.records if each is not slowest]
        pairs.append((a, driven([*kept, failed(slowest.index)])))
    found = compare(pairs, Design(looks=(6,)))
    assert found.primary is not None
    assert found.primary.ratio == pytest.approx(1.0)


def test_who_surely_fails_more_often_is_worse_however_quick() -> None:
    pairs = []
    for a, b in pairs_of([-0.3, -0.31, -0.29, -0.3, -0.32, -0.3, -0.28, -0.3]):
        kept = list(b.records)
        kept[0] = failed(kept[0].index)
        pairs.append((a, driven(kept)))
    found = compare(pairs, Design())
    assert found.failures == (0, 8)
    assert found.outcome is Outcome.REGRESSED
    swapped = compare([(b, a) for a, b in pairs], Design())
    assert swapped.outcome is Outcome.INCONCLUSIVE  # slower, and fails less


def failing(pairs: Sequence[Pair], number: Callable[[int], int]) -> list[Pair]:
    """Return the pairs with so many failures in each block of B."""
    found = []
    for place, (a, b) in enumerate(pairs):
        records = [failed(each.index) if at < number(place) else each for at, each in enumerate(b.records)]
        found.append((a, driven(records)))
    return found


@pytest.mark.parametrize("looks", [(6,), (7,), (8,), (6, 12), (8, 16)])
def test_failures_decide_in_every_design_however_quick_the_answers(looks: tuple[int, ...]) -> None:
    quicker = [-0.3 + 0.01 * (each % 3) for each in range(looks[-1])]
    for look, until in enumerate(looks):
        pairs = pairs_of(quicker[:until], requests=8)
        for number, failures in ((4, lambda _: 4), (8, lambda _: 8)):
            found = compare(failing(pairs, failures), Design(looks=looks), look=look)
            assert found.failures == (0, number * until)
            assert found.failures_decide
            assert found.outcome is Outcome.REGRESSED


@pytest.mark.parametrize("looks", [(6,), (7,), (8,), (6, 12)])
def test_latencies_still_decide_where_something_failed_on_both_sides(looks: tuple[int, ...]) -> None:
    pairs = failing(pairs_of([-0.3 + 0.01 * (each % 3) for each in range(looks[0])], requests=8), lambda _: 1)
    both = [(driven([failed(0), *a.records[1:]]), b) for a, b in pairs]
    assert compare(both, Design(looks=looks), look=0).outcome is Outcome.IMPROVED


@pytest.mark.parametrize("log", [-0.3, 0.0])
def test_who_is_seen_to_fail_more_is_neither_better_nor_equal_before_that_is_proved(log: float) -> None:
    pairs = pairs_of([log + 0.001 * (each % 3) for each in range(8)], requests=8)
    found = compare(failing(pairs, lambda place: int(place < 2)), Design())
    assert found.primary is not None
    assert found.primary.outcome in {Outcome.IMPROVED, Outcome.EQUIVALENT}
    assert not found.failures_decide
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "2 of 64 requests failed at B and 0 of 64 at A" in verdict(found)


def test_one_block_that_fails_as_a_whole_proves_as_little_as_one_request() -> None:
    pairs = pairs_of([0.0] * 8, requests=8)
    assert failures_p(failing(pairs, lambda place: 8 * (place == 3))) > 0.5
    assert failures_p(failing(pairs, lambda place: int(place != 3) + 1)) < 0.005


@pytest.mark.parametrize("alike", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("pairs", [6, 8])
def test_equal_servers_are_seldom_said_to_fail_differently_often(alike: float, pairs: int) -> None:
    """`alike` is how much the requests of a block share their fate: not at all, somewhat, wholly."""
    rng = np.random.default_rng(17)
    runs, requests, share = 300, 8, 0.3
    others = 1 / alike - 1 if alike else 1e9
    alarms = 0
    for _ in range(runs):
        if alike == 1:
            counted = requests * (rng.random((pairs, 2)) < share)
        else:
            counted = rng.binomial(requests, rng.beta(share * others, (1 - share) * others, (pairs, 2)))
        alarms += failures_p([(only_failures(a, requests), only_failures(b, requests)) for a, b in counted]) < 0.01
    assert alarms <= 9  # three are expected at most; more than nine are rarer than one in 800


def only_failures(number: int, requests: int) -> Driven:
    return driven([answer()] * (requests - int(number)), dropped=int(number))


def test_a_block_without_an_answer_counts_for_nothing() -> None:
    pairs = [(a, driven([failed(each.index) for each in b.records])) for a, b in pairs_of([0.0] * 8)]
    found = compare(pairs, Design())
    assert found.primary is None
    assert found.outcome is Outcome.REGRESSED


def test_answers_of_other_lengths_are_noticed() -> None:
    pairs = [(a, driven([answer(each, gaps_s=[0.02] * 11) for each in range(6)])) for a, _ in pairs_of([0.0] * 6)]
    assert compare(pairs, Design(looks=(6,))).length_ratio == pytest.approx(2.0)


def test_items_that_are_asked_twice_in_a_block_are_told_apart() -> None:
    def block(times: Sequence[float]) -> list[RequestRecord]:
        return [answer(index, ttft_s=at, item="same") for index, at in enumerate(times)]

    pairs = [(driven(block((0.1, 0.5))), driven(block((0.2, 1.0)))) for _ in range(6)]
    found = compare(pairs, Design(primary="ttft mean", looks=(6,)))
    assert found.primary is not None
    assert found.primary.ratio == pytest.approx(2.0)


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.1])
def test_the_number_of_pairs_that_is_said_to_be_needed_finds_the_effect(sd: float) -> None:
    rng = np.random.default_rng(13)
    base = rng.normal(0, 1, 12)
    logs = (base - base.mean()) / base.std(ddof=1) * sd
    found = compare(pairs_of(list(logs), requests=2), Design(looks=(12,), effect=0.05))
    assert found.pairs_needed is not None
    trials = rng.normal(math.log1p(0.05), sd, (400, found.pairs_needed))
    hits = sum(judge_logs(each, "lower", 0.05, 0.05).p < 0.05 for each in trials)
    assert hits / 400 > (0.75 if found.pairs_needed > 6 else 0.6)


def test_a_design_that_can_decide_nothing_is_refused() -> None:
    assert check_design(Design()) == Design()
    for looks, effect, alpha in product([(5,), (), (8, 8), (12, 8)], [0.03], [0.05]):
        with pytest.raises(ConfigError):
            check_design(Design(looks=looks, effect=effect, alpha=alpha))
    for effect, alpha in ((0.0, 0.05), (1.5, 0.05), (0.03, 0.0), (0.03, 0.6)):
        with pytest.raises(ConfigError):
            check_design(Design(effect=effect, alpha=alpha))
    with pytest.raises(ConfigError):
        check_design(Design(primary="speed"))
