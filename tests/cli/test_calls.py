"""`qwenops calls`: from a table to parts for training, and from review to labels and to nothing."""

import json
from pathlib import Path

import pytest

from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.write import write
from qwenops.calls.schema import parse_call, parse_label
from qwenops.state.database import open_database
from qwenops.state.feedback import Feedback, read_feedback
from qwenops.state.review import answer
from tests.classify.made import SOURCE
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of synthetic calls."""
    folder = tmp_path_factory.mktemp("synthetic")
    write(GeneratorOptions(calls=400, seed=5, label_noise=0.0), folder)
    return folder


def test_synthetic_calls_follow_from_their_seed(qwenops: Run, tmp_path: Path) -> None:
    for name in ("one", "same"):
        ran = qwenops("calls", "synth", "--out", tmp_path / name, "--calls", "20", "--seed", "3")
        assert ran.code == 0, ran.err
    assert qwenops("calls", "synth", "--out", tmp_path / "other", "--calls", "20", "--seed", "4").code == 0
    texts = [(tmp_path / name / "calls.jsonl").read_text("utf-8") for name in ("one", "same", "other")]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0].splitlines()) == 20
    assert qwenops("calls", "synth", "--out", tmp_path / "none", "--calls", "0").code == 2


def test_validate_names_everything_with_its_line_and_ends_with_two(qwenops: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    call = {"schema": "qwenops.call/1", "conversation_id": "a", "turns": [{"role": "customer", "text": "多扣钱"}]}
    path.write_text(f"{json.dumps(call)}\n{json.dumps(call)}\nno json\n", "utf-8")
    ran = qwenops("calls", "validate", path)
    assert ran.code == 2
    assert f"{path}:2" in ran.out
    assert f"{path}:3" in ran.out
    told = json.loads(qwenops("calls", "validate", path, "--json").out)
    assert told["errors"] == 2
    path.write_text(f"{json.dumps(call)}\n", "utf-8")
    assert qwenops("calls", "validate", path).code == 0


def test_warnings_that_say_the_same_do_not_hide_an_error(qwenops: Run, tmp_path: Path) -> None:
    turns = [{"role": "agent", "text": "您好"}, {"role": "customer", "text": "我的号码是12800000000"}]
    calls = [{"schema": "qwenops.call/1", "conversation_id": f"c-{n}", "turns": turns} for n in range(9)]
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in [*calls, calls[0]]) + "\n", "utf-8")
    ran = qwenops("calls", "validate", path)
    assert ran.code == 2
    assert ran.out.count(": warning: ") == 3
    assert ran.out.count(": error: ") == 1
    told = json.loads(qwenops("calls", "validate", path, "--json").out)["problems"]
    hidden = sum(each["severity"] == "warning" for each in told) - 3
    assert hidden >= 6
    assert f"{hidden} more warnings" in ran.err


def test_a_table_as_spreadsheets_write_it_in_china_is_read_and_what_is_wrong_named_by_row_and_column(
    qwenops: Run, tmp_path: Path
) -> None:
    path = tmp_path / "投诉.csv"
    path.write_bytes(
        "通话编号,通话内容,投诉类别,置信度,通话时间\r\n"
        'C1,"客服：您好，请问有什么可以帮您\n客户：你们多扣了我两个月的钱",billing.fee,0.9,2026/3/1 9:12\r\n'
        "C2,,billing.fee,1,2026年3月2日\r\n"
        "C3,客户：信号一直不好,没有这类,1,昨天\r\n"
        "C1,客户：宽带又断了,network.down,1.5,\r\n".encode("gb18030")
    )
    ran = qwenops("calls", "validate", path, "--taxonomy", SOURCE)
    assert ran.code == 2
    said = [
        line.removeprefix(f"{path}:").split(": ")[:3] for line in ran.out.splitlines() if line.startswith(str(path))
    ]
    assert [each for each in said if each[2] == "error"] == [
        ["4", "通话内容", "error"],
        ["5", "投诉类别", "error"],
        ["6", "置信度", "error"],
        ["6", "conversation_id", "error"],
    ]
    assert ["5", "通话时间", "warning"] in said
    assert [int(each[0]) for each in said] == sorted(int(each[0]) for each in said), "in the order of the file"
    assert "Errors: 4" in ran.err


def test_bad_lines_are_told_by_every_command_that_leaves_them_out(qwenops: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "calls.jsonl", tmp_path / "out.jsonl"
    call = {"schema": "qwenops.call/1", "conversation_id": "a", "turns": [{"role": "customer", "text": "多扣钱"}]}
    path.write_text(f"{json.dumps(call)}\nno json\n", "utf-8")
    for verb in ("stats", "dedupe"):
        assert f"{path}:2: This is no JSON" in qwenops("calls", verb, path).err
    rejected = tmp_path / "out.jsonl.rejected.jsonl"
    assert qwenops("calls", "redact", path, "--out", out).code == 0
    assert json.loads(rejected.read_text("utf-8"))["line"] == 2
    path.write_text(json.dumps(call | {"turns": 5}) + "\n", "utf-8")
    nothing = qwenops("calls", "redact", path, "--out", tmp_path / "none.jsonl")
    assert nothing.code == 2
    assert "holds no call that can be read" in nothing.err
    assert not (tmp_path / "none.jsonl").exists()
    path.write_text(f"{json.dumps(call)}\n", "utf-8")
    assert qwenops("calls", "redact", path, "--out", out).code == 0
    assert not rejected.exists(), "what it says is no longer so"


def test_stats_speak_in_sentences_and_in_figures(qwenops: Run, made: Path) -> None:
    argv = ["calls", "stats", made / "calls.jsonl", "--labels", made / "labels.jsonl"]
    assert "400" in qwenops(*argv).out
    assert json.loads(qwenops(*argv, "--json").out)["calls"] == 400


def test_of_calls_with_one_id_the_first_is_redacted_and_the_others_are_set_aside(qwenops: Run, tmp_path: Path) -> None:
    table = tmp_path / "calls.csv"
    table.write_text("id,text\nC1,agent: Hello.\nC2,agent: Good morning.\nC1,agent: Once more.\n", "utf-8")
    out = tmp_path / "out.jsonl"
    done = qwenops("calls", "redact", str(table), "--out", str(out), "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["conversation_id"] for line in out.read_text("utf-8").splitlines()] == ["C1", "C2"]
    (rejected,) = Path(f"{out}.rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rejected)["line"] == 4
    assert json.loads(done.out)["problems"] == 1


@pytest.mark.parametrize("verb", ["redact", "dedupe"])
def test_what_is_read_is_never_written_over(qwenops: Run, tmp_path: Path, verb: str) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_text("{}\n", "utf-8")
    done = qwenops("calls", verb, str(calls), "--out", str(calls))
    assert done.code == 2
    assert "would be written over" in done.err
    assert calls.read_text("utf-8") == "{}\n"


def test_redact_takes_personal_data_out_and_labels_apart(qwenops: Run, tmp_path: Path, home: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text(
        "conversation_id,customer_id,text,category\n"
        'a,h:1,"客服：您好。\n客户：我的邮箱是someone@example.com，多扣了钱。",billing.fee\n',
        "utf-8",
    )
    out = tmp_path / "clean.jsonl"
    ran = qwenops("calls", "redact", path, "--out", out, "--taxonomy", SOURCE, "--json")
    assert ran.code == 0, ran.err
    call = parse_call(out.read_text("utf-8"))
    assert "example.com" not in str(call)
    assert call.redaction is not None
    (label,) = (parse_label(line) for line in Path(json.loads(ran.out)["labels"]).read_text("utf-8").splitlines())
    assert (label.primary, label.taxonomy) == ("billing.fee", "made@1")
    assert (home / "redaction.secret").stat().st_mode & 0o777 == 0o600
    again = tmp_path / "again.jsonl"
    qwenops("calls", "redact", out, "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_split_writes_parts_only_where_nothing_leaks(qwenops: Run, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "splits.json"
    argv = ["calls", "split", made / "calls.jsonl", "--labels", made / "labels.jsonl", "--out", out]
    ran = qwenops(*argv, "--anytime", "--seed", "1", "--json")
    assert ran.code == 0, ran.err
    sizes = json.loads(ran.out)["calls"]
    assert sizes["train"] > sizes["test"] > 0
    parts = json.loads(out.read_text("utf-8"))
    assert len(parts["train"]) == sizes["train"]
    assert not set(parts["train"]) & set(parts["test"])
    out.unlink()
    other = qwenops(*argv, "--taxonomy", "bank-cn")
    assert other.code == 2
    assert f"{made / 'labels.jsonl'}:1: taxonomy: The label is about 'telecom-cn@2', not about bank-cn@" in other.err
    assert not out.exists()
    assert qwenops(*argv, "--shares", "train=x").code == 2
    assert qwenops(*argv[:2], "-", *argv[3:]).code == 2


def test_dedupe_lists_what_is_nearly_the_same_and_keeps_one_of_each(qwenops: Run, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "once.jsonl"
    told = json.loads(qwenops("calls", "dedupe", made / "calls.jsonl", "--out", out, "--json").out)
    assert told["clusters"]
    left_out = sum(len(cluster) - 1 for cluster in told["clusters"])
    assert len(out.read_text("utf-8").splitlines()) == 400 - left_out
    again = json.loads(qwenops("calls", "dedupe", out, "--json").out)
    assert again["clusters"] == []


def feedback(home: Path, *answers: tuple[str, str, str]) -> None:
    with open_database(home / "calls.sqlite") as database:
        for call, label, who in answers:
            answer(database, Feedback(conversation_id=call, taxonomy="made@1", label=label, reviewer=who, seconds=3.0))


def test_what_was_kept_as_long_as_it_may_be_is_gone_with_the_next_command(qwenops: Run, home: Path) -> None:
    feedback(home, ("c1", "billing.fee", "wang"))
    assert qwenops("calls", "audit").code == 0
    with open_database(home / "calls.sqlite") as database:
        assert len(read_feedback(database)) == 1
    assert qwenops("calls", "audit", QWENOPS_STATE_RETENTION_FEEDBACK_S="1ms").code == 0
    with open_database(home / "calls.sqlite") as database:
        assert read_feedback(database) == []


def test_labels_from_review_say_how_far_people_agree(qwenops: Run, home: Path, tmp_path: Path) -> None:
    labels = ["billing.fee", "network.down", "service.rude"]
    feedback(home, *((f"c{n}", labels[n % 3], who) for n in range(9) for who in ("wang", "li")))
    argv = ["calls", "label", "--from-review", "--out", tmp_path / "labels", "--taxonomy", SOURCE]
    told = json.loads(qwenops(*argv, "--json").out)
    assert (told["version"], told["labels"], told["is_new"]) == (1, 9, True)
    assert told["agreement"]["kappa"] == pytest.approx(1.0)
    again = qwenops(*argv)
    assert "Nothing has come since" in again.err
    assert "kappa" in again.out
    assert qwenops(*argv[:2], *argv[3:]).code == 2, "it must be said where labels come from"
    assert qwenops(*argv, "--since", "2100-01-01").code == 2
    assert qwenops(*argv, "--since", "yesterday").code == 2


def test_erase_removes_a_customer_everywhere_and_asks_first(qwenops: Run, home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"conversation_id": call, "customer_id": who} for call, who in (("a", "h:a"), ("b", "h:b"))]
    (data / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    feedback(home, ("a", "billing.fee", "wang"))
    argv = ["calls", "erase", "--customer", "h:a", "--data", data]
    asked = qwenops(*argv)
    assert asked.code == 2
    assert "--yes" in asked.err
    told = json.loads(qwenops(*argv, "--yes", "--json").out)
    assert (told["conversations"], told["feedback"], told["is_scrubbed"]) == (1, 1, True)
    assert [Path(each["path"]).name for each in told["files"]] == ["calls.jsonl"]
    assert json.loads((data / "calls.jsonl").read_text("utf-8")) == rows[1]
    assert "erased" in qwenops("calls", "audit").out


def test_a_customer_is_erased_by_the_number_that_became_a_hash(qwenops: Run, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("conversation_id,customer_id,text\na,someone@example.com,多扣了钱\n", "utf-8")
    data = tmp_path / "data"
    data.mkdir()
    assert qwenops("calls", "redact", raw, "--out", data / "calls.jsonl").code == 0
    call = parse_call((data / "calls.jsonl").read_text("utf-8"))
    assert call.customer_id.startswith("h:")
    argv = ["calls", "erase", "--customer", "someone@example.com", "--data", data, "--yes", "--json"]
    told = json.loads(qwenops(*argv).out)
    assert told["conversations"] == 1
    assert (data / "calls.jsonl").read_text("utf-8") == ""
