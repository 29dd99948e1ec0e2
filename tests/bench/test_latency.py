"""`bench latency` and `bench quick` against servers of known speed."""

import json
from pathlib import Path

import pytest

from qwenops.bench.conclusion import Conclusion
from qwenops.bench.folder import read_records
from qwenops.bench.latency import latency
from qwenops.bench.quick import PROMPTS, quick
from qwenops.bench.record import NS_PER_S, Phase
from qwenops.bench.run import Run
from qwenops.bench.segment import ClosedLoop
from tests.bench.test_load import measured

CACHING = "simulated:?prefill_tokens_per_s=1000&decode_tokens_per_s=50&cache_tokens=100000&thinking_tokens=20"


def test_each_condition_is_measured_and_the_first_request_is_apart(tmp_path: Path) -> None:
    conclusion, found = measured(tmp_path, latency, verb="latency", target=CACHING, requests=50)
    names = [driven.segment.name for driven in found.drivens]
    assert names == ["first", "warm-up", "warm", "bust", "warm, thinking", "bust, thinking"]
    assert [len(driven.records) for driven in found.drivens] == [1, 2, 50, 50, 10, 10]
    assert found.drivens[0].segment.phase is Phase.WARMUP
    assert all(isinstance(each.segment.load, ClosedLoop) and each.segment.load.users == 1 for each in found.drivens)
    assert conclusion.sentences[0].startswith("The very first request:")
    assert any("finds nothing (bust)" in sentence for sentence in conclusion.sentences)
    assert any("the answer itself begins after" in sentence for sentence in conclusion.sentences)
    warm, bust, thinking, _ = conclusion.data["segments"]
    assert warm["cached_tokens"] > 1000
    assert bust["cached_tokens"] == 0
    assert bust["distributions"]["ttft_s"]["p50"]["value"] > 1.1 * warm["distributions"]["ttft_s"]["p50"]["value"]
    # Twenty tokens of thinking at fifty a second come before the answer.
    gap_s = thinking["distributions"]["ttfa_s"]["mean"] - thinking["distributions"]["ttft_s"]["mean"]
    assert gap_s == pytest.approx(0.4, abs=0.021)
    assert conclusion.data["latency_test"]["iterations"] == 50
    assert any(sentence.startswith("Prefix cache:") for sentence in conclusion.sentences)
    assert set(conclusion.data["cache"].values()) == {"warm", "bust"}
    json.dumps(conclusion.data)


def test_with_and_without_the_beginning_the_same_is_asked_and_what_thinks_is_asked_something_else(
    tmp_path: Path,
) -> None:
    _, found = measured(tmp_path, latency, verb="latency", target=CACHING, requests=10)
    warm, bust, thinking, bust_thinking = ([record.item for record in each.records] for each in found.drivens[2:])
    assert warm == bust
    assert thinking == bust_thinking
    assert not set(thinking) & set(warm)


def test_bust_and_warm_say_in_the_folder_what_they_were(tmp_path: Path) -> None:
    _, found = measured(tmp_path, latency, verb="latency", target=CACHING, requests=5)
    lines = [json.loads(line) for line in (found.path / "segments.jsonl").read_text("utf-8").splitlines()]
    told = {line["segment"]["name"]: line["workload"] for line in lines if "workload" in line}
    assert [told[name]["cache"] for name in ("warm", "bust")] == ["warm", "bust"]
    assert [told[name]["thinking"] for name in ("warm", "warm, thinking")] == [False, True]


@pytest.mark.proves("C1")
def test_a_first_look_is_ten_requests_then_two_callers_for_half_a_minute(tmp_path: Path) -> None:
    conclusion, found = measured(tmp_path, quick, verb="quick", target=CACHING)
    first, one, two = found.drivens
    assert (len(first.records), len(one.records)) == (1, 10)
    assert two.segment.load == ClosedLoop(users=2)
    assert two.window_ns == 30 * 10**9
    assert {record.item for record in read_records(found.path)} == {"prompt-1", "prompt-2", "prompt-3"}
    overview, prompts = conclusion.tables[:2]
    assert [row[0] for row in overview.rows] == ["one caller", "users=2"]
    assert [row[0] for row in prompts.rows] == list(PROMPTS["zh"])
    assert [row[1] for row in prompts.rows] == [4, 3, 3]
    assert conclusion.data["latency_test"]["total_requests"] == 10
    assert conclusion.data["qps_test"]["concurrent_users"] == 2
    assert conclusion.data["qps_test"]["test_duration"] == 30.0


def test_a_first_look_in_english_asks_in_english(tmp_path: Path) -> None:
    conclusion, _ = measured(tmp_path, quick, verb="quick", workload="calls-en", duration_s=1.0)
    assert [row[0] for row in conclusion.tables[1].rows] == list(PROMPTS["en"])


def test_a_first_request_that_fails_is_told(tmp_path: Path) -> None:
    conclusion, _ = measured(tmp_path, quick, verb="quick", target="simulated:?status=500", duration_s=1.0, requests=2)
    assert conclusion.sentences[0].startswith("The very first request failed:")
    assert any("none of 2 requests" in sentence for sentence in conclusion.sentences)


def test_a_first_look_knows_when_it_will_be_over(tmp_path: Path) -> None:
    async def watched(run: Run) -> Conclusion:
        conclusion = await quick(run)
        assert run.expected_s == pytest.approx(run.now_ns() / NS_PER_S, abs=5.0)
        return conclusion

    measured(tmp_path, watched, verb="quick", target=CACHING)
