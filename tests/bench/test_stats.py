import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import OpenLoop
from qwenops.bench.stats import distribution, estimate, measure, summarise, summary_data
from qwenops.errors import ConfigError
from tests.bench.records import NS, answer, driven, failed


def met(bound_s: float) -> Callable[[RequestRecord], bool]:
    return lambda record: (record.last_content_ns or 0) - (record.sent_ns or 0) <= bound_s * NS


def test_p99_of_forty_samples_is_not_a_number() -> None:
    found = distribution(list(range(40)))
    assert found.p99.value is None
    assert found.p99.note == "n/a (40 < 299)"
    assert found.p95.note == "n/a (40 < 59)"
    assert found.p90.value is not None
    assert found.p50.note == ""


def test_between_one_and_two_sides_there_is_only_an_upper_bound() -> None:
    found = estimate(list(range(60)), 0.95)
    assert found.value == 56
    assert found.low is None
    assert found.high == 59
    both = estimate(list(range(72)), 0.95)
    assert both.low is not None
    assert both.high == 71


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=400))
def test_a_percentile_is_a_sample_within_its_interval(values: list[float]) -> None:
    found = distribution(values)
    assert found.n == len(values)
    for p, each in found.percentiles.items():
        if each.value is not None:
            assert each.value in values
            assert sum(value <= each.value for value in values) >= p / 100 * len(values) - 1e-6
            assert each.low is None or each.low <= each.value
            assert each.high is not None
            assert each.value <= each.high


def test_percentiles_of_pooled_samples_are_no_averages_of_percentiles() -> None:
    fast, slow = (
        [answer(each, ttft_s=0.1) for each in range(290)],
        [answer(300 + each, ttft_s=5.0) for each in range(10)],
    )
    whole = summarise(driven([*fast, *slow])).distributions["ttft"]
    assert whole.p95.value == pytest.approx(0.1)
    assert whole.p99.value == pytest.approx(5.0)


def test_failures_are_counted_by_kind_and_are_in_the_denominators() -> None:
    records = [answer(each) for each in range(6)]
    records += [failed(6), failed(7, failure=Failure.SHED), failed(8, failure=Failure.INTERRUPTED)]
    found = summarise(driven(records, dropped=2), bounds=met(1.0))
    assert found.counts.ok == 6
    assert found.counts.failures == {"shed": 1, "timeout": 1}
    assert found.counts.interrupted == 1
    assert found.counts.scheduled == 11
    assert found.rates["errors"] == pytest.approx(2 / 8)
    assert found.rates["attainment"] == pytest.approx(6 / 10)
    assert found.rates["goodput"] == pytest.approx(0.6)
    assert found.distributions["ttft"].n == 6


def test_an_answer_that_is_too_slow_is_no_goodput() -> None:
    found = summarise(driven([answer(0), answer(1, ttft_s=2.0)]), bounds=met(1.0))
    assert found.rates["attainment"] == pytest.approx(0.5)
    assert summarise(driven([answer(0)])).rates["goodput"] is None


def test_tokens_count_where_their_chunk_came_and_not_where_their_answer_ended() -> None:
    over = answer(at_s=9.0, ttft_s=0.5, gaps_s=(0.25,) * 9)  # chunks at 9.5, 9.75, 10.0 and seven later
    assert summarise(driven([over], window_s=10)).rates["output_tokens_per_s"] == pytest.approx(0.3)
    done = (10.0 - 9.0) / (11.75 - 9.0)  # of the answer, when the window ends
    assert summarise(driven([over], window_s=10)).rates["completed_rate"] == pytest.approx(done / 10)


def test_tokens_of_a_chunk_are_shares_of_the_answers_tokens() -> None:
    bundled = answer(gaps_s=(1.0, 1.0, 1.0), tokens=40)
    assert summarise(driven([bundled], window_s=2)).rates["output_tokens_per_s"] == pytest.approx(40 / 2 / 2)


def test_without_token_counts_there_is_no_token_rate() -> None:
    found = summarise(driven([answer(0), answer(1, tokens=None, token_source=None)]))
    assert found.rates["output_tokens_per_s"] is None
    assert found.token_source is None
    assert found.completion_tokens is None
    worst = summarise(driven([answer(0), answer(1, token_source="estimate")]))
    assert worst.token_source == "estimate"


def test_answers_of_one_token_add_nothing_to_the_time_per_token() -> None:
    records = [answer(each) for each in range(5)] + [answer(5, gaps_s=(0.2, 0.2))]
    found = summarise(driven(records)).distributions
    assert found["ttft"].n == 6
    assert found["tpot"].n == 1
    assert found["tpot"].mean == pytest.approx(0.2)
    assert "tpot" not in summarise(driven(records[:5])).distributions


def test_gaps_of_one_answer_get_no_interval() -> None:
    found = summarise(driven([answer(gaps_s=[0.01 * (1 + each % 7) for each in range(500)])])).distributions["icl"]
    assert found.n == 500
    assert found.p99.value is not None
    assert found.p99.high is None


def test_warm_up_is_not_counted() -> None:
    warmup = replace(answer(0, ttft_s=9.0), phase=Phase.WARMUP)
    found = summarise(driven([warmup, answer(1)]))
    assert found.counts.sent == 1
    assert found.distributions["ttft"].max == pytest.approx(0.1)


def test_littles_law_holds_for_a_steady_load_and_not_for_one_that_piles_up() -> None:
    steady = [answer(each, at_s=each, ttft_s=0.5, gaps_s=(0.5,)) for each in range(10)]
    law = summarise(driven(steady, window_s=10)).little
    assert law is not None
    assert law.in_flight == pytest.approx(1.0)
    assert law.error == pytest.approx(0.0)
    piling = [answer(each, at_s=each, ttft_s=1.0, gaps_s=(each * 1.0,)) for each in range(20)]
    law = summarise(driven(piling, window_s=20)).little
    assert law is not None
    assert law.error is not None
    assert law.error > 0.3


def test_the_spacing_of_an_open_loop_is_reported() -> None:
    offsets = tuple(range(0, 10 * NS, NS))
    steady = [answer(each, at_s=each) for each in range(10)]
    found = summarise(driven(steady, load=OpenLoop(offsets_ns=offsets))).arrivals
    assert found.target_rate == pytest.approx(1.0)
    assert found.gap_cv == pytest.approx(0.0)
    gaps = np.random.default_rng(1).exponential(1, 2000)
    random = [answer(each, at_s=at) for each, at in enumerate(np.cumsum(gaps))]
    cv = summarise(driven(random, load=OpenLoop(offsets_ns=offsets), window_s=2000)).arrivals.gap_cv
    assert cv == pytest.approx(1.0, abs=0.1)


def test_a_summary_is_json_with_the_names_of_vllm_beside_ours() -> None:
    records = [answer(each, at_s=each / 40, ttft_s=0.1, gaps_s=(0.05, 0.05)) for each in range(400)]
    data = json.loads(json.dumps(summary_data(summarise(driven(records), bounds=met(1.0)))))
    assert data["distributions"]["ttft_s"]["p99"]["value"] == pytest.approx(0.1)
    assert data["vllm"]["p99_ttft_ms"] == pytest.approx(100)
    assert data["vllm"]["mean_tpot_ms"] == pytest.approx(50)
    assert data["vllm"]["mean_itl_ms"] == pytest.approx(50)
    assert data["vllm"]["request_goodput"] == pytest.approx(data["rates"]["goodput"])
    assert data["vllm"]["completed"] == 400


def test_an_empty_segment_has_a_summary() -> None:
    found = summarise(driven([], window_s=0))
    assert found.counts.scheduled == 0
    assert set(found.rates.values()) == {None}
    assert summary_data(found)["vllm"]["p99_ttft_ms"] is None


def test_a_figure_is_found_by_its_name() -> None:
    found = summarise(driven([answer(each, ttft_s=0.1 * (1 + each)) for each in range(9)]))
    assert measure(found, "ttft p50") == pytest.approx(0.5)
    assert measure(found, "ttft") == pytest.approx(0.5)
    assert measure(found, "errors") == 0
    assert measure(found, "tpot p50") is None
    for wrong in ("ttft p12", "speed", "errors p50"):
        with pytest.raises(ConfigError):
            measure(found, wrong)
