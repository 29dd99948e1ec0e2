"""A long run is read a piece at a time: what is in memory does not grow with it, and figures stay those of all."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.collect.energy import consumption
from qwenops.bench.collect.findings import findings
from qwenops.bench.folder import SCHEMA, RecordedRun, read_run, record_data, segment_data
from qwenops.bench.record import Failure
from qwenops.bench.report.contents import report_page
from qwenops.bench.report.grouped import groups_of
from qwenops.bench.segment import ClosedLoop, Segment
from qwenops.bench.thinning import Bounds, joined, step
from qwenops.page.html import render
from tests.bench.records import NS, answer, failed

FEW = Bounds(requests=500, samples=200)


def long_run(folder: Path, number: int) -> Path:
    """Write what a soak of so many requests, one a second, leaves behind; each hundredth fails."""
    folder.mkdir()
    manifest = {"schema": SCHEMA, "verb": "soak", "began_wall_ns": 0, "targets": {}, "options": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    segment = Segment(name="soak", load=ClosedLoop(users=1), duration_s=float(number))
    began: dict[str, Any] = {"event": "began", "number": 0, "at_ns": 0, "target": "", "first_index": 0}
    ended = {"event": "ended", "number": 0, "at_ns": number * NS, "window_ns": number * NS, "interrupted": False}
    lines = ({**began, "segment": segment_data(segment)}, ended)
    (folder / "segments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (folder / "requests.jsonl").open("w") as requests, (folder / "host.jsonl").open("w") as host:
        for index in range(number):
            good = answer(index, at_s=index, ttft_s=0.1 + index % 7 / 100, gaps_s=[0.01] * 20)
            record = failed(index, at_s=index, failure=Failure.SHED) if index % 100 == 50 else good
            requests.write(json.dumps(record_data(replace(record, segment="soak"))) + "\n")
            sample = {
                "schema": "qwenops.host/1",
                "at_ns": (index + 1) * NS,
                "interval_s": 1.0,
                "throttled_ratio": 0.0,
                "server_rss_bytes": 1_000_000_000,
                "energy_j": {"package": 10.0 * index},
            }
            host.write(json.dumps(sample) + "\n")
    return folder


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def looked_through(path: Path) -> None:
    run = read_run(path, thin=FEW)
    assert findings(run)
    render(report_page(run))


@pytest.mark.slow
def test_memory_at_the_end_of_a_run_does_not_grow_with_its_length(tmp_path: Path) -> None:
    short, long = long_run(tmp_path / "short", 2000), long_run(tmp_path / "long", 8000)
    looked_through(short)  # what is imported and filled once
    few, many = peak_bytes(lambda: looked_through(short)), peak_bytes(lambda: looked_through(long))
    whole = peak_bytes(lambda: read_run(long))
    assert many < few + 6000 * 300, "eight bytes for each figure of a request, and the page's own lists"
    assert many < whole


def test_figures_of_a_thinned_run_are_those_of_all_its_requests(tmp_path: Path) -> None:
    path = long_run(tmp_path / "run", 1500)
    whole, thinned = read_run(path), read_run(path, thin=FEW)
    assert (whole.every, thinned.every) == (1, 3)
    assert len(thinned.drivens[0].records) == 500
    (all_of_them,), (some) = (groups_of(each, None)[0].summaries for each in (whole, thinned))
    assert some[0].counts == all_of_them.counts
    assert some[0].counts.failures == {"shed": 15}
    assert some[0].distributions["ttft"] == all_of_them.distributions["ttft"]
    assert some[0].rates["errors"] == all_of_them.rates["errors"]
    assert consumption(thinned.host, thinned.all_records()) == consumption(thinned.host, whole.all_records())
    page = render(report_page(thinned))
    assert "show one of 3, figures and tables are of all" in page
    assert "show one of" not in render(report_page(whole))


def test_short_runs_and_runs_of_several_parts_are_read_whole(tmp_path: Path) -> None:
    path = long_run(tmp_path / "run", 1200)
    assert read_run(path, thin=Bounds()).every == 1
    segments = path / "segments.jsonl"
    segments.write_text(segments.read_text() + segments.read_text().replace('"number": 0', '"number": 1'))
    found: RecordedRun = read_run(path, thin=FEW)
    assert found.every == 1


def test_of_how_many_one_is_read() -> None:
    bounds = Bounds(requests=100, bytes=1000)
    assert [step(100, 10, bounds), step(101, 10, bounds), step(10, 2500, bounds)] == [1, 2, 3]


def test_samples_that_are_put_together_keep_time_rates_and_the_last_amounts() -> None:
    samples = [
        {"at_ns": second * NS, "interval_s": 1.0, "throttled_ratio": second / 10, "server_rss_bytes": second}
        for second in range(1, 6)
    ]
    first, second, last = joined(samples, 2)
    assert first == {"at_ns": 2 * NS, "interval_s": 2.0, "throttled_ratio": pytest.approx(0.15), "server_rss_bytes": 2}
    assert second["throttled_ratio"] == pytest.approx(0.35)
    assert last == samples[-1]
