"""`qwenops registry report` and `qwenops calls trends`: pages for people, paths and figures for scripts."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from qwenops.calls.schema import Call, Role, Turn, dump
from qwenops.classify.plain import to_plain
from qwenops.classify.prediction import dump_prediction
from tests.classify.artefacts import write_artefact
from tests.classify.report.predicted import MONDAY, WEEK, prediction
from tests.classify.report.recorded import record
from tests.cli.conftest import Run
from tests.page.reading import read


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    """Write 3 weeks of 40 predictions, all of them made on one Monday, and their calls."""
    folder = tmp_path / "filed"
    folder.mkdir()
    names = [(f"c{week}-{number}", week) for week in range(3) for number in range(40)]
    lines = [dump_prediction(prediction(name, "billing.fee", MONDAY)) for name, _ in names]
    (folder / "may.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    turns = (Turn(role=Role.CUSTOMER, text="喂"),)
    calls = [
        Call(conversation_id=name, turns=turns, started_at=MONDAY - (3 - week) * WEEK + timedelta(hours=1))
        for name, week in names
    ]
    (tmp_path / "calls.jsonl").write_text("".join(f"{dump(each)}\n" for each in calls), "utf-8")
    return folder


def test_weeks_are_those_of_classification_without_the_calls_and_of_the_calls_with_them(
    qwenops: Run, filed: Path, tmp_path: Path
) -> None:
    page = tmp_path / "weeks.html"
    alone = json.loads(qwenops("calls", "trends", filed, "--out", page, "--json").out)
    assert (alone["num_calls"], alone["by_call_time"], len(alone["weeks"])) == (120, False, 1)
    asked = ("calls", "trends", filed, "--calls", tmp_path / "calls.jsonl", "--out", page)
    told = json.loads(qwenops(*asked, "--json").out)
    assert [(week["begins"], week["num_calls"]) for week in told["weeks"]] == [
        ("2026-02-09", 40),
        ("2026-02-16", 40),
        ("2026-02-23", 40),
    ]
    assert told["weeks"][2]["categories"]["billing.fee"]["share"] == 1.0
    assert qwenops(*asked).out.strip() == str(page)
    assert read(page.read_text("utf-8")).addresses == []


def test_categories_have_the_names_of_the_taxonomy(qwenops: Run, filed: Path, tmp_path: Path) -> None:
    page = tmp_path / "weeks.html"
    taxonomy = Path(__file__).parents[1] / "classify" / "made.yaml"
    ran = qwenops("calls", "trends", filed, "--taxonomy", taxonomy, "--out", page)
    assert ran.code == 0, ran.err
    assert "Overcharged" in page.read_text("utf-8")


def test_what_holds_no_prediction_is_refused(qwenops: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    ran = qwenops("calls", "trends", tmp_path / "x.jsonl", "--out", tmp_path / "x.html")
    assert ran.code == 2
    assert "no prediction" in ran.err
    assert not (tmp_path / "x.html").exists()


def test_the_page_of_a_classifier_has_the_figures_of_its_test(qwenops: Run, tmp_path: Path) -> None:
    whole, folder = record(), write_artefact(tmp_path / "made")
    metrics = {"test": to_plain(whole.evaluation), "filed": to_plain(whole.points[0].filed)}
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    ran = qwenops("registry", "register", "complaints", folder)
    assert ran.code == 0, ran.err
    page = tmp_path / "page.html"
    told = json.loads(qwenops("registry", "report", "complaints@1", "--out", page, "--json").out)
    assert told["macro_f1"] == whole.evaluation.leaves.macro_f1.value
    assert f"{told['macro_f1']:.3f}" in page.read_text("utf-8")
    assert qwenops("registry", "show", "complaints@1", "--verify").code == 0, "the page is not part of the classifier"
