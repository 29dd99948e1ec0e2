import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, Literal

import pytest

from qwenops.bench.collect.energy import NO_COUNTERS
from qwenops.bench.collect.findings import findings
from qwenops.bench.conclusion import Finding, crossed
from qwenops.bench.folder import Gap, RecordedRun
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, Segment

AT_14_00_NS = 1_700_000_000 * NS_PER_S - (1_700_000_000 - 14 * 3600) % 86_400 * NS_PER_S  # a day's 14:00 UTC
CALM: dict[str, Any] = {
    "schema": "qwenops.host/1",
    "interval_s": 1.0,
    "cpus": 4,
    "throttled_ratio": 0.0,
    "cpu_steal_ratio": 0.001,
    "swap_in_bytes_per_s": 0,
    "swap_out_bytes_per_s": 0,
    "other_cpu_cores": 0.1,
    "server_read_bytes_per_s": 0,
    "pressure_memory_some_ratio": 0.0,
    "server_rss_bytes": 800_000_000,
    "disk_free_bytes": 50_000_000_000,
}
TROUBLE: dict[str, tuple[dict[str, Any], str]] = {
    "throttled": ({"throttled_ratio": 0.38}, "38 % CPU throttling by the quota"),
    "steal": ({"cpu_steal_ratio": 0.22}, "22 % CPU steal"),
    "swap": (
        {"swap_in_bytes_per_s": 30 * 1024**2, "swap_out_bytes_per_s": 10 * 1024**2},
        "swapping of 40.0 MiB a second",
    ),
    "others": (
        {"other_cpu_cores": 2.4, "other_processes": [{"pid": 9, "name": "backup", "cpu_cores": 2.3}]},
        "other programs (backup) that used 60 % of the CPU",
    ),
    "disk": ({"server_read_bytes_per_s": 90 * 1024**2}, "reading 90.0 MiB a second from disk"),
    "memory": ({"pressure_memory_some_ratio": 0.41}, "memory pressure (tasks waited for memory 41 %"),
}


def host(seconds: int, trouble: dict[str, Any] | None = None, when: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Return one calm sample a second; those of `when` (each about the second before it) have trouble."""
    return [
        {**CALM, "at_ns": second * NS_PER_S, **(trouble or {} if second in when else {})}
        for second in range(1, seconds + 1)
    ]


def request(index: int, at_s: float, ttft_s: float, failure: Failure | None = None) -> RequestRecord:
    at_ns, first_ns = round(at_s * NS_PER_S), round((at_s + ttft_s) * NS_PER_S)
    return RequestRecord(
        index=index,
        segment="load",
        phase=Phase.MEASURE,
        item=str(index),
        prompt_hash="",
        scheduled_ns=at_ns,
        sent_ns=at_ns,
        first_content_ns=first_ns,
        first_answer_ns=first_ns,
        last_content_ns=first_ns + NS_PER_S // 5,
        ended_ns=first_ns + NS_PER_S // 5,
        chunk_gaps_us=(200_000,),
        failure=failure,
    )


def requests(seconds: int, ttft_s: Callable[[int], float]) -> list[RequestRecord]:
    """Return one request a second; noise of a tenth is on its TTFT."""
    noise = random.Random(3)
    return [request(at_s, at_s, ttft_s(at_s) * noise.uniform(0.95, 1.05)) for at_s in range(seconds)]


def recorded(
    samples: Sequence[dict[str, Any]], records: Sequence[RequestRecord], gaps: Sequence[Gap] = ()
) -> RecordedRun:
    driven = Driven(
        segment=Segment(name="load", load=ClosedLoop(users=1)), began_ns=0, window_ns=1, ended_ns=1, records=records
    )
    manifest = {"began_wall_ns": AT_14_00_NS}
    return RecordedRun(path=Path(), manifest=manifest, drivens=[driven], host=samples, gaps=gaps)


def told(run: RecordedRun) -> list[Finding]:
    return findings(run, zone=UTC)


class TestCauses:
    @pytest.mark.parametrize("cause", TROUBLE)
    def test_slow_answers_are_put_down_to_what_happened_at_the_time(self, cause: str) -> None:
        trouble, said = TROUBLE[cause]
        run = recorded(host(200, trouble, range(126, 136)), requests(200, lambda at: 3.0 if 124 <= at < 135 else 0.9))
        first = told(run)[0]
        assert first.severity == "warning"
        assert re.match(r"Slow answers from 14:02:05 on \(TTFT (2\.9|3\.0|3\.1)", str(first.text))
        assert "usually 0.9" in str(first.text)
        assert said in str(first.text)
        assert (first.from_ns, first.to_ns) == (125 * NS_PER_S, 135 * NS_PER_S)

    @pytest.mark.parametrize("cause", TROUBLE)
    def test_trouble_that_slowed_nothing_down_is_no_warning(self, cause: str) -> None:
        trouble, said = TROUBLE[cause]
        (found,) = told(recorded(host(200, trouble, range(126, 136)), requests(200, lambda _: 0.9)))
        assert found.severity == "info"
        assert said in str(found.text)
        assert "answers were not slower" in str(found.text)

    @pytest.mark.parametrize("cause", TROUBLE)
    def test_trouble_all_the_time_is_said_though_there_is_nothing_to_compare_with(self, cause: str) -> None:
        trouble, said = TROUBLE[cause]
        first = told(recorded(host(100, trouble, range(1, 101)), requests(100, lambda _: 2.0)))[0]
        assert first.severity == "warning"
        assert str(first.text).startswith("Nearly all the time: ")
        assert said in str(first.text)

    def test_one_spike_among_quick_answers_is_found(self) -> None:
        run = recorded(
            host(200, {"throttled_ratio": 0.38}, range(120, 130)), requests(200, lambda at: 4.0 if at == 122 else 0.9)
        )
        first = told(run)[0]
        assert str(first.text).startswith("The slowest answer at 14:01:59 (TTFT 4.")
        assert "38 % CPU throttling by the quota" in str(first.text)

    def test_a_calm_run_has_nothing_to_tell(self) -> None:
        assert told(recorded(host(300), requests(300, lambda _: 0.9))) == []

    def test_the_strongest_spell_is_told_and_the_others_are_counted(self) -> None:
        samples = host(300, {"throttled_ratio": 0.2}, [*range(50, 60), *range(200, 210)])
        samples += [
            {**each, "throttled_ratio": 0.6} for each in samples if 100 * NS_PER_S <= each["at_ns"] < 110 * NS_PER_S
        ]
        samples = sorted({each["at_ns"]: each for each in samples}.values(), key=lambda each: each["at_ns"])
        slow = {*range(48, 60), *range(98, 110), *range(198, 210)}
        found = told(recorded(samples, requests(300, lambda at: 3.0 if at in slow else 0.9)))
        assert "60 % CPU throttling" in str(found[0].text)
        assert str(found[1].text) == "The same happened 2 more times, weaker."

    def test_two_causes_at_once_are_both_told(self) -> None:
        trouble = {"throttled_ratio": 0.4, "cpu_steal_ratio": 0.3}
        found = told(
            recorded(host(100, trouble, range(50, 60)), requests(100, lambda at: 3.0 if 48 <= at < 60 else 0.9))
        )
        assert [("throttling" in str(each.text), "steal" in str(each.text)) for each in found] == [
            (True, False),
            (False, True),
        ]

    def test_a_lower_frequency_than_usual_is_seen(self) -> None:
        samples = host(200)
        for each in samples:
            each["frequency_hz"] = 1.4e9 if 100 * NS_PER_S < each["at_ns"] <= 120 * NS_PER_S else 2.8e9
        found = told(recorded(samples, requests(200, lambda at: 2.0 if 99 <= at < 120 else 0.9)))
        assert "a CPU frequency 50 % below the usual 2.8 GHz" in str(found[0].text)

    def test_times_of_day_go_on_across_a_gap(self) -> None:
        run = recorded(
            host(100, {"throttled_ratio": 0.38}, range(50, 60)),
            requests(100, lambda at: 3.0 if 48 <= at < 60 else 0.9),
            gaps=[Gap(at_ns=10 * NS_PER_S, lost_s=3600.0)],
        )
        assert "from 15:00:49 on" in str(told(run)[0].text)

    def test_failed_answers_are_not_taken_for_quick_ones(self) -> None:
        records = requests(100, lambda at: 3.0 if 48 <= at < 60 else 0.9)
        records += [request(1000 + at, at, 0.001, Failure.SHED) for at in range(50, 60) for _ in range(5)]
        found = told(recorded(host(100, {"throttled_ratio": 0.38}, range(50, 60)), records))
        assert re.search(r"TTFT (2\.9|3\.0|3\.1)", str(found[0].text))


class TestOthers:
    def test_the_first_request_was_cold(self) -> None:
        found = told(recorded(host(60), requests(60, lambda at: 5.0 if at == 0 else 0.5)))
        assert "The first request was cold: its first token took 4." in str(found[0].text) or (
            "its first token took 5." in str(found[0].text)
        )
        assert found[0].severity == "info"
        assert not told(recorded(host(60), requests(60, lambda at: 0.7 if at == 0 else 0.5)))

    def test_memory_that_grows_all_the_time_is_seen_and_a_cache_that_fills_is_not(self) -> None:
        growing, filling = host(600), host(600)
        for place, each in enumerate(growing):
            each["server_rss_bytes"] = 800_000_000 + 500_000 * place
        for place, each in enumerate(filling):
            each["server_rss_bytes"] = 800_000_000 + 3_000_000 * min(place, 100)
        (found,) = told(recorded(growing, requests(600, lambda _: 0.9)))
        assert found.severity == "warning"
        assert "memory grew by 228" in str(found.text)
        assert told(recorded(filling, requests(600, lambda _: 0.9))) == []
        run = recorded(growing, requests(600, lambda _: 0.9))
        assert told(replace(run, manifest={**run.manifest, "verb": "soak"})) == []  # it judges that itself

    @pytest.mark.parametrize(("cache", "severity"), [(400_000_000, "info"), (200_000_000, "warning")])
    def test_memory_that_grows_within_what_the_servers_cache_may_take_is_no_warning(
        self, cache: int, severity: str
    ) -> None:
        growing = host(600)
        for place, each in enumerate(growing):
            each["server_rss_bytes"] = 800_000_000 + 500_000 * place
        run = recorded(growing, requests(600, lambda _: 0.9))
        for said in ({"engine": {"kv_cache_bytes": cache}}, {"facts": {"/api/v1/model": {"kv_cache_bytes": cache}}}):
            (found,) = told(replace(run, manifest={**run.manifest, "targets": {"": said}}))
            assert found.severity == severity
            assert ("its cache fills at first, and may take 381" in str(found.text)) is (severity == "info")

    def test_memory_near_its_limit_and_a_full_disk(self) -> None:
        samples = host(20)
        samples[10] |= {"cgroup_memory_bytes": 3_100_000_000, "cgroup_memory_limit_bytes": 3_200_000_000}
        samples[12]["disk_free_bytes"] = 100_000_000
        texts = " ".join(str(each.text) for each in told(recorded(samples, requests(20, lambda _: 0.9))))
        assert "used 2.9 GiB of its 3.0 GiB of memory" in texts
        assert "Only 95.4 MiB of disk are free" in texts

    def test_a_slow_answer_without_a_reason_is_said_to_have_none(self) -> None:
        (found,) = told(recorded(host(200), requests(200, lambda at: 6.0 if at == 90 else 0.9)))
        assert "One answer took more than three times the usual 0.9" in str(found.text)
        assert "at 14:01:30" in str(found.text)
        assert "nothing that was watched on this machine explains it" in str(found.text)

    def test_an_answer_that_is_late_by_some_milliseconds_is_not_worth_a_word(self) -> None:
        assert told(recorded(host(200), requests(200, lambda at: 0.022 if at == 90 else 0.006))) == []

    def test_other_programs_that_took_much_of_the_machine_are_a_warning_though_no_answer_was_slower(self) -> None:
        busy = {"other_cpu_cores": 1.2, "other_processes": [{"pid": 9, "name": "backup", "cpu_cores": 1.1}]}
        (found,) = told(recorded(host(100, busy, range(50, 70)), requests(100, lambda _: 0.9)))
        assert found.severity == "warning"
        assert str(found.text).startswith(
            "For 20 % of the time there were other programs (backup) that used 30 % of the CPU"
        )
        (short,) = told(recorded(host(100, busy, range(50, 55)), requests(100, lambda _: 0.9)))
        assert short.severity == "info"

    @pytest.mark.parametrize(("source", "tokens"), [("server", 12), ("estimate", 1)])
    def test_answers_in_one_piece_are_said_to_have_no_first_token(
        self, source: Literal["server", "estimate"], tokens: int
    ) -> None:
        streamed = requests(20, lambda _: 0.9)
        whole = [
            replace(each, chunk_gaps_us=(), completion_tokens=tokens, token_source=source, last_content_ns=None)
            for each in streamed
        ]
        (found,) = told(recorded([], whole))
        assert found.severity == "warning"
        assert str(found.text).startswith("20 of 20 answers came in one piece, not as a stream: their TTFT is the time")
        assert told(recorded([], streamed)) == []
        one = [replace(each, completion_tokens=1, token_source="server") for each in whole]
        assert told(recorded([], one)) == []  # a single token cannot come in two pieces

    def test_energy_is_told_or_why_it_is_unknown(self) -> None:
        samples = [{**each, "energy_j": {"package": 8.0 * place}} for place, each in enumerate(host(100))]
        (found,) = told(recorded(samples, [request(0, 50.2, 3.5)]))
        assert str(found.text).startswith("The processor took 32 J: 0.00 J for each token, 32.0 J for each answer.")
        assert "Idling takes 8.0 W" in str(found.text)
        unknown = host(100)
        unknown[0]["absent"] = {"energy_j": crossed(NO_COUNTERS), "frequency_hz": "x"}
        (found,) = told(recorded(unknown, requests(100, lambda _: 0.9)))
        assert found.text == NO_COUNTERS

    def test_without_samples_or_without_requests_there_is_nothing_to_say(self) -> None:
        assert told(recorded([], requests(100, lambda at: 6.0 if at == 90 else 0.9))) == []
        assert told(recorded(host(100), [])) == []
        first = {name: value for name, value in CALM.items() if name != "interval_s"}
        assert told(recorded([{**first, "at_ns": 1, "throttled_ratio": 0.9}], [])) == []

    def test_ten_thousand_requests_and_a_day_of_samples_are_looked_through_quickly(self) -> None:
        samples = host(86_400, {"throttled_ratio": 0.3}, range(0, 86_400, 20))
        records = [request(index, index * 8.6, 0.9) for index in range(10_000)]
        assert told(recorded(samples, records))[0].severity == "info"
