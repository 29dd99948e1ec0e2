import json
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.classify.baseline_folder import open_baselines, teach
from qwenops.classify.labelled import DataFiles, open_labelled
from qwenops.classify.linear import Kind, predict
from qwenops.errors import InvalidDataError, ModelLoadError
from tests.classify.judged import now, silent, write_files
from tests.classify.made import TAXONOMY, pairs

pytest.importorskip("sklearn", reason="baselines are trained with scikit-learn, which comes with the train extra")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DataFiles:
    return write_files(tmp_path_factory.mktemp("baseline") / "data", pairs(240, seed=3, noise=0.1))


def test_baselines_read_back_and_the_best_one_is_known_without_the_test(files: DataFiles, tmp_path: Path) -> None:
    found = teach(open_labelled(files, TAXONOMY), tmp_path / "out", seed=0, report=silent, now=now)
    assert found.best in {Kind.LOGISTIC, Kind.COMPLEMENT}
    assert found.out_of_fold[found.best] > 0.75
    assert found.out_of_fold[Kind.PRIOR] < 0.3
    assert found.val[found.best] > 0.75
    assert found.num_calls == 120
    again = open_baselines(found.folder, TAXONOMY)
    assert again.best is found.best
    assert again.manifest["data"]["splits_sha256"] == files.splits_sha256()
    told = predict(again.by_kind[Kind.LOGISTIC], ["坐:您好\n客:宽带断了", "坐:您好\n客:多扣了钱"])
    said = [TAXONOMY.leaves[place] for place in told.argmax(axis=1)]
    assert said == ["network.down", "billing.fee"]


def test_wrong_labels_are_listed(files: DataFiles, tmp_path: Path) -> None:
    found = teach(open_labelled(files, TAXONOMY), tmp_path / "out", seed=0, report=silent, now=now)
    listed = [json.loads(line) for line in (found.folder / "suspicious.jsonl").read_text("utf-8").splitlines()]
    assert len(listed) == found.num_suspicious > 0
    said = {call.conversation_id: label.primary for call, label in pairs(240, seed=3, noise=0.1)}
    right = {call.conversation_id: label.primary for call, label in pairs(240, seed=3)}
    assert all(each["given"] == said[each["conversation_id"]] for each in listed)
    hits = sum(each["likely"] == right[each["conversation_id"]] for each in listed)
    assert hits >= 0.7 * len(listed)


def test_the_test_calls_have_no_part_in_it(files: DataFiles, tmp_path: Path) -> None:
    """Their labels may even be missing."""
    ids = set(json.loads(files.splits.read_text("utf-8"))["test"])
    assert files.labels is not None
    kept = [
        line for line in files.labels.read_text("utf-8").splitlines() if json.loads(line)["conversation_id"] not in ids
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    one = teach(open_labelled(files, TAXONOMY), tmp_path / "one", seed=0, report=silent, now=now)
    other = teach(
        open_labelled(replace(files, labels=labels), TAXONOMY), tmp_path / "other", seed=0, report=silent, now=now
    )
    assert one.out_of_fold == other.out_of_fold


def test_a_changed_number_or_another_taxonomy_is_refused(files: DataFiles, tmp_path: Path) -> None:
    found = teach(open_labelled(files, TAXONOMY), tmp_path / "out", seed=0, report=silent, now=now)
    with pytest.raises(InvalidDataError, match="about made@1"):
        open_baselines(found.folder, replace(TAXONOMY, version=2))
    numbers = found.folder / "logistic" / "baseline.npz"
    numbers.write_bytes(numbers.read_bytes()[:-1])
    with pytest.raises(ModelLoadError, match="was changed"):
        open_baselines(found.folder, TAXONOMY)
    with pytest.raises(ModelLoadError, match=r"manifest\.json is missing"):
        open_baselines(tmp_path / "nowhere", TAXONOMY)
