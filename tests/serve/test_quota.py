import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.serve.line import Refusal
from qwenops.serve.quota import Exhausted, Quota, Reservation


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def reserve(
    quota: Quota, tokens: int = 0, *, requests_per_min: int = 0, tokens_per_min: int = 0
) -> Reservation | Exhausted:
    return quota.reserve("key", tokens=tokens, requests_per_min=requests_per_min, tokens_per_min=tokens_per_min)


def taken(result: Reservation | Exhausted) -> Reservation:
    assert isinstance(result, Reservation)
    return result


def refused(result: Reservation | Exhausted) -> Exhausted:
    assert isinstance(result, Exhausted)
    return result


def test_requests_of_a_minute_are_counted_and_come_back_evenly() -> None:
    clock = Clock()
    quota = Quota(clock)
    for _ in range(6):
        taken(reserve(quota, requests_per_min=6))
    out = refused(reserve(quota, requests_per_min=6))
    assert out.refusal is Refusal.KEY_REQUESTS
    assert out.retry_after_s == pytest.approx(10.0)
    clock.now_s += 10.0
    taken(reserve(quota, requests_per_min=6))
    refused(reserve(quota, requests_per_min=6))


def test_what_was_reserved_and_not_used_is_given_back_at_the_end() -> None:
    quota = Quota(Clock())
    first = taken(reserve(quota, 900, tokens_per_min=1000))
    assert refused(reserve(quota, 200, tokens_per_min=1000)).refusal is Refusal.KEY_TOKENS
    quota.settle(first, used_tokens=100)
    taken(reserve(quota, 900, tokens_per_min=1000))


def test_a_request_that_used_more_than_it_reserved_delays_the_next_one() -> None:
    clock = Clock()
    quota = Quota(clock)
    quota.settle(taken(reserve(quota, 100, tokens_per_min=600)), used_tokens=900)
    assert refused(reserve(quota, 1, tokens_per_min=600)).retry_after_s == pytest.approx(30.1)


def test_a_failed_request_has_cost_a_request_and_its_prompt() -> None:
    quota = Quota(Clock())
    quota.settle(taken(reserve(quota, 500, requests_per_min=1, tokens_per_min=1000)), used_tokens=400)
    assert refused(reserve(quota, 1, requests_per_min=1, tokens_per_min=1000)).refusal is Refusal.KEY_REQUESTS
    assert refused(reserve(quota, 700, tokens_per_min=1000)).refusal is Refusal.KEY_TOKENS


def test_a_request_that_the_server_turned_away_has_cost_nothing() -> None:
    quota = Quota(Clock())
    quota.give_back(taken(reserve(quota, 1000, requests_per_min=1, tokens_per_min=1000)))
    taken(reserve(quota, 1000, requests_per_min=1, tokens_per_min=1000))


def test_a_request_larger_than_a_minutes_tokens_is_possible_with_a_full_bucket() -> None:
    clock = Clock()
    quota = Quota(clock)
    taken(reserve(quota, 5000, tokens_per_min=1000))
    assert refused(reserve(quota, 5000, tokens_per_min=1000)).retry_after_s == pytest.approx(300.0)
    clock.now_s += 300.0
    taken(reserve(quota, 5000, tokens_per_min=1000))


def test_a_limit_that_is_changed_or_lifted_holds_at_once() -> None:
    quota = Quota(Clock())
    taken(reserve(quota, requests_per_min=1))
    refused(reserve(quota, requests_per_min=1))
    taken(reserve(quota, requests_per_min=2))
    refused(reserve(quota, requests_per_min=2))
    taken(reserve(quota, requests_per_min=0))


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=40))
def test_over_any_course_no_more_is_used_than_the_rate_allows(course: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    quota = Quota(clock)
    used, passed_s = 0, 0.0
    for wait_s, tokens, actual in course:
        clock.now_s += wait_s
        passed_s += wait_s
        result = reserve(quota, tokens, tokens_per_min=600)
        if isinstance(result, Reservation):
            used += min(actual, tokens)
            quota.settle(result, used_tokens=min(actual, tokens))
        else:
            assert 0 < result.retry_after_s <= 60
    assert used <= 600 + passed_s * 10 + 1e-6
