import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.classify.plain import from_plain, to_plain
from qwenops.classify.report.gather import record_of
from qwenops.classify.report.record import Record, read_record, write_record
from qwenops.classify.report.write import write_report
from qwenops.errors import InvalidDataError
from tests.classify.made import SOURCE, TAXONOMY
from tests.classify.report.recorded import record

ADAPTER, SPLITS = "1" * 64, "2" * 64


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")


def write_trial(run: Path, whole: Record) -> Path:
    """Write what a trial and what lies beside it leave."""
    folder, point = run / "evaluation", whole.points[0]
    assert whole.before is not None
    assert whole.calibration is not None
    metrics = {
        "schema": "qwenops.trial/1",
        "use_model": True,
        "best_baseline": "logistic",
        "test": to_plain(whole.evaluation),
        "uncalibrated": to_plain(whole.before),
        "filed": to_plain(point.filed),
        "baselines": {"prior": to_plain(whole.rivals[0].evaluation), "logistic": to_plain(whole.rivals[0].evaluation)},
        "verdicts": {"logistic": to_plain(whole.verdicts[0])},
        "cost": {"calls": 600, "tokens": 90_000, "seconds": 120.0, "threads": 2, "price_per_hour": 0.36},
    }
    put(folder / "metrics.json", metrics)
    manifest = {
        "schema": "qwenops.evaluation-folder/1",
        "created_at": "2026-03-01T08:30:00+00:00",
        "adapter_sha256": ADAPTER,
        "splits_sha256": SPLITS,
        "redaction": ["zh-1"],
        "data": {"calls": 600, "sha256": "3" * 64, "sources": {"calls.jsonl": "a" * 64}},
        "seed": 7,
    }
    put(folder / "manifest.json", manifest)
    (folder / "taxonomy.yaml").write_bytes(SOURCE.read_bytes())
    np.savez_compressed(folder / "answers.npz", ids=np.array([f"call-{each}" for each in range(600)]))
    put(run / "calibration" / "manifest.json", {"adapter_sha256": ADAPTER})
    put(run / "calibration" / "calibration.json", to_plain(whole.calibration))
    put(run / "calibration" / "thresholds.json", to_plain(point.thresholds))
    put(run / "baseline" / "manifest.json", {"data": {"splits_sha256": SPLITS, "train": {"calls": 4000}}})
    doubted = {"conversation_id": "call-9", "row": 9, "given": "inquiry", "likely": "service.rude"}
    put(run / "baseline" / "suspicious.jsonl", {**doubted, "p_given": 0.01, "p_likely": 0.97})
    return folder


@pytest.fixture(scope="module")
def whole() -> Record:
    return record()


def test_a_record_is_the_same_after_json(whole: Record, tmp_path: Path) -> None:
    write_record(tmp_path / "evaluation.json", whole)
    assert read_record(tmp_path / "evaluation.json") == whole
    assert record_of(tmp_path) == whole
    with pytest.raises(ValueError, match="surprise"):
        from_plain(Record, {**to_plain(whole), "surprise": 1})


def test_a_trial_becomes_a_record_with_what_lies_beside_it(whole: Record, tmp_path: Path) -> None:
    found = record_of(write_trial(tmp_path, whole))
    assert (found.evaluation, found.before, found.calibration) == (whole.evaluation, whole.before, whole.calibration)
    assert (found.verdicts, found.points) == (whole.verdicts, whole.points[:1])
    assert [each.name for each in found.rivals] == ["logistic", "prior"]
    assert found.num_labels == 4000
    assert [each.conversation_id for each in found.doubted] == ["call-9"]
    example = whole.evaluation.leaves.confused[0].rows[0]
    assert found.ids[example] == f"call-{example}"
    assert found.cost is not None
    assert (found.cost.calls_per_s, found.cost.review_share) == (5.0, whole.points[0].filed.review)
    assert (found.provenance.taxonomy, found.provenance.sources) == (TAXONOMY.ref, {"calls.jsonl": "a" * 64})
    assert found.names["billing.fee"].zh == "多扣费"


def test_a_calibration_of_another_adapter_and_baselines_of_other_splits_do_not_count(
    whole: Record, tmp_path: Path
) -> None:
    folder = write_trial(tmp_path, whole)
    put(tmp_path / "calibration" / "manifest.json", {"adapter_sha256": "9" * 64})
    put(tmp_path / "baseline" / "manifest.json", {"data": {"splits_sha256": "9" * 64}})
    found = record_of(folder)
    assert (found.points, found.calibration, found.doubted, found.num_labels) == ((), None, (), None)


def test_an_exported_classifier_tells_of_its_own_test(whole: Record, tmp_path: Path) -> None:
    point = whole.points[0]
    assert whole.calibration is not None
    put(tmp_path / "metrics.json", {"test": to_plain(whole.evaluation), "filed": to_plain(point.filed)})
    put(tmp_path / "calibration.json", to_plain(whole.calibration))
    put(tmp_path / "thresholds.json", to_plain(point.thresholds))
    put(tmp_path / "manifest.json", {"redaction": "zh-1", "scheme": "w8a8", "data": {"test": {"calls": 600}}})
    (tmp_path / "taxonomy.yaml").write_bytes(SOURCE.read_bytes())
    found = record_of(tmp_path, "complaints@3")
    assert (found.name, found.evaluation, found.points) == ("complaints@3", whole.evaluation, (point,))
    assert found.provenance.parts["test"].calls == 600
    page = write_report(tmp_path, tmp_path / "out" / "page.html", name="complaints@3", language="zh")
    assert page.read_text("utf-8").startswith('<!doctype html>\n<html lang="zh-CN"')
    assert page.stat().st_mode & 0o077 == 0


def test_the_page_of_a_trial_lies_in_its_folder(whole: Record, tmp_path: Path) -> None:
    folder = write_trial(tmp_path, whole)
    assert write_report(folder, folder) == folder / "report.html"
    assert f"{whole.evaluation.leaves.macro_f1.value:.3f}" in (folder / "report.html").read_text("utf-8")


def test_a_folder_without_an_evaluation_is_refused_with_the_reason(whole: Record, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="no evaluation to read") as refused:
        record_of(tmp_path)
    assert "finetune evaluate" in refused.value.hint
    folder = write_trial(tmp_path, whole)
    metrics = json.loads((folder / "metrics.json").read_bytes())
    del metrics["filed"]
    put(folder / "metrics.json", metrics)
    with pytest.raises(InvalidDataError, match="filed"):
        record_of(folder)
