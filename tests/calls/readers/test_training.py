from pathlib import Path
from typing import Any

import pytest

from qwenops.calls.readers import Format
from qwenops.calls.readers.labelling import NO_TAXONOMY
from qwenops.calls.readers.opening import open_calls
from qwenops.calls.schema import Role
from tests.calls.readers.reading import DIALOGUE, SAID, errors, read, said, written

TRAINING = {
    "conversation_id": "c-1",
    "input_text": DIALOGUE,
    "complaint_category": "资费争议",
    "confidence_score": 0.85,
    "metadata": {"customer_id": "h:1", "region": "330000", "tags": ["a"]},
}


@pytest.mark.parametrize("as_list", [True, False])
def test_training_data_becomes_calls_whose_labels_weigh_what_the_score_says(
    tmp_path: Path,
    as_list: bool,  # noqa: FBT001 -- a parameter
) -> None:
    path = written(tmp_path / "train.json", [TRAINING, TRAINING | {"conversation_id": "c-2"}], as_list=as_list)
    (first, second), problems, kind = read(path)
    assert (kind, problems) == (Format.TRAINING_DATA, [])
    assert said(first) == SAID
    assert (first.call.conversation_id, second.call.conversation_id) == ("c-1", "c-2")
    assert first.call.customer_id == "h:1"
    assert first.call.meta == {"region": "330000", "tags": ["a"]}
    assert first.label is not None
    assert (first.label.primary, first.label.weight) == ("billing.fee", 0.85)


def test_without_a_taxonomy_the_category_is_kept_as_it_is(tmp_path: Path) -> None:
    (entry,) = open_calls(written(tmp_path / "train.json", [TRAINING]))
    assert entry.label is not None
    assert (entry.label.primary, entry.label.taxonomy) == ("资费争议", NO_TAXONOMY)


def test_any_object_with_a_text_is_training_data(tmp_path: Path) -> None:
    found, problems, kind = read(written(tmp_path / "x.jsonl", [{"text": "喂", "label": "network"}, {"text": "喂"}]))
    assert kind is Format.TRAINING_DATA
    assert [each.label and each.label.primary for each in found] == ["network", None]
    assert problems == []


def test_a_text_that_is_a_list_of_messages_or_lines_becomes_turns(tmp_path: Path) -> None:
    messages = [{"speaker": "客服", "text": SAID[0][1]}, {"speaker": "客户", "text": SAID[1][1]}]
    found, problems, _ = read(
        written(
            tmp_path / "x.jsonl",
            [{"input_text": messages}, {"input_text": DIALOGUE.splitlines()}, {"input_text": {"a": 1}}],
        )
    )
    assert [said(each) for each in found] == [SAID, SAID]
    assert errors(problems) == [(3, "input_text")]


@pytest.mark.parametrize(
    "found",
    [
        {"messages": [{"role": "user", "content": DIALOGUE}, {"role": "assistant", "content": "资费争议"}]},
        {
            "messages": [
                {"role": "system", "content": "你是质检员"},
                {"role": "user", "content": [{"type": "text", "text": DIALOGUE}]},
                {"role": "assistant", "content": "<think>\n\n</think>\n\n类别：资费争议"},
            ]
        },
        {"messages": [{"role": "user", "content": DIALOGUE}], "label": 3},
        {"messages": [{"role": "user", "content": DIALOGUE}], "label": [3]},
        {"query": DIALOGUE, "response": "billing.fee"},
        {
            "messages": [
                {"role": "assistant", "content": SAID[0][1]},
                {"role": "user", "content": SAID[1][1]},
            ],
            "label": 3,
        },
    ],
)
def test_objects_of_ms_swift_become_calls(tmp_path: Path, found: dict[str, Any]) -> None:
    (entry,), problems, kind = read(written(tmp_path / "x.jsonl", [found]), categories=("3=billing.fee",))
    assert (kind, problems) == (Format.MS_SWIFT, [])
    assert said(entry) == SAID
    assert entry.label is not None
    assert entry.label.primary == "billing.fee"


def test_a_number_of_ms_swift_that_nobody_explains_is_said(tmp_path: Path) -> None:
    found, problems, _ = read(
        written(tmp_path / "x.jsonl", [{"messages": [{"role": "user", "content": "喂"}], "label": 7}])
    )
    assert [each.label for each in found] == [None]
    assert errors(problems) == [(1, "category")]
    assert "'7' is no class" in problems[0].what


@pytest.mark.parametrize(
    "found",
    [
        {"instruction": "判断类别", "input": DIALOGUE, "output": "资费争议"},
        {"instruction": f"判断类别\n{DIALOGUE}", "input": "", "output": "资费争议", "system": "x", "history": []},
        {"conversations": [{"from": "human", "value": DIALOGUE}, {"from": "gpt", "value": "资费争议"}]},
        {
            "conversations": [
                {"from": "system", "value": "x"},
                {"from": "human", "value": DIALOGUE},
                {"from": "gpt", "value": "资费争议"},
            ],
            "system": "x",
        },
    ],
)
def test_objects_of_llama_factory_become_calls(tmp_path: Path, found: dict[str, Any]) -> None:
    (entry,), problems, kind = read(written(tmp_path / "x.json", [found], as_list=True))
    assert (kind, problems) == (Format.LLAMA_FACTORY, [])
    assert said(entry) == SAID
    assert entry.label is not None
    assert entry.label.primary == "billing.fee"


def task(*chosen: str, **annotation: Any) -> dict[str, Any]:
    result = [
        {"from_name": "category", "to_name": "text", "type": "choices", "value": {"choices": list(chosen)}},
        {"from_name": "urgency", "to_name": "text", "type": "choices", "value": {"choices": ["high"]}},
    ]
    return {
        "result": result,
        "was_cancelled": False,
        "completed_by": 3,
        "updated_at": "2026-03-01T09:00:00Z",
    } | annotation


def test_tasks_of_label_studio_carry_the_labels_of_all_annotators(tmp_path: Path) -> None:
    whole = {
        "id": 17,
        "data": {"text": DIALOGUE, "customer_id": "h:1"},
        "annotations": [
            task("资费争议", "网络质量"),
            task("退费", completed_by={"id": 4, "email": "someone@example.com"}),
            task("退费", was_cancelled=True),
            {"result": []},
            {"result": 5},
        ],
        "predictions": [],
    }
    (entry,), problems, kind = read(written(tmp_path / "x.json", [whole], as_list=True))
    assert (kind, problems) == (Format.LABEL_STUDIO, [])
    assert said(entry) == SAID
    assert (entry.call.conversation_id, entry.call.customer_id) == ("task-17", "h:1")
    assert entry.label is not None
    assert (entry.label.primary, entry.label.secondary) == ("billing.fee", ("network",))
    assert (entry.label.annotator, dict(entry.label.axes)) == ("annotator-3", {"urgency": "high"})
    assert entry.label.decided_at is not None
    assert entry.label.decided_at.hour == 9
    assert [(each.primary, each.annotator) for each in entry.further] == [("billing.refund", "annotator-4")]


def test_dialogues_and_paths_of_label_studio_are_read(tmp_path: Path) -> None:
    dialogue = [{"author": "客服", "text": SAID[0][1]}, {"author": "客户", "text": SAID[1][1]}]
    path_of_classes = {"from_name": "t", "type": "taxonomy", "value": {"taxonomy": [["收费争议", "退费"]]}}
    whole = {
        "id": 1,
        "data": {"conversation_id": "c-1", "dialogue": dialogue},
        "annotations": [{"result": [path_of_classes]}],
    }
    (entry,), problems, _ = read(written(tmp_path / "x.json", [whole]))
    assert (said(entry), entry.call.conversation_id, problems) == (SAID, "c-1", [])
    assert entry.call.meta == {}
    assert entry.label is not None
    assert (entry.label.primary, entry.label.annotator) == ("billing.refund", "")


def test_the_short_form_of_label_studio_is_read(tmp_path: Path) -> None:
    short = {
        "id": 5,
        "text": DIALOGUE,
        "category": {"choices": ["退费", "网络质量"]},
        "annotator": 2,
        "annotation_id": 9,
        "created_at": "2026-03-01T09:00:00Z",
        "updated_at": "2026-03-01T09:00:00Z",
        "lead_time": 3.5,
    }
    (entry,), problems, kind = read(written(tmp_path / "x.json", [short], as_list=True))
    assert (kind, problems) == (Format.LABEL_STUDIO, [])
    assert (entry.call.conversation_id, entry.call.started_at, entry.call.meta) == ("task-5", None, {})
    assert entry.label is not None
    assert (entry.label.primary, entry.label.secondary) == ("billing.refund", ("network",))
    assert entry.label.annotator == "2"


@pytest.mark.parametrize("kind", [Format.MS_SWIFT, Format.LLAMA_FACTORY, Format.LABEL_STUDIO, Format.TRAINING_DATA])
@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"messages": [1, None, {"role": 5, "content": {"a": 1}}], "label": {"a": []}},
        {"conversations": [[], {}], "label": None},
        {"instruction": ["a"], "input": 5, "output": {}},
        {"data": {"text": 5, "dialogue": [1]}, "annotations": {"a": 1}},
        {"data": {"text": "喂"}, "annotations": [{"result": [{"value": {"choices": [[], {}]}}], "completed_by": []}]},
        {"input_text": "喂", "complaint_category": [["a"], []], "confidence_score": [], "metadata": [1]},
    ],
)
def test_objects_of_any_shape_bring_no_reader_down(tmp_path: Path, kind: Format, broken: dict[str, Any]) -> None:
    kinds: dict[Format, dict[str, Any]] = {
        Format.MS_SWIFT: {"query": "喂", "response": "network"},
        Format.LLAMA_FACTORY: {"instruction": "喂", "output": "network"},
        Format.LABEL_STUDIO: {"data": {"text": "喂"}, "annotations": []},
        Format.TRAINING_DATA: {"input_text": "喂"},
    }
    found, problems, _ = read(written(tmp_path / "x.jsonl", [broken, kinds[kind]]), format=kind)
    assert found[-1].line == 2
    assert found[-1].call.turns[0].role is Role.UNKNOWN
    assert len(found) == 2 or problems
