from dataclasses import replace

import pytest

from qwenops.bench.report.grouped import groups_of, merged
from qwenops.bench.report.verbs import knee_figure
from qwenops.bench.segment import Driven
from qwenops.bench.stats import summarise
from qwenops.page.plot import Chart, Dots
from tests.bench.report import runs


def test_the_rates_of_a_side_are_those_of_its_own_blocks() -> None:
    run = runs.compare_run()
    groups = groups_of(run, None)
    assert [each.name for each in groups] == ["A", "B"]
    for group in groups:
        parts = [summarise(each) for each in group.drivens]
        found = merged(group, None)
        assert len(parts) == 8
        assert found.window_s == pytest.approx(sum(each.window_s for each in parts))
        for name in ("completed_rate", "achieved_rate", "output_tokens_per_s", "input_tokens_per_s"):
            rates = [rate for each in parts if (rate := each.rates[name]) is not None]
            assert len(rates) == 8
            assert found.rates[name] == pytest.approx(
                sum(rate * each.steady.length_ns for rate, each in zip(rates, parts, strict=True))
                / sum(each.steady.length_ns for each in parts)
            )
            assert min(rates) <= (found.rates[name] or 0) <= max(rates)
        assert found.little is not None
        assert min(each.little.in_flight for each in parts if each.little) <= found.little.in_flight
        assert found.little.in_flight <= max(each.little.in_flight for each in parts if each.little)
        assert found.arrivals.gap_cv is None


def test_percentiles_of_several_segments_come_from_all_requests() -> None:
    run = runs.compare_run()
    group = groups_of(run, None)[0]
    records = [record for each in group.drivens for record in each.records]
    alone: Driven = replace(group.drivens[0], records=records)
    assert merged(group, None).distributions == summarise(alone).distributions
    assert merged(group, None).counts.sent == len(records)


def test_steps_under_different_limits_are_different_parts() -> None:
    run = runs.limited_run()
    assert [each.name for each in groups_of(run, None)] == [
        f"cpu={cores} users={users}" for cores in (1, 2) for users in (1, 2, 4)
    ]
    figure = knee_figure(run, {})
    assert figure is not None
    assert isinstance(figure.plot, Chart)
    dots = [each for each in figure.plot.panels[0].series if isinstance(each, Dots)]
    assert [each.title for each in dots] == ["cpu=1", "cpu=2"]
    assert all(two > 1.5 * one for one, two in zip(dots[0].y, dots[1].y, strict=True) if one and two)
