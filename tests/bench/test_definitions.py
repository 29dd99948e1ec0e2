from dataclasses import replace

import pytest

from qwenops.bench import definitions
from qwenops.bench.definitions import METRICS, chunk_times_ns, icl_s, itl_s, stall_s, tpot_s, ttfa_s, ttft_s
from tests.bench.records import NS, answer, failed


def test_latencies_are_counted_from_sending_and_from_the_schedule() -> None:
    late = replace(answer(ttft_s=0.3, gaps_s=(0.1, 0.2)), scheduled_ns=-2 * NS, connected_ns=NS // 100)
    assert ttft_s(late) == pytest.approx(0.3)
    assert definitions.ttft_response_s(late) == pytest.approx(2.3)
    assert definitions.e2e_s(late) == pytest.approx(0.6)
    assert definitions.e2e_response_s(late) == pytest.approx(2.6)
    assert definitions.schedule_lag_s(late) == pytest.approx(2.0)
    assert definitions.connect_s(late) == pytest.approx(0.01)


def test_time_to_first_answer_leaves_the_reasoning_out() -> None:
    thought = replace(answer(ttft_s=0.1, gaps_s=(0.5, 0.5)), first_answer_ns=NS)
    assert ttft_s(thought) == pytest.approx(0.1)
    assert ttfa_s(thought) == pytest.approx(1.0)


def test_an_answer_of_one_token_has_a_time_to_first_token_and_no_time_per_token() -> None:
    one = answer(ttft_s=0.2)
    assert one.completion_tokens == 1
    assert ttft_s(one) == pytest.approx(0.2)
    assert tpot_s(one) is None
    assert stall_s(one) is None
    assert icl_s(one) == ()


def test_an_answer_that_came_all_at_once_has_no_time_per_token() -> None:
    assert tpot_s(answer(tokens=40)) is None


def test_time_per_output_token_is_per_token_and_not_per_chunk() -> None:
    bundled = answer(gaps_s=(0.3, 0.3), tokens=7)
    assert tpot_s(bundled) == pytest.approx(0.1)
    assert icl_s(bundled) == pytest.approx((0.3, 0.3))
    assert stall_s(bundled) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("tokens", "are_tokens"), [(50, True), (51, True), (49, False), (52, False), (0, False), (None, False)]
)
def test_gaps_between_chunks_are_called_gaps_between_tokens_only_within_two_percent(
    tokens: int | None, *, are_tokens: bool
) -> None:
    found = itl_s(answer(gaps_s=(0.01,) * 49, tokens=tokens))
    assert (found is not None) is are_tokens


def test_chunks_that_stand_for_tokens_prove_nothing_about_tokens() -> None:
    guessed = answer(gaps_s=(0.01,) * 49, tokens=50, token_source="estimate")
    assert (itl_s(guessed), tpot_s(guessed)) == (None, None)
    assert icl_s(guessed) == pytest.approx((0.01,) * 49)
    counted = replace(guessed, token_source="server")
    assert itl_s(counted) == icl_s(counted)
    assert tpot_s(counted) == pytest.approx(0.01)


def test_what_did_not_come_is_unknown_and_not_zero() -> None:
    nothing = failed()
    for metric in METRICS.values():
        if metric.of_request is not None and metric.name != "schedule_lag":
            assert metric.of_request(nothing) is None, metric.name


def test_chunk_times_add_up() -> None:
    assert chunk_times_ns(answer(at_s=1, ttft_s=0.5, gaps_s=(0.25, 0.125))) == [
        1_500_000_000,
        1_750_000_000,
        1_875_000_000,
    ]
    assert chunk_times_ns(failed()) == []


def test_every_metric_has_one_name_a_unit_and_words() -> None:
    assert len({metric.key for metric in METRICS.values()}) == len(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.definition.endswith(".")
        assert metric.unit != "s" or metric.key.endswith("_s")
