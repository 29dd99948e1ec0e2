import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from qwenops.bench.clock import running_clock
from qwenops.bench.conclusion import Outcome
from qwenops.bench.folder import RecordedRun
from qwenops.bench.gate import Threshold, gate, gate_conclusion, junit, markdown, read_side
from qwenops.bench.load import load
from qwenops.bench.objective import parse_slo
from qwenops.bench.options import BenchOptions
from qwenops.bench.resampling import figure, paired_logs
from qwenops.bench.run import Opening, begin, finish
from qwenops.bench.segment import Driven
from qwenops.bench.simulated import loop
from qwenops.bench.stats import summarise, summary_data
from qwenops.bench.targets import open_target
from qwenops.errors import ConfigError, InvalidRunError, RunFolderError
from tests.bench.records import answer, driven, failed

MANIFEST: dict[str, Any] = {
    "schema": "qwenops.run/1",
    "state": "done",
    "validity": {"verdict": "VALID"},
    "machine": {"fingerprint": "abc"},
    "workload": {"name": "calls-zh", "content_hash": "1", "salt": "x"},
    "options": {"users": 1},
}


def segment(rng: np.random.Generator, *, slower: float = 1.0, n: int = 400, failures: int = 0) -> Driven:
    """Return requests whose latency wanders: neighbours are alike, as in a queue."""
    levels = [0.0]
    for step in rng.normal(0, 0.06, n - 1):
        levels.append(0.5 * levels[-1] + float(step))
    records = [
        answer(each, at_s=each, ttft_s=0.2 * slower * math.exp(level), gaps_s=[0.05 * slower * math.exp(level)] * 4)
        for each, level in enumerate(levels)
    ]
    records[:failures] = [failed(each, at_s=each) for each in range(failures)]
    return driven(records, window_s=n)


def recorded(one: Driven, **changes: Any) -> RecordedRun:
    return RecordedRun(path=Path("somewhere"), manifest={**MANIFEST, **changes}, drivens=(one,))


def test_a_run_as_good_as_its_baseline_passes() -> None:
    rng = np.random.default_rng(1)
    found = gate([recorded(segment(rng))], [recorded(segment(rng))])
    assert (found.outcome, found.exit_code) == (Outcome.PASS, 0)
    assert all(each.outcome is Outcome.PASS for each in found.checks)


def test_a_run_that_is_surely_slower_is_a_regression() -> None:
    rng = np.random.default_rng(2)
    found = gate([recorded(segment(rng, slower=1.2))], [recorded(segment(rng))])
    assert (found.outcome, found.exit_code) == (Outcome.REGRESSED, 10)
    (check,) = [each for each in found.checks if each.measure == "ttft p50"]
    assert check.ratio == pytest.approx(1.2, rel=0.03)
    assert check.low is not None
    assert check.high is not None
    assert check.low < 1.2 < check.high


def test_a_faster_run_passes() -> None:
    rng = np.random.default_rng(3)
    assert gate([recorded(segment(rng, slower=0.7))], [recorded(segment(rng))]).exit_code == 0


def test_what_the_data_do_not_decide_is_inconclusive_and_may_be_let_through() -> None:
    rng = np.random.default_rng(4)
    runs = [recorded(segment(rng, n=80, slower=1.05))], [recorded(segment(rng, n=80))]
    found = gate(*runs)
    assert (found.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, 12)
    assert gate(*runs, Threshold(inconclusive="pass")).exit_code == 0


def test_too_few_samples_decide_nothing() -> None:
    rng = np.random.default_rng(5)
    found = gate([recorded(segment(rng, n=4))], [recorded(segment(rng, n=4))], Threshold(measures=("ttft p95",)))
    assert found.exit_code == 12
    assert "too few samples" in str(found.checks[0].note)
    assert found.checks[0].outcome is None
    assert gate_conclusion(found).tables[0].rows[0][-1] == "N/A"
    assert json.loads(json.dumps(gate_conclusion(found).data))["checks"][0]["outcome"] is None


def test_more_failures_are_a_regression_however_quick_the_rest() -> None:
    rng = np.random.default_rng(6)
    found = gate([recorded(segment(rng, failures=40))], [recorded(segment(rng))])
    assert found.exit_code == 10
    assert [each.measure for each in found.checks if each.outcome is Outcome.REGRESSED] == ["errors"]


def test_more_failures_that_are_not_proved_leave_the_gate_open() -> None:
    rng = np.random.default_rng(19)
    found = gate([recorded(segment(rng, n=200, failures=6, slower=0.7))], [recorded(segment(rng, n=200))])
    (check,) = [each for each in found.checks if each.measure == "errors"]
    assert (check.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, 12)
    allowed = gate(
        [recorded(segment(rng, n=200, failures=6, slower=0.7))],
        [recorded(segment(rng, n=200))],
        Threshold(measures=("ttft p50",), max_errors=0.05),
    )
    assert allowed.exit_code == 0


def test_requests_that_were_not_sent_count_as_failures() -> None:
    rng = np.random.default_rng(20)
    dropping = replace(segment(rng, slower=0.7), dropped=60)
    baseline = recorded(segment(rng))
    assert gate([recorded(dropping)], [baseline]).exit_code == 10
    summary = {
        "state": "done",
        "validity": {"verdict": "VALID"},
        "data": {"segments": [summary_data(summarise(dropping))]},
    }
    alone = RecordedRun(path=Path("summary.json"), manifest={}, summary=summary)
    assert gate([alone], [baseline], Threshold(measures=("ttft p50",)), force=True).exit_code == 10


def test_a_figure_that_failures_took_away_is_not_let_through() -> None:
    rng = np.random.default_rng(21)
    threshold = Threshold(measures=("ttft p50", "ttft p95"), max_errors=0.5)
    found = gate([recorded(segment(rng, n=60, failures=3, slower=0.7))], [recorded(segment(rng, n=60))], threshold)
    (check,) = [each for each in found.checks if each.measure == "ttft p95"]
    assert (check.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, 12)
    assert "which the baseline has" in str(check.note)
    swapped = gate([recorded(segment(rng, n=60, slower=0.7))], [recorded(segment(rng, n=60, failures=3))], threshold)
    assert swapped.exit_code == 0


def test_a_part_that_vanished_is_not_let_through_and_a_new_one_is_named() -> None:
    rng = np.random.default_rng(22)
    one, base = segment(rng, slower=0.7), segment(rng)
    more = replace(one, segment=replace(one.segment, name="busy"))
    both = replace(recorded(one), drivens=(one, more))
    found = gate([recorded(one)], [replace(recorded(base), drivens=(base, more))])
    assert (found.outcome, found.exit_code) == (Outcome.INCONCLUSIVE, 12)
    assert [each.segment for each in found.checks if each.outcome is Outcome.INCONCLUSIVE] == ["busy"]
    added = gate([both], [recorded(base)])
    assert added.exit_code == 0
    assert any("The part busy is not in every run" in each for each in added.warnings)


def test_another_model_and_another_target_are_said() -> None:
    rng = np.random.default_rng(23)
    targets = [{"": {"text": f"http://127.0.0.1:{port}", "model": model}} for port, model in ((1, "0.6b"), (2, "1.7b"))]
    runs = [recorded(segment(rng), targets=each) for each in targets]
    said = gate([runs[0]], [runs[1]]).warnings
    assert any("the same model: 0.6b and 1.7b" in each for each in said)
    assert any("the same target: http://127.0.0.1:1 and http://127.0.0.1:2" in each for each in said)
    assert not any("the same" in each for each in gate([runs[0]], [runs[0]]).warnings)


def test_a_missed_objective_has_a_status_of_its_own() -> None:
    rng = np.random.default_rng(7)
    runs = [recorded(segment(rng))], [recorded(segment(rng))]
    assert gate(*runs, slo=parse_slo("ttft p95 < 100ms")).exit_code == 11
    assert gate(*runs, slo=parse_slo("ttft p95 < 2s")).exit_code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": {"fingerprint": "other"}},
        {"machine": {}},
        {"workload": {"name": "calls-en"}},
        {"options": {"users": 2}},
        {"schema": "qwenops.run/2"},
    ],
)
def test_what_is_not_comparable_is_refused_unless_forced(changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    candidate, baseline = recorded(segment(rng)), recorded(segment(rng), **changes)
    with pytest.raises(RunFolderError) as raised:
        gate([candidate], [baseline])
    assert "--force" in raised.value.hint
    assert raised.value.exit_code == 2
    found = gate([candidate], [baseline], force=True)
    assert found.exit_code == 0
    assert any(str(raised.value) == str(each) for each in found.warnings)


def test_another_salt_is_no_other_workload() -> None:
    rng = np.random.default_rng(9)
    workload = {**MANIFEST["workload"], "salt": "y"}
    assert gate([recorded(segment(rng))], [recorded(segment(rng), workload=workload)]).exit_code == 0


@pytest.mark.parametrize(
    "changes", [{"validity": {"verdict": "INVALID"}}, {"state": "interrupted"}, {"state": "running"}]
)
def test_a_run_that_proves_nothing_is_refused_on_either_side_also_by_force(changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(10)
    good, bad = recorded(segment(rng)), recorded(segment(rng), **changes)
    for sides in ((good, bad), (bad, good)):
        with pytest.raises(InvalidRunError) as raised:
            gate([sides[0]], [sides[1]], force=True)
        assert raised.value.exit_code == 13


def test_a_baseline_without_an_answer_proves_nothing() -> None:
    rng = np.random.default_rng(10)
    nothing = recorded(segment(rng, n=40, failures=40))
    for run in (nothing, recorded(segment(rng, n=40))):
        with pytest.raises(InvalidRunError, match="none of the 40 requests of the baseline was answered") as raised:
            gate([run], [nothing], force=True)
        assert raised.value.exit_code == 13
    assert gate([nothing], [recorded(segment(rng, n=40))]).exit_code == 10


def test_the_table_has_units_and_changes_that_can_be_read() -> None:
    rng = np.random.default_rng(2)
    found = gate([recorded(segment(rng, slower=1.2))], [recorded(segment(rng))])
    (table,) = gate_conclusion(found).tables
    rows = {row[1]: row for row in table.rows}
    assert str(rows["ttft p50"][2]).endswith(" ms")
    assert str(rows["output_tokens_per_s"][3]).endswith(" tokens/s")
    assert re.fullmatch(r"\+\d\d\.\d%", str(rows["ttft p50"][4]))
    assert rows["errors"][2:5] == ("0.00%", "0.00%", None)


def test_a_suspect_run_is_taken_with_a_warning() -> None:
    rng = np.random.default_rng(11)
    found = gate([recorded(segment(rng), validity={"verdict": "SUSPECT"})], [recorded(segment(rng))])
    assert any("SUSPECT" in each for each in found.warnings)


def test_runs_without_a_common_part_are_refused() -> None:
    rng = np.random.default_rng(12)
    one = segment(rng)
    other = replace(one, segment=replace(one.segment, name="other"))
    with pytest.raises(RunFolderError, match="no part of the same name"):
        gate([recorded(one)], [recorded(other)])


def test_a_figure_that_has_no_place_in_a_gate_is_refused() -> None:
    rng = np.random.default_rng(13)
    with pytest.raises(ConfigError, match="icl"):
        gate([recorded(segment(rng))], [recorded(segment(rng))], Threshold(measures=("icl p95",)))


def test_what_makes_requests_differ_drops_out_where_both_answered_the_same() -> None:
    rng = np.random.default_rng(18)
    lengths = np.exp(rng.normal(0, 0.7, 200))

    def asked(slower: float) -> RecordedRun:
        times = 0.2 * slower * lengths * np.exp(rng.normal(0, 0.03, 200))
        return recorded(
            driven([answer(each, at_s=each, ttft_s=float(at)) for each, at in enumerate(times)], window_s=200)
        )

    threshold = Threshold(measures=("ttft mean",))
    base = asked(1.0)
    assert gate([asked(1.0)], [base], threshold).exit_code == 0
    assert gate([asked(1.1)], [base], threshold).exit_code == 10
    missed = 0
    for each in range(100):
        logs = paired_logs(asked(1.0).drivens, base.drivens, "ttft mean", seed=each)
        assert logs is not None
        missed += not np.quantile(logs, 0.005) <= 0 <= np.quantile(logs, 0.995)
    assert missed <= 10  # the noise of the baseline is the same in all of them
    others = driven([answer(1000 + each) for each in range(200)])
    assert paired_logs([others], base.drivens, "ttft mean", seed=1) is None


def test_several_runs_show_how_much_runs_differ() -> None:
    rng = np.random.default_rng(14)
    alone = figure([segment(rng)], "e2e mean", seed=1)
    several = figure([segment(rng, slower=each) for each in (0.9, 1.0, 1.1)], "e2e mean", seed=1)
    assert alone is not None
    assert several is not None
    assert several.logs.std() > 3 * alone.logs.std()
    warned = gate([recorded(segment(rng))], [recorded(segment(rng))]).warnings
    assert any("how much runs differ" in each for each in warned)
    threes = [recorded(segment(rng)) for _ in range(3)]
    assert not gate(threes, [recorded(segment(rng)) for _ in range(3)]).warnings


def test_equal_runs_are_seldom_called_regressed_and_a_regression_is_seldom_let_through() -> None:
    rng = np.random.default_rng(15)
    threshold = Threshold(measures=("e2e mean", "ttft p50"))
    alarms = missed = 0
    for _ in range(40):
        base = [recorded(segment(rng, n=150))]
        alarms += gate([recorded(segment(rng, n=150, slower=1.05))], base, threshold).outcome is Outcome.REGRESSED
        missed += gate([recorded(segment(rng, n=150, slower=1.1))], base, threshold).outcome is Outcome.PASS
    assert alarms <= 5
    assert missed <= 5


def test_a_summary_alone_can_be_a_baseline_by_force(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    data = {"segments": [summary_data(summarise(segment(rng)))]}
    summary = {"schema": "qwenops.summary/1", "state": "done", "validity": {"verdict": "VALID"}, "data": data}
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(summary), "utf-8")
    baseline = read_side(path)
    with pytest.raises(RunFolderError, match="same machine"):
        gate([recorded(segment(rng))], [baseline])
    assert gate([recorded(segment(rng))], [baseline], force=True).exit_code == 0
    assert gate([recorded(segment(rng, slower=1.3))], [baseline], force=True).exit_code == 10
    path.write_text("{}", "utf-8")
    with pytest.raises(RunFolderError, match="no summary"):
        read_side(path)
    path.write_text("{", "utf-8")
    with pytest.raises(RunFolderError, match="neither"):
        read_side(path)


def test_junit_and_markdown_say_what_the_gate_decided() -> None:
    rng = np.random.default_rng(17)
    found = gate([recorded(segment(rng, slower=1.2))], [recorded(segment(rng))])
    suite = ET.fromstring(junit(found))  # noqa: S314 -- written here, a line ago
    assert suite.attrib["tests"] == str(len(found.checks))
    bad = [case.attrib["name"] for case in suite if case.find("failure") is not None]
    assert int(suite.attrib["failures"]) == len(bad) > 0
    assert "ttft p50" in bad
    table = markdown(found, lambda template: template)
    assert table.startswith("## REGRESSED")
    assert table.count("\n|") == len(found.checks) + 2
    undecided = gate([recorded(segment(rng, n=80, slower=1.05))], [recorded(segment(rng, n=80))])
    unknown = ET.fromstring(junit(undecided))  # noqa: S314 -- written here, a line ago
    assert int(unknown.attrib["errors"]) > 0
    conclusion = gate_conclusion(undecided)
    assert conclusion.exit_code == 12
    assert conclusion.sentences[0].startswith("INCONCLUSIVE")


def test_runs_of_simulated_servers_are_gated_from_their_folders(tmp_path: Path) -> None:
    async def measured(name: str, prefill: int) -> Path:
        text = f"simulated:?prefill_tokens_per_s={prefill}&spread=0.05&virtual=1"
        options = BenchOptions(folder=tmp_path, users=1, requests=600, max_tokens=4, prompt_tokens=64)
        target = await open_target(text, options, model="simulated")
        where = Opening(out=tmp_path / name, calibrate_s=0)
        async with begin("load", {"": target}, options, clock=running_clock(), opening=where) as run:
            finish(run, await load(run))
        return tmp_path / name

    threshold = Threshold(measures=("ttft mean",))
    base, same, slow = (loop.run(measured(*each)) for each in (("base", 800), ("same", 800), ("slow", 500)))
    assert gate([read_side(same)], [read_side(base)], threshold).exit_code == 0
    assert gate([read_side(slow)], [read_side(base)], threshold).exit_code == 10
    assert gate([read_side(slow)], [read_side(base / "summary.json")], threshold).exit_code == 10
