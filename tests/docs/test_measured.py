"""The READMEs' tables of measured facts are those of the result files."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from qwenops.page.html import MAX_BYTES

ROOT = Path(__file__).parents[2]
NEEDED = ("engine", "engine-1.7b", "convert", "served", "measuring-serving", "measuring-startup", "measuring-capacity")
MISSING = [name for name in NEEDED if not (tables.RESULTS / f"{name}.json").is_file()]


@pytest.mark.skipif(bool(MISSING), reason=f"not measured yet: {', '.join(MISSING)}")
@pytest.mark.parametrize("readme", tables.WORDS)
def test_the_table_of_a_readme_is_in_step_with_the_results(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert tables.filled(readme) == text, "run `python -m benchmarks.tables`"


@pytest.mark.parametrize("report", sorted((ROOT / "benchmarks" / "reports").glob("*.html")), ids=lambda path: path.name)
def test_a_committed_report_is_small(report: Path) -> None:
    assert report.stat().st_size <= MAX_BYTES


def spread(middle: float) -> dict[str, float]:
    return {"min": middle * 0.9, "median": middle, "max": middle * 1.1}


def engine(rate: float) -> dict[str, Any]:
    loads = {"prefill": 10 * rate, "decode1": rate, "decode8": 3 * rate, "mixed": 2 * rate}
    scenarios = {name: {"ours_tokens_per_s": spread(value), "ratio": spread(1.5)} for name, value in loads.items()}
    return {"scenarios": scenarios, "resident_bytes": {"ours": spread(2 * tables.GIB)}}


def results(rate: float) -> dict[str, dict[str, Any]]:
    """Return what the four files hold, with an engine that writes `rate` tokens a second."""
    machine = {"processor": "P", "threads": 4, "isa": ["avx2"], "memory_limit_bytes": 8 * tables.GIB}
    columns = ("0.6b int8", "0.6b int4", "1.7b int8", "1.7b int4")
    converted = {name: {"seconds": spread(9), "peak_resident_bytes": spread(tables.GIB)} for name in columns}
    served = {
        "served_to_engine_1": spread(0.97),
        "served_to_engine_8": spread(0.95),
        "added_ttft_ms": spread(3),
        "idle": {"api_rss_mib": 99, "api_cpu_percent_of_a_core": 0.2},
    }
    segment = {
        "segment": "users=4",
        "counts": {"ok": 10},
        "prompt_tokens": 5000,
        "cached_tokens": 4000,
        "completion_tokens": 640,
        "distributions": {"ttft_s": {"p50": {"value": 0.25}}, "e2e_s": {"p50": {"value": 2.5}}},
        "rates": {"completed_rate": rate / 40, "output_tokens_per_s": rate * 1.5},
    }
    rounds = [{"state": state, "ready_s": ready_s} for state, ready_s in (("warm", 7.0), ("cold", 9.0), ("warm", 8.0))]
    capacity = {"slo": "ttft p95 < 2s", "needed_s": 2400.0}
    capacity |= {"capacity_per_s": rate, "capacity_low_per_s": rate - 5, "capacity_high_per_s": rate + 5}
    return {
        "measuring-capacity": {"results": {"answer": {"data": capacity}}},
        "measuring-serving": {"results": {"answer": {"data": {"segments": [segment]}}}},
        "measuring-startup": {"results": {"answer": {"data": {"rounds": rounds}}}},
        "engine": {"machine": machine, "results": {"int8": engine(rate), "int4": engine(2 * rate)}},
        "engine-1.7b": {"results": {"int8": engine(rate / 2), "int4": engine(rate)}},
        "convert": {"results": converted},
        "served": {"results": served},
    }


def classifying() -> dict[str, dict[str, Any]]:
    """Return what the files on training and on large files hold."""
    training = {
        "systems": {"ours": {"tokens_per_s": spread(1234)}, "cached": {"tokens_per_s": spread(4321)}},
        "ratios": {"ours": {"trainer": spread(2.5)}, "cached": {"trainer": spread(6.5)}},
        "cached_with_fill_tokens_per_s": {"4_epochs": 3456.0},
    }
    memory = {name: {"growth_bytes_per_100000_calls": {"high": 1.5 * 1024**2}} for name in ("command", "engine")}
    batch = {
        "memory": {"calls": 100_000, **memory},
        "once": {"kills": 9},
        "speed": {"random:0.6b": {"command_to_scorer": spread(0.98)}},
    }
    return {
        "training": {"options": {"precision": "bf16", "rank": 16}, "results": training},
        "batch": {"options": {"speed_model": "random:0.6b"}, "results": batch},
    }


@pytest.mark.parametrize("readme", tables.WORDS)
def test_training_and_large_files_have_a_sentence_once_they_were_measured(
    readme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name, found in results(40.0).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found), "utf-8")
    without = tables.filled(readme)
    for name, found in classifying().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found), "utf-8")
    made = tables.filled(readme)
    assert len(made.splitlines()) == len(without.splitlines()) + 4
    for figure in ("1,234", "2.5", "4,321", "6.5", "3,456", "100,000", "9", " 3 MiB", "98.0%"):
        assert figure in made


@pytest.mark.parametrize("readme", tables.WORDS)
def test_another_result_gives_another_table_and_leaves_the_rest_of_the_readme(
    readme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for rate in (40.0, 50.0):
        found = results(rate) | classifying()
        monkeypatch.setattr(tables, "read", found.__getitem__)
        made[rate] = tables.filled(readme)
        assert f"| {rate:.0f} | {2 * rate:.0f} | {rate / 2:.0f} | {rate:.0f} |" in made[rate]
        assert "97.0%" in made[rate]
        assert f"| 4 | {rate / 40:.2f} | 250 ms | 2.5 s | {rate * 1.5:.0f} |" in made[rate]
        assert "80%" in made[rate]
        assert "7.5 " in made[rate]
        assert all(f"{each:.1f}" in made[rate] for each in (rate, rate - 5, rate + 5))
        assert "ttft p95 < 2s" in made[rate]
    assert made[40.0] != made[50.0]
    text = (ROOT / readme).read_text(encoding="utf-8")
    before, after = text.split(tables.BEGIN)[0], text.split(tables.END)[1]
    assert all(each.startswith(before) and each.endswith(after) for each in made.values())
