"""`qwenops classify`: files in, files out, with a classifier whose answers follow from words."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from qwenops.classify.prediction import parse_prediction
from qwenops.classify.registry import Registered
from qwenops.classify.score import Classifier, open_form
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.state.database import open_database
from qwenops.state.options import ReviewOptions
from qwenops.state.review import take
from tests.classify.artefacts import WordScorer, write_artefact
from tests.cli.conftest import Ran, Run

Classify = Callable[..., Ran]
TABLE = [
    ["通话编号", "客户编号", "通话内容"],
    ["a-1", "h:1", "客服：您好。\n客户：你们多扣了钱。"],
    ["a-2", "h:2", "客服：您好。\n客户：断网了。"],
    ["a-3", "h:3", "客服：您好。\n客户：多扣了钱，还断网。"],
]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(tiny_checkpoint)


@pytest.fixture
def classify(qwenops: Run, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Classify:
    """Return what runs the command with a champion in the registry."""

    async def open_classifier(found: Registered, _made: Any, secret: bytes) -> Classifier:
        return Classifier(found.ref, open_form(found.folder), tokenizer, WordScorer(tokenizer), secret=secret)

    monkeypatch.setattr("qwenops.cli.classify.open_classifier", open_classifier)
    assert qwenops("registry", "register", "complaints", write_artefact(tmp_path / "made")).code == 0
    assert qwenops("registry", "promote", "complaints").code == 0
    return lambda *argv: qwenops("classify", *argv, "--classifier", "complaints")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "calls.csv"
    out = io.StringIO()
    csv.writer(out).writerows(TABLE)
    path.write_bytes(out.getvalue().encode("gb18030"))
    return path


def test_a_table_becomes_lines_that_read_back(classify: Classify, table: Path) -> None:
    ran = classify(table)
    assert ran.code == 0, ran.err
    out = table.with_name("calls.csv.predictions.jsonl")
    found = [parse_prediction(line) for line in out.read_text("utf-8").splitlines()]
    assert [(each.conversation_id, each.primary, each.decision.value) for each in found] == [
        ("a-1", "billing.fee", "auto"),
        ("a-2", "network.down", "auto"),
        ("a-3", "billing.fee", "review"),
    ]
    assert found[0].model.startswith("complaints@1-")
    assert "auto: 2" in ran.err
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_table_becomes_a_table_that_a_spreadsheet_opens(
    classify: Classify, table: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"filed{suffix}"
    assert classify(table, "--out", out).code == 0
    if suffix == ".csv":
        rows = list(csv.reader(io.StringIO(out.read_bytes().decode("utf-8-sig"), newline="")))
    else:
        sheet = openpyxl.load_workbook(out).active
        assert sheet is not None
        rows = [[str(cell) for cell in row] for row in sheet.values]
    head, first, *_ = rows
    told = dict(zip(head, first, strict=True))
    assert (told["conversation_id"], told["category"], told["category_zh"]) == ("a-1", "billing.fee", "多扣费")
    assert (told["path"], told["decision"]) == ("billing / billing.fee", "auto")
    assert len(rows) == 4


def test_the_same_command_again_does_nothing_and_says_so(classify: Classify, table: Path) -> None:
    classify(table)
    told = json.loads(classify(table, "--json").out)
    assert (told["classified"], told["passed_over"], told["decisions"]) == (0, 3, {})


def test_bad_lines_are_named_in_a_side_file(classify: Classify, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    good = {"schema": "qwenops.call/1", "conversation_id": "a", "turns": [{"role": "customer", "text": "断网"}]}
    silent = good | {"conversation_id": "b", "turns": []}
    path.write_text(f"{json.dumps(good)}\nno json\n{json.dumps(silent)}\n", "utf-8")
    told = json.loads(classify(path, "--json").out)
    assert (told["classified"], told["rejected"]) == (1, 2)
    rejected = [json.loads(line) for line in Path(told["rejected_file"]).read_text("utf-8").splitlines()]
    assert [each["line"] for each in rejected] == [2, 3]
    assert "Nobody says anything" in rejected[1]["problem"]


def test_a_pipe_gets_predictions_and_nothing_else(classify: Classify, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"schema": "qwenops.call/1", "conversation_id": "a", "turns": [{"role": "customer", "text": "断网"}]}
    given = io.TextIOWrapper(io.BytesIO(f"{json.dumps(line)}\nno json\n".encode()))
    monkeypatch.setattr(sys, "stdin", given)
    ran = classify("-")
    assert ran.code == 0, ran.err
    (only,) = ran.out.splitlines()
    assert parse_prediction(only).primary == "network.down"
    assert "-:2" in ran.err


def test_uncertain_calls_go_into_the_review_queue_where_that_is_wanted(
    classify: Classify, table: Path, home: Path
) -> None:
    classify(table)
    assert classify(table, "--out", table.with_name("again.jsonl"), "--review").code == 0
    with open_database(home / "calls.sqlite") as database:
        items = take(database, "wang", ReviewOptions(), count=10)
    assert "a-3" in {item.call.conversation_id for item in items}
    assert {item.call.taxonomy for item in items} == {"made@1"}


def line_of(name: str, *turns: tuple[str, str]) -> str:
    told = [{"role": role, "text": text} for role, text in turns]
    return json.dumps({"schema": "qwenops.call/1", "conversation_id": name, "turns": told}, ensure_ascii=False)


def test_odd_calls_are_classified_and_impossible_ones_named(classify: Classify, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    lines = [
        line_of("good", ("agent", "您好"), ("customer", "断网了")),
        line_of("only the customer", ("customer", "断网了")),
        line_of("only the agent", ("agent", "断网了")),
        line_of("a hundred thousand tokens", ("customer", "断网了，" + "我跟你讲，" * 40_000)),
        line_of("blanks", ("customer", " \u3000")),
        line_of("good", ("customer", "断网了")),
    ]
    raw = [line.encode() for line in lines]
    raw.append(line_of("of another program", ("customer", "多扣了钱")).encode("gb18030"))
    raw.append(line_of("cut within a character", ("customer", "断网")).encode().replace("网".encode(), b"\xff\xff"))
    path.write_bytes(b"\n".join(raw) + b"\n")
    told = json.loads(classify(path, "--json").out)
    assert (told["classified"], told["rejected"], told["warnings"]) == (5, 3, 1)
    predicted = Path(told["out"]).read_text("utf-8").splitlines()
    found = {each.conversation_id: each.primary for each in map(parse_prediction, predicted)}
    assert found == {
        "good": "network.down",
        "only the customer": "network.down",
        "only the agent": "network.down",
        "a hundred thousand tokens": "network.down",
        "of another program": "billing.fee",
    }
    rejected = [json.loads(line) for line in Path(told["rejected_file"]).read_text("utf-8").splitlines()]
    assert sorted((each["line"], each["severity"]) for each in rejected) == [
        (5, "error"), (6, "error"), (7, "warning"), (8, "error")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("taxonomy.yaml", ("version: 1", "version: 2"), "it was trained for made@1, and its taxonomy is made@2"),
        ("prompt.json", ('"hash": "', '"hash": "0'), "it was trained on prompts of another form"),
        ("calibration.json", ("scaling", "scales"), "calibration.json is not what this version reads"),
    ],
)
def test_a_model_and_a_taxonomy_that_do_not_match_are_refused(
    qwenops: Run, tmp_path: Path, name: str, change: tuple[str, str], said: str
) -> None:
    folder = write_artefact(tmp_path / "made")
    whole = (folder / name).read_text("utf-8")
    (folder / name).write_text(whole.replace(*change), "utf-8")
    ran = qwenops("registry", "register", "complaints", folder)
    assert ran.code != 0
    assert f"The classifier in {folder} cannot be used: {said}" in ran.err
    assert "qwenops finetune export" in ran.err
    assert "complaints" not in qwenops("registry", "list").out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["calls.csv", "--classifier", "nobody"], 4, "no classifier 'nobody'"),
        (["calls.csv"], 2, "No classifier was named"),
        (["calls.csv", "--classifier", "complaints", "--out", "filed.pdf"], 2, "filed.pdf"),
        (["nowhere.csv", "--classifier", "complaints"], 2, "nowhere.csv"),
    ],
)
@pytest.mark.usefixtures("classify")
def test_what_cannot_be_done_is_said_with_its_exit_code(
    qwenops: Run, table: Path, argv: list[str], code: int, said: str
) -> None:
    ran = qwenops("classify", *[str(table) if word == "calls.csv" else word for word in argv])
    assert ran.code == code
    assert said in ran.err
