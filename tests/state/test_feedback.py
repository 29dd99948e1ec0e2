from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from qwenops.state.feedback import Outcome, by_call, read_feedback, settle
from qwenops.state.review import answer
from tests.state.reviewing import BEGIN, opened, said


@pytest.mark.parametrize(
    ("votes", "wanted", "outcome", "label"),
    [
        ([], 1, Outcome.OPEN, ""),
        ([("a", "x")], 1, Outcome.AGREED, "x"),
        ([("a", "x")], 2, Outcome.OPEN, "x"),
        ([("a", "x"), ("b", "x")], 2, Outcome.AGREED, "x"),
        ([("a", "x"), ("b", "y")], 1, Outcome.OPEN, ""),
        ([("a", "x"), ("b", "y"), ("c", "y")], 1, Outcome.AGREED, "y"),
        ([("a", "x"), ("b", "y"), ("c", "z")], 1, Outcome.DISPUTED, ""),
        ([("a", "x"), ("a", "y")], 1, Outcome.AGREED, "y"),
        ([("a", "x"), ("b", "y"), ("a", "y")], 2, Outcome.AGREED, "y"),
        ([("a", "x"), ("b", "y"), ("c", "z"), ("d", "z")], 2, Outcome.AGREED, "z"),
    ],
)
def test_what_a_call_counts_as_follows_from_the_latest_answer_of_each_person(
    votes: list[tuple[str, str]], wanted: int, outcome: Outcome, label: str
) -> None:
    settled = settle([said("c", code, who) for who, code in votes], wanted=wanted)
    assert (settled.outcome, settled.label) == (outcome, label)


def test_labels_of_two_versions_of_a_taxonomy_are_not_the_same_label() -> None:
    first, second = said("c", "x", "a"), replace(said("c", "x", "b"), taxonomy="made@2")
    assert settle([first, second], wanted=2).outcome is Outcome.OPEN


def test_feedback_is_read_by_the_time_it_was_given(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, clock):
        for day in range(3):
            answer(database, said(f"c{day}", "x", "wang"))
            clock.wait(86_400)
        since, until = BEGIN + timedelta(days=1), BEGIN + timedelta(days=2)
        assert [each.conversation_id for each in read_feedback(database, since=since)] == ["c1", "c2"]
        assert [each.conversation_id for each in read_feedback(database, since=since, until=until)] == ["c1"]
        assert list(by_call(read_feedback(database))) == ["c0", "c1", "c2"]
