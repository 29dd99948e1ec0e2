"""How long a decision takes is known before it is begun."""

import pytest

from qwenops.bench.budget import LEAST_S, pace_of_one, plan_sentence, proof_s, requests_to_decide, search_s
from qwenops.bench.conclusion import Outcome
from qwenops.bench.objective import ALPHA, Decision, alpha_spent, decide, parse_slo


@pytest.mark.parametrize(("objective", "allowed"), [("ttft p90 < 2s", 0.1), ("ttft p95 < 2s", 0.05)])
def test_as_many_requests_as_are_asked_for_decide_and_half_of_them_do_not(objective: str, allowed: float) -> None:
    n = requests_to_decide(parse_slo(objective))

    def decided(requests: int) -> Decision:
        return decide(round(allowed / 5 * requests), requests, 4.0, allowed, alpha_spent(2), ALPHA)

    assert decided(n) is Outcome.PASS
    assert decided(n // 2) is Outcome.UNDECIDED


def test_a_stricter_promise_takes_more() -> None:
    tens, twenties = (requests_to_decide(parse_slo(f"ttft p{each} < 2s")) for each in (90, 95))
    assert tens < twenties < requests_to_decide(parse_slo("ttft p95 < 2s, errors < 1%")) < 1500


def test_a_slow_server_takes_hours_and_a_quick_one_minutes() -> None:
    objective = parse_slo("ttft p95 < 60s")
    slow = search_s(objective, pace_of_one(20.0), proof_share=0.25, judged_share=0.85)
    assert 12 * 3600 < slow < 48 * 3600
    assert search_s(objective, pace_of_one(0.05), proof_share=0.25, judged_share=0.85) == LEAST_S
    assert proof_s(objective, 0.05, judged_share=1.0) == requests_to_decide(objective) / 0.05


def test_too_little_time_is_told_before() -> None:
    objective = parse_slo("ttft p95 < 2s")
    short = str(plan_sentence(objective, 2400.0, 600.0))
    assert "here about 40m. After 10m it will likely still be open" in short
    assert str(plan_sentence(objective, 2400.0, None)).endswith("this takes about 40m.")
    assert str(plan_sentence(objective, 2400.0, 3000.0)).endswith("this takes about 50m.")
