from pathlib import Path

from qwenops.state.audit import Action, read_events
from qwenops.state.erasure import begin_erasure, customer_mark, end_erasure, erase_rows
from qwenops.state.feedback import read_feedback
from qwenops.state.review import answer, offer, queue_counts
from tests.state.reviewing import EVERYTHING_SEEN, candidate, opened, said


def test_everything_about_a_customer_goes_and_everything_else_stays(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        offer(database, [candidate("a"), candidate("b")], EVERYTHING_SEEN)
        answer(database, said("a", "x", "wang"))
        answer(database, said("elsewhere", "x", "wang"))
        calls = begin_erasure(database, "h:a", ["elsewhere"])
        assert calls == {"a", "elsewhere"}
        rows = erase_rows(database, "h:a", calls)
        assert (rows.review, rows.feedback) == (1, 2)
        assert end_erasure(database, "h:a", actor="ops", detail={"files": []})
        assert queue_counts(database).open == 1
        assert read_feedback(database) == []
        stored = b"".join(each.read_bytes() for each in tmp_path.iterdir())
        assert b"said in a" not in stored
        assert b"h:a" not in stored
        assert b"said in b" in stored


def test_an_erasure_that_was_broken_off_knows_its_calls_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with opened(path) as (database, _):
        begin_erasure(database, "h:a", ["one"])
    with opened(path) as (database, _):
        assert begin_erasure(database, "h:a", ["two"]) == {"one", "two"}
        end_erasure(database, "h:a", actor="ops", detail={})
        assert begin_erasure(database, "h:a", []) == frozenset()


def test_the_log_tells_that_a_customer_was_erased_without_naming_them(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        begin_erasure(database, "h:a", [])
        end_erasure(database, "h:a", actor="ops", detail={"models": ["m@1"]})
        (event,) = read_events(database, action=Action.ERASED)
        assert (event.actor, event.subject, event.detail) == ("ops", customer_mark("h:a"), {"models": ["m@1"]})
        assert "h:a" not in event.subject


def test_more_calls_than_one_statement_can_name_are_erased(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        calls = [candidate(f"c{number}") for number in range(1200)]
        offer(database, calls, EVERYTHING_SEEN)
        rows = erase_rows(database, "h:nobody", [each.conversation_id for each in calls])
        assert rows.review == 1200
