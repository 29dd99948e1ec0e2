import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.checks import virtual
from qwenops.bench.checks.truth import failed
from qwenops.bench.checks.virtual import check_arrivals, check_virtual, frozen_times_s
from qwenops.bench.segment import Driven
from qwenops.bench.stats import Summary, summarise


@pytest.mark.proves("C1")
def test_what_the_suite_prints_about_hours_of_virtual_time_is_the_truth(tmp_path: Path) -> None:
    began_s = time.process_time()
    checks = check_virtual(tmp_path)
    assert failed(checks) == []
    assert len(checks) > 15
    assert time.process_time() - began_s < 20.0


def test_figures_without_the_slow_requests_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flattering(driven: Driven, **more: Any) -> Summary:
        kept = sorted(driven.records, key=lambda record: (record.last_content_ns or 0) - (record.sent_ns or 0))
        return summarise(replace(driven, records=kept[: -len(kept) // 10]), **more)

    monkeypatch.setattr(virtual, "summarise", flattering)
    titles = [check.title for check in failed(check_virtual(tmp_path))]
    assert any("printed" in title for title in titles)
    assert any("frozen" in title for title in titles)


def test_workers_that_send_in_step_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_step(offsets: Any, _worker: int, _num_workers: int) -> Any:
        return [4 * each for each in offsets if 4 * each < 2000e9]

    monkeypatch.setattr(virtual, "share", in_step)
    titles = [check.title for check in failed(check_arrivals())]
    assert len(titles) == 2


def test_a_freeze_makes_those_late_that_are_due_in_it_and_those_behind_them() -> None:
    due_s = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert frozen_times_s(due_s, 0.5, 0.75, 2.5) == pytest.approx([0.5, 2.0, 1.5, 1.0, 0.5])
    assert frozen_times_s([0.0], 1.0, 0.5, 2.5) == [3.0]
