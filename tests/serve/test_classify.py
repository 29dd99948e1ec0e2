"""Calls over HTTP: what is sent, what comes back, what is kept, and what a change of the champion does to requests."""

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qwenops.errors import OverloadedError
from qwenops.serve.auth import KeyRing
from qwenops.serve.call_schemas import ClassifyReply, FeedbackReply, QueueReply, ReviewReply
from qwenops.serve.champion import Champion, Desk
from qwenops.serve.options import LimitOptions, ServeOptions
from qwenops.state.audit import Action, read_events
from qwenops.state.database import Database, open_database
from qwenops.state.feedback import read_feedback
from qwenops.state.keys import ApiKey, KeyLimits, Scope, digest
from qwenops.state.options import ReviewOptions, StateOptions
from qwenops.state.review import queue_counts
from tests.serve.classifying import FakeSource, following
from tests.serve.conftest import Served, Start, make_served
from tests.serve.test_app import get
from tests.serve.test_faults import connected, post

CLASSIFY, FEEDBACK, REVIEW = "/v1/classify", "/v1/feedback", "/v1/review"
OPTIONS = StateOptions(review=ReviewOptions(check_share=0.0, blind_share=0.0, second_share=0.0))
SURE = {"conversation_id": "c-1", "customer_id": "h:1", "turns": [{"role": "customer", "text": "你们多扣了钱"}]}
UNSURE = {"conversation_id": "c-2", "customer_id": "h:2", "turns": [{"role": "customer", "text": "多扣了钱，还断网"}]}
THREAT = {"conversation_id": "c-3", "turns": [{"role": "customer", "text": "我要炸了你们，多扣钱"}]}

Open = Callable[..., Served]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def serve(start: Start, database: Database, source: FakeSource) -> Open:
    """Return a function that starts a server with a classifier."""

    def run(*, state: StateOptions = OPTIONS, kept: bool = True, **parts: Any) -> Served:
        served = make_served(**parts)
        champion = asyncio.run(following(source))
        served.desk = Desk(champion=champion, database=database if kept else None, options=state)
        return start(served)

    return run


def ring(*scopes: Scope, secret: str = "qo-" + "a" * 64, models: tuple[str, ...] = ()) -> KeyRing:
    key = ApiKey(
        id="k1",
        name="centre",
        sha256=digest(secret),
        scopes=frozenset(scopes),
        limits=KeyLimits(models=models),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    keys = KeyRing([lambda: [key]])
    keys.refresh()
    return keys


BEARER = {"Authorization": "Bearer qo-" + "a" * 64}


def test_a_call_comes_back_with_class_path_probabilities_decision_version_and_timing(serve: Open) -> None:
    served = serve()
    status, answer, _ = post(served, CLASSIFY, {"input": SURE})
    assert status == 200
    ClassifyReply.model_validate(answer)
    assert (answer["model"], answer["taxonomy"], answer["queued"]) == ("complaints@1-abc", "made@1", 0)
    (result,) = answer["results"]
    assert (result["conversation_id"], result["label"], result["path"]) == (
        "c-1",
        "billing.fee",
        ["billing", "billing.fee"],
    )
    assert result["name"] == {"zh": "多扣费", "en": "Overcharged"}
    assert (result["p"], result["decision"], result["threshold"]) == (0.94, "auto", 0.8)
    assert sum(result["probabilities"].values()) == pytest.approx(1)
    assert (result["latency_ms"], result["evidence"]) == (10.0, None)
    assert 0 <= answer["timing"]["queue_s"] <= answer["timing"]["total_s"] < 5
    assert served.decided == [("complaints", "auto")]


def test_one_text_many_texts_one_call_and_many_calls_are_taken(serve: Open, source: FakeSource) -> None:
    served = serve()
    for given, labels in (
        ("客服：您好。\n客户：断网了。", ["network.down"]),
        (["客户：断网了。", "多扣钱"], ["network.down", "billing.fee"]),
        (SURE, ["billing.fee"]),
        ([SURE, UNSURE], ["billing.fee", "billing.fee"]),
    ):
        status, answer, _ = post(served, CLASSIFY, {"input": given, "review": False})
        assert status == 200, answer
        assert [each["label"] for each in answer["results"]] == labels
        ids = [each["conversation_id"] for each in answer["results"]]
        assert len(set(ids)) == len(ids)
    spoken = source.opened[0].calls[0]
    assert [turn.role.value for turn in spoken.turns] == ["agent", "customer"]


def test_a_line_of_a_file_of_calls_can_be_sent_as_it_is(serve: Open) -> None:
    line = {
        "schema": "qwenops.call/1",
        **SURE,
        "agent_id": "h:a",
        "channel": "phone",
        "lang": "zh",
        "started_at": "2026-03-01T09:12:33+08:00",
        "duration_s": 312,
        "asr": {"engine": "x", "version": "2", "mean_conf": 0.87},
        "redaction": {"version": "zh-1", "counts": {"PHONE": 2}},
        "meta": {"product": "mobile"},
    }
    assert post(serve(), CLASSIFY, {"input": line})[0] == 200


def test_the_turns_that_carried_an_answer_come_where_they_are_asked_for(serve: Open) -> None:
    _, answer, _ = post(serve(), CLASSIFY, {"input": SURE, "evidence": True})
    assert answer["results"][0]["evidence"] == [{"turns": [0], "drop": 0.5}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": {"turns": []}}, "input.turns"),
        ({"input": {"turns": [{"role": "boss", "text": "x"}]}}, "input.turns[0].role"),
        ({"input": [SURE, {"turns": [{"role": "agent"}]}]}, "input[1].turns[0].text"),
        ({"input": [SURE, SURE]}, "input[1].conversation_id"),
        ({"input": ["多扣", "   "]}, "input[1]"),
        ({"input": SURE, "models": "x"}, "models"),
        ({"input": SURE, "model": "others"}, "model"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(serve: Open, body: dict[str, Any], param: str) -> None:
    status, answer, _ = post(serve(), CLASSIFY, body)
    assert status in {400, 404}
    assert answer["error"]["param"] == param, answer


@pytest.mark.parametrize("name", ["complaints", "complaints@champion", "complaints@1", "complaints@1-abc"])
def test_the_classifier_may_be_named_in_every_way_that_means_it(serve: Open, name: str) -> None:
    assert post(serve(), CLASSIFY, {"input": SURE, "model": name})[0] == 200


def test_a_request_leaves_one_record_without_a_word_of_the_call(serve: Open) -> None:
    served = serve()
    post(served, CLASSIFY, {"input": [SURE, UNSURE]})
    record = served.wait_for_records(1)[0]
    assert (record.status, record.endpoint, record.served_model) == ("success", CLASSIFY, "complaints")
    assert record.prompt_tokens > 0
    assert record.prompt_length == len("你们多扣了钱") + len("多扣了钱，还断网")
    assert "多扣" not in json.dumps(record.line(), ensure_ascii=False)


def test_what_the_model_is_unsure_of_waits_for_a_person_redacted_and_once(serve: Open, database: Database) -> None:
    served = serve()
    told = {**UNSURE, "turns": [{"role": "customer", "text": "多扣了钱，断网，我的邮箱是someone@example.com"}]}
    queued = [post(served, CLASSIFY, {"input": [SURE, told]})[1]["queued"] for _ in range(2)]
    assert queued == [1, 0], "it is in the queue already"
    assert queue_counts(database).open == 1
    status, taken, _ = post(served, REVIEW, {"reviewer": "wang", "count": 5})
    assert status == 200
    ReviewReply.model_validate(taken)
    (item,) = taken["items"]
    assert (item["conversation_id"], item["why"], item["model"]) == ("c-2", "unsure", "complaints@1-abc")
    assert item["predicted"]["label"] == "billing.fee"
    assert "example.com" not in json.dumps(taken)


def test_calls_that_shall_not_be_kept_are_not(serve: Open, database: Database) -> None:
    post(serve(), CLASSIFY, {"input": UNSURE, "review": False})
    assert queue_counts(database).open == 0


def test_a_blind_item_hides_what_the_model_said(serve: Open) -> None:
    served = serve(state=StateOptions(review=replace(OPTIONS.review, blind_share=1.0)))
    post(served, CLASSIFY, {"input": UNSURE})
    _, taken, _ = post(served, REVIEW, {"reviewer": "wang"})
    assert taken["items"][0]["predicted"] is None


def test_feedback_is_kept_with_what_was_predicted_who_said_it_and_how_long_it_took(
    serve: Open, database: Database
) -> None:
    served = serve()
    post(served, CLASSIFY, {"input": UNSURE})
    post(served, REVIEW, {"reviewer": "wang"})
    said = {
        "conversation_id": "c-2",
        "label": "network.down",
        "secondary": ["billing.fee"],
        "axes": {"urgency": "high"},
        "reviewer": "wang",
        "seconds": 14.5,
        "note": "Rang from someone@example.com",
    }
    status, answer, _ = post(served, FEEDBACK, said)
    assert status == 200
    FeedbackReply.model_validate(answer)
    assert (answer["outcome"], answer["label"], answer["votes"]) == ("agreed", "network.down", 1)
    (kept,) = read_feedback(database)
    assert (kept.predicted, kept.label, kept.model) == ("billing.fee", "network.down", "complaints@1-abc")
    assert (kept.reviewer, kept.seconds, kept.customer_id) == ("wang", 14.5, "h:2")
    assert (kept.secondary, dict(kept.axes)) == (("billing.fee",), {"urgency": "high"})
    assert "example.com" not in kept.note
    assert [event.action for event in read_events(database, subject="c-2")] == [Action.LABELLED, Action.SAW]
    _, counts = get(served, REVIEW)
    QueueReply.model_validate(counts)
    assert (counts["open"], counts["done"]) == (0, 1)


def test_a_critical_class_needs_two_people(serve: Open) -> None:
    served = serve()
    said = {"conversation_id": "c-3", "label": "safety.threat"}
    assert post(served, FEEDBACK, {**said, "reviewer": "wang"})[1]["outcome"] == "open"
    answer = post(served, FEEDBACK, {**said, "reviewer": "li"})[1]
    assert (answer["outcome"], answer["wanted"]) == ("agreed", 2)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"label": "nothing"}, "label"),
        ({"secondary": ["other", "nothing"]}, "secondary[1]"),
        ({"axes": {"mood": "high"}}, "axes.mood"),
        ({"axes": {"urgency": "very"}}, "axes.urgency"),
        ({"reviewer": "  "}, "reviewer"),
        ({"seconds": -1}, "seconds"),
        ({"conversation_id": ""}, "conversation_id"),
    ],
)
def test_an_answer_that_cannot_be_one_is_refused_with_the_field(
    serve: Open, database: Database, change: dict[str, Any], param: str
) -> None:
    said = {"conversation_id": "c-1", "label": "other", "reviewer": "wang"}
    status, answer, _ = post(serve(), FEEDBACK, said | change)
    assert status == 400
    assert answer["error"]["param"] == param
    assert read_feedback(database) == []


def test_the_name_of_the_key_is_the_reviewers_where_nobody_says_another(serve: Open, database: Database) -> None:
    served = serve(keys=ring(Scope.REVIEW))
    assert post(served, FEEDBACK, {"conversation_id": "c-1", "label": "other"}, BEARER)[0] == 200
    (kept,) = read_feedback(database)
    assert (kept.reviewer, kept.key_name) == ("centre", "centre")


@pytest.mark.parametrize(
    ("scopes", "opened"),
    [
        ((Scope.INFERENCE,), {CLASSIFY}),
        ((Scope.REVIEW,), {FEEDBACK, REVIEW}),
        ((Scope.INFERENCE, Scope.REVIEW), {CLASSIFY, FEEDBACK, REVIEW}),
        ((Scope.ADMIN,), {CLASSIFY, FEEDBACK, REVIEW}),
        ((Scope.METRICS,), set()),
    ],
)
def test_who_may_classify_may_not_read_what_customers_said_and_the_other_way_round(
    serve: Open, scopes: tuple[Scope, ...], opened: set[str]
) -> None:
    served = serve(keys=ring(*scopes))
    bodies = {
        CLASSIFY: {"input": SURE},
        FEEDBACK: {"conversation_id": "c-1", "label": "other"},
        REVIEW: {"reviewer": "wang"},
    }
    assert {path for path, body in bodies.items() if post(served, path, body, BEARER)[0] == 200} == opened
    assert {path for path, body in bodies.items() if post(served, path, body)[0] == 401} == set(bodies)


def test_a_key_for_other_models_does_not_open_the_classifier(serve: Open) -> None:
    served = serve(keys=ring(Scope.INFERENCE, models=("qwen3:0.6b",)))
    assert post(served, CLASSIFY, {"input": SURE}, BEARER)[0] == 403


def test_a_server_that_keeps_nothing_says_so_and_classifies_all_the_same(serve: Open) -> None:
    served = serve(kept=False)
    assert post(served, CLASSIFY, {"input": UNSURE})[1]["queued"] == 0
    status, answer, _ = post(served, REVIEW, {"reviewer": "wang"})
    assert (status, answer["error"]["code"]) == (501, "part_missing")


def test_a_method_that_is_not_there_is_answered_with_all_that_are(serve: Open) -> None:
    served = serve()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("DELETE", REVIEW)
        response = connection.getresponse()
        assert (response.status, response.headers["allow"]) == (405, "GET, POST")
        assert json.loads(response.read())["error"]["code"] == "method_not_allowed"


def test_an_answer_is_not_lost_because_the_queue_cannot_be_written(
    serve: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OverloadedError("The database cannot be used now: disk full.")

    monkeypatch.setattr("qwenops.serve.classify.offer", full)
    status, answer, _ = post(serve(), CLASSIFY, {"input": UNSURE})
    assert status == 200
    assert (answer["queued"], answer["results"][0]["decision"]) == (0, "review")
    assert "1 calls could not be offered for review" in caplog.text


def test_an_engine_that_died_is_an_error_of_its_own_and_the_next_request_succeeds(
    serve: Open, source: FakeSource
) -> None:
    served = serve()
    source.opened[0].crashes = 1
    assert post(served, CLASSIFY, {"input": SURE})[0] == 502
    assert post(served, CLASSIFY, {"input": SURE})[0] == 200


def test_a_client_that_goes_away_frees_its_place_and_the_classifier(serve: Open, source: FakeSource) -> None:
    source.pause_s = 30.0
    served = serve()
    with connected(served, {"input": SURE}, path=CLASSIFY):
        served.wait_until(lambda: source.opened[0].running == 1)
    served.wait_until(lambda: source.opened[0].running == 0)
    served.wait_until(lambda: served.serving.admission.num_running == 0)
    assert served.wait_for_records(1)[0].status == "cancelled"


def test_a_deadline_ends_a_classification(serve: Open, source: FakeSource) -> None:
    source.pause_s = 30.0
    served = serve()
    began_s = time.monotonic()
    status, _, _ = post(served, CLASSIFY, {"input": SURE}, {"X-Request-Deadline": "0.2"})
    assert status == 504
    assert time.monotonic() - began_s < 5


def test_a_body_over_the_limit_is_refused_before_it_is_read(serve: Open) -> None:
    served = serve(options=ServeOptions(limits=LimitOptions(max_body_bytes=2048)))
    assert post(served, CLASSIFY, {"input": "多" * 2000})[0] == 413


def test_no_request_is_lost_while_the_champion_changes(serve: Open, source: FakeSource) -> None:
    source.pause_s = 0.004
    served = serve()
    champion = served.desk.champion if served.desk else None
    assert isinstance(champion, Champion)
    post(served, CLASSIFY, {"input": SURE})
    tasks: list[asyncio.Task[None]] = []
    served.call(lambda: tasks.append(asyncio.get_running_loop().create_task(champion.follow())))
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()

    def client() -> None:
        body = json.dumps({"input": SURE}).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
            while not is_over.is_set():
                connection.request("POST", CLASSIFY, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answers.append((response.status, json.loads(response.read()).get("model", "")))

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    for number in range(12):
        source.key = ("2-def", "3-fed", "1-abc")[number % 3]
        time.sleep(0.06)
    is_over.set()
    for each in clients:
        each.join(20)
    served.call(lambda: [task.cancel() for task in tasks])
    assert {status for status, _ in answers} == {200}
    assert {model for _, model in answers} == {"complaints@1-abc", "complaints@2-def", "complaints@3-fed"}
    assert len(answers) > 50
    served.wait_until(lambda: all(each.closed for each in source.opened[:-1]))
