import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.calls.split import Part, Splits, read_splits, write_splits
from qwenops.classify.labelled import DataFiles, open_labelled, worded_part
from qwenops.errors import InvalidDataError
from tests.classify.judged import silent, write_files
from tests.classify.made import TAXONOMY, Pair, pairs, unredacted

ITEMS = pairs(24, seed=1)


def read(files: DataFiles, *parts: Part) -> dict[Part, list[str]]:
    labelled = open_labelled(files, TAXONOMY)
    found = {part: [call.conversation_id for call, _ in labelled.pairs(part)] for part in parts}
    labelled.finish(*parts)
    return found


def test_a_part_has_its_calls_with_their_labels_and_nobody_elses(tmp_path: Path) -> None:
    files = write_files(tmp_path / "data", ITEMS)
    splits = read_splits(files.splits)
    assert read(files, Part.TRAIN, Part.TEST) == {Part.TRAIN: list(splits.train), Part.TEST: list(splits.test)}
    labels = {call.conversation_id: label for call, label in ITEMS}
    for call, label in open_labelled(files, TAXONOMY).pairs(Part.VAL):
        assert label == labels[call.conversation_id]


def test_texts_customers_and_weights_stand_in_one_order(tmp_path: Path) -> None:
    items = [(replace(call, customer_id=f"c{number}"), label) for number, (call, label) in enumerate(ITEMS)]
    found = worded_part(open_labelled(write_files(tmp_path / "data", items), TAXONOMY), Part.TEST, silent)
    wanted = items[18:]
    assert found.ids == tuple(call.conversation_id for call, _ in wanted)
    assert found.customers == tuple(call.customer_id for call, _ in wanted)
    assert found.labels == tuple(label.primary for _, label in wanted)
    assert found.weights == tuple(label.weight for _, label in wanted)
    assert all(wanted[row][0].turns[1].text in text.replace(",", "，") for row, text in enumerate(found.texts))


def spoilt(folder: Path) -> DataFiles:
    """A call that is not redacted, one without a label, one that is not there, a line that is none."""
    items: Sequence[Pair] = [unredacted(ITEMS[0]), *ITEMS[1:23]]
    files = write_files(folder, ITEMS)
    assert files.labels is not None
    without = f'"{ITEMS[1][0].conversation_id}"'
    kept = [line for line in files.labels.read_text("utf-8").splitlines() if without not in line]
    files.labels.write_text("\n".join(kept), encoding="utf-8")
    whole = write_files(folder.with_name("other"), items)
    broken = json.dumps({"conversation_id": "x"})
    files.calls.write_text(f"{whole.calls.read_text('utf-8')}{broken}\n", encoding="utf-8")
    return files


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError) as caught:
        read(spoilt(tmp_path / "data"), Part.TRAIN, Part.TEST)
    told = str(caught.value)
    for part in (
        f"personal data out of the call {ITEMS[0][0].conversation_id}",
        f"{ITEMS[1][0].conversation_id} has no label",
        "1 calls of test are not there",
        "calls.jsonl:24",
    ):
        assert part in told


def test_a_call_in_two_parts_is_refused(tmp_path: Path) -> None:
    files = write_files(tmp_path / "data", ITEMS)
    ids = [call.conversation_id for call, _ in ITEMS]
    write_splits(files.splits, Splits(train=tuple(ids[:12]), val=tuple(ids[12:18]), test=(*ids[18:], ids[0])))
    with pytest.raises(InvalidDataError, match=f"{ids[0]} is in train and in test"):
        read(files, Part.TRAIN)


def test_a_part_without_calls_is_refused(tmp_path: Path) -> None:
    files = write_files(tmp_path / "data", ITEMS)
    with pytest.raises(InvalidDataError, match="no call to use as calibration"):
        read(files, Part.CALIBRATION)


def test_unredacted_calls_are_taken_where_that_is_said(tmp_path: Path) -> None:
    files = write_files(tmp_path / "data", [unredacted(item) for item in ITEMS])
    with pytest.raises(InvalidDataError, match="personal data"):
        read(files, Part.VAL)
    assert len(read(replace(files, unredacted=True), Part.VAL)[Part.VAL]) == 6


def test_standard_input_is_refused(tmp_path: Path) -> None:
    files = replace(write_files(tmp_path / "data", ITEMS), calls=Path("-"))
    with pytest.raises(InvalidDataError, match="standard input"):
        open_labelled(files, TAXONOMY)
