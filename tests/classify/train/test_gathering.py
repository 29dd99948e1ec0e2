import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.calls.problems import Problem
from qwenops.calls.schema import Label, dump
from qwenops.calls.split import Splits, write_splits
from qwenops.classify.train.gathering import DataFiles, gather, settle
from qwenops.classify.train.options import TrainOptions
from qwenops.errors import InvalidDataError
from qwenops.models.tokenizer import Tokenizer
from tests.classify.made import TAXONOMY, Pair, pairs, unredacted
from tests.classify.train.conftest import BUDGET, SILENT

Make = Callable[..., TrainOptions]
ITEMS = pairs(12, seed=1)


def written(folder: Path, items: Sequence[Pair], *, splits: Splits | None = None) -> DataFiles:
    calls, labels, parts = folder / "calls.jsonl", folder / "labels.jsonl", folder / "splits.json"
    calls.write_text("".join(f"{dump(call)}\n" for call, _ in items), encoding="utf-8")
    labels.write_text("".join(f"{dump(label)}\n" for _, label in items), encoding="utf-8")
    ids = [call.conversation_id for call, _ in ITEMS]
    write_splits(parts, splits or Splits(train=tuple(ids[:6]), val=tuple(ids[6:9]), test=tuple(ids[9:])))
    return DataFiles(calls=calls, splits=parts, labels=labels)


def test_the_parts_come_together_and_the_test_calls_stay_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = written(tmp_path, ITEMS)
    found = gather(files, TAXONOMY, tokenizer, TrainOptions(max_tokens=BUDGET), SILENT)
    assert (len(found.train), len(found.val)) == (6, 3)
    assert set(found.train.ids) == {call.conversation_id for call, _ in ITEMS[:6]}
    assert found.redactions == ("zh-1",)
    assert set(found.sources) == {"calls.jsonl", "labels.jsonl", "splits.json"}
    assert found.legend == ""


def test_a_legend_is_put_into_the_prompts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = written(tmp_path, ITEMS)
    found = gather(files, TAXONOMY, tokenizer, TrainOptions(max_tokens=512, legend=True), SILENT)
    assert "A 多扣费" in tokenizer.decode(found.train.prompt(0).tolist())


def test_everything_that_is_wrong_with_the_files_is_named_at_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    items = [unredacted(ITEMS[0]), *ITEMS[1:8]]
    files = written(tmp_path, items)
    assert files.labels is not None
    lines = files.labels.read_text("utf-8").splitlines()
    files.labels.write_text("\n".join(lines[:1] + lines[2:]), encoding="utf-8")
    with pytest.raises(InvalidDataError) as caught:
        gather(files, TAXONOMY, tokenizer, TrainOptions(max_tokens=BUDGET), SILENT)
    told = str(caught.value)
    for part in (
        f"personal data out of the call {ITEMS[0][0].conversation_id}",
        f"{ITEMS[1][0].conversation_id} has no label",
        "1 calls of val are not there",
    ):
        assert part in told


def test_unredacted_calls_are_taken_when_that_is_said(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = replace(written(tmp_path, [unredacted(item) for item in ITEMS]), unredacted=True)
    assert gather(files, TAXONOMY, tokenizer, TrainOptions(max_tokens=BUDGET), SILENT).redactions == ("",)


def test_a_damaged_line_is_not_passed_over(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = written(tmp_path, ITEMS)
    with files.calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"conversation_id": "x"}) + "\n")
    with pytest.raises(InvalidDataError, match="one problem"):
        gather(files, TAXONOMY, tokenizer, TrainOptions(max_tokens=BUDGET), SILENT)


def test_standard_input_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    files = replace(written(tmp_path, ITEMS), calls=Path("-"))
    with pytest.raises(InvalidDataError, match="standard input"):
        gather(files, TAXONOMY, tokenizer, TrainOptions(), SILENT)


def label(primary: str, weight: float = 1.0) -> Label:
    return Label(conversation_id="c", taxonomy=TAXONOMY.ref, primary=primary, weight=weight)


@pytest.mark.parametrize(
    ("said", "primary", "weight"),
    [
        ([("inquiry", 0.4)], "inquiry", 0.4),
        ([("inquiry", 1.0), ("inquiry", 1.0)], "inquiry", 1.0),
        ([("inquiry", 0.5), ("billing.fee", 1.0)], "billing.fee", 2 / 3),
        ([("network.down", 1.0), ("billing.fee", 1.0)], "billing.fee", 0.5),
        ([("inquiry", 0.4), ("inquiry", 0.4), ("billing.fee", 0.7)], "inquiry", 0.8 * 0.8 / 1.5),
    ],
)
def test_several_annotators_are_settled_by_their_weights(
    said: list[tuple[str, float]], primary: str, weight: float
) -> None:
    found = settle([label(*each) for each in said], TAXONOMY)
    assert isinstance(found, Label)
    assert found.primary == primary
    assert found.weight == pytest.approx(weight)


def test_a_label_of_another_taxonomy_is_a_problem() -> None:
    assert isinstance(settle([replace(label("inquiry"), taxonomy="other@1")], TAXONOMY), Problem)
