import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.state.audit import Action, read_events
from qwenops.state.database import Database
from qwenops.state.feedback import Outcome, read_feedback
from qwenops.state.options import ReviewOptions
from qwenops.state.review import ItemState, Why, answer, lot, offer, queue_counts, take
from tests.state.reviewing import BEGIN, EVERYTHING_SEEN, Clock, candidate, critical, opened, said, sure


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Database, Clock]]:
    with opened(tmp_path / "calls.sqlite") as both:
        yield both


def names(database: Database, reviewer: str, count: int, options: ReviewOptions = EVERYTHING_SEEN) -> list[str]:
    return [item.call.conversation_id for item in take(database, reviewer, options, count=count)]


def test_what_the_model_is_unsure_of_is_queued_and_what_it_is_sure_of_is_not(state: tuple[Database, Clock]) -> None:
    database, _ = state
    assert offer(database, [candidate("a"), sure(candidate("b"))], EVERYTHING_SEEN) == 1
    (item,) = take(database, "wang", EVERYTHING_SEEN, count=10)
    assert item.call == candidate("a")
    assert (item.why, item.chance, item.wanted, item.state) == (Why.UNSURE, 1.0, 1, ItemState.OPEN)


def test_a_share_of_the_sure_calls_is_checked_and_carries_its_chance(state: tuple[Database, Clock]) -> None:
    database, _ = state
    options = replace(EVERYTHING_SEEN, check_share=0.2)
    calls = [sure(candidate(f"c{number}")) for number in range(1000)]
    queued = offer(database, calls, options)
    assert 150 < queued < 250
    items = take(database, "wang", options, count=1000)
    assert {(item.why, item.chance) for item in items} == {(Why.CHECK, 0.2)}


def test_to_offer_a_call_again_changes_nothing_however_far_it_is(state: tuple[Database, Clock]) -> None:
    database, _ = state
    assert offer(database, [candidate("a"), candidate("a")], EVERYTHING_SEEN) == 1
    assert offer(database, [candidate("a", first=0.9)], EVERYTHING_SEEN) == 0
    answer(database, said("a", "billing.fee", "wang"))
    assert offer(database, [candidate("a")], EVERYTHING_SEEN) == 0
    assert queue_counts(database).done == 1


def test_close_classes_come_first_and_so_do_rare_ones(state: tuple[Database, Clock]) -> None:
    database, _ = state
    far, close = candidate("far", first=0.8, second=0.1), candidate("close", first=0.41, second=0.4)
    offer(database, [far, close], EVERYTHING_SEEN)
    assert names(database, "wang", 2) == ["close", "far"]
    for number in range(30):
        answer(database, said(f"known-{number}", "common", "wang"))
    offer(
        database,
        [candidate("usual", predicted="common"), candidate("seldom", predicted="rare")],
        EVERYTHING_SEEN,
    )
    queue = names(database, "li", 4)
    assert queue.index("seldom") < queue.index("usual")


def test_a_call_is_kept_for_who_took_it_until_the_time_is_over(state: tuple[Database, Clock]) -> None:
    database, clock = state
    offer(database, [candidate("a"), candidate("b", first=0.5)], EVERYTHING_SEEN)
    assert names(database, "wang", 1) == ["a"]
    assert names(database, "li", 2) == ["b"]
    assert names(database, "wang", 1) == ["a"], "what was taken comes again to the same person"
    assert queue_counts(database).claimed == 2
    clock.wait(EVERYTHING_SEEN.lease_s)
    assert names(database, "li", 2) == ["b", "a"]


def test_people_who_take_at_the_same_time_never_get_the_same_call(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with opened(path) as (database, _):
        offer(database, [candidate(f"c{number}") for number in range(40)], EVERYTHING_SEEN)
    got: dict[str, list[str]] = {}

    def work(reviewer: str) -> None:
        with opened(path) as (database, _):
            got[reviewer] = [name for _ in range(5) for name in _next(database, reviewer)]

    def _next(database: Database, reviewer: str) -> list[str]:
        found = names(database, reviewer, 1)
        for name in found:
            answer(database, said(name, "other", reviewer))
        return found

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken = [name for each in got.values() for name in each]
    assert len(taken) == 30
    assert len(set(taken)) == 30


def test_one_answer_is_enough_for_a_usual_class_and_is_kept_with_what_was_predicted(
    state: tuple[Database, Clock],
) -> None:
    database, _ = state
    offer(database, [candidate("a")], EVERYTHING_SEEN)
    settled = answer(database, said("a", "network.down", "wang", seconds=12.5))
    assert settled.outcome is Outcome.AGREED
    assert queue_counts(database).done == 1
    (kept,) = read_feedback(database)
    assert (kept.predicted, kept.label, kept.reviewer, kept.seconds) == ("billing.fee", "network.down", "wang", 12.5)
    assert (kept.model, kept.customer_id, kept.chance, kept.blind) == ("complaints@1-abc", "h:a", 1.0, False)


def test_a_critical_class_needs_two_people_who_agree(state: tuple[Database, Clock]) -> None:
    database, _ = state
    offer(database, [critical(candidate("a"))], EVERYTHING_SEEN)
    assert names(database, "wang", 1) == ["a"]
    assert answer(database, said("a", "safety", "wang")).outcome is Outcome.OPEN
    assert names(database, "wang", 1) == [], "nobody is asked twice"
    assert answer(database, said("a", "safety", "wang")).outcome is Outcome.OPEN, "nor counts twice"
    assert names(database, "li", 1) == ["a"]
    assert answer(database, said("a", "other", "li")).outcome is Outcome.OPEN
    settled = answer(database, said("a", "safety", "zhao"))
    assert (settled.outcome, settled.label) == (Outcome.AGREED, "safety")


def test_a_person_who_chooses_a_critical_class_makes_a_second_one_needed(state: tuple[Database, Clock]) -> None:
    database, _ = state
    offer(database, [candidate("a")], EVERYTHING_SEEN)
    assert answer(database, said("a", "safety", "wang", is_critical=True)).outcome is Outcome.OPEN
    assert names(database, "li", 1) == ["a"]
    assert answer(database, said("a", "safety", "li", is_critical=True)).outcome is Outcome.AGREED


def test_three_who_do_not_agree_are_a_dispute(state: tuple[Database, Clock]) -> None:
    database, _ = state
    offer(database, [critical(candidate("a"))], EVERYTHING_SEEN)
    outcomes = [answer(database, said("a", label, who)).outcome for label, who in zip("xyz", "abc", strict=True)]
    assert outcomes == [Outcome.OPEN, Outcome.OPEN, Outcome.DISPUTED]
    assert queue_counts(database).disputed == 1


def test_a_blind_item_is_marked_in_the_queue_and_in_the_answer(state: tuple[Database, Clock]) -> None:
    database, _ = state
    options = replace(EVERYTHING_SEEN, blind_share=1.0)
    offer(database, [candidate("a")], options)
    assert take(database, "wang", options)[0].blind
    answer(database, said("a", "other", "wang"))
    assert read_feedback(database)[0].blind


def test_who_saw_and_labelled_which_call_is_in_the_log(state: tuple[Database, Clock]) -> None:
    database, _ = state
    offer(database, [candidate("a")], EVERYTHING_SEEN)
    take(database, "wang", EVERYTHING_SEEN, key_name="centre")
    answer(database, replace(said("a", "other", "wang"), key_name="centre"))
    labelled, saw = read_events(database, subject="a")
    assert (saw.action, saw.actor, saw.key_name) == (Action.SAW, "wang", "centre")
    assert labelled.action is Action.LABELLED
    assert labelled.detail == {"label": "other", "outcome": "agreed", "predicted": "billing.fee"}


def test_an_answer_about_a_call_that_is_not_in_the_queue_is_kept_as_it_was_given(
    state: tuple[Database, Clock],
) -> None:
    database, _ = state
    given = replace(said("x", "other", "wang"), predicted="billing.fee", model="m@1", customer_id="h:x")
    assert answer(database, given).outcome is Outcome.AGREED
    (kept,) = read_feedback(database)
    assert replace(kept, id="", at=None) == given
    assert queue_counts(database).done == 0


def test_the_queue_says_how_full_it_is(state: tuple[Database, Clock]) -> None:
    database, _ = state
    assert queue_counts(database).oldest_at is None
    offer(database, [candidate("a"), candidate("b", predicted="other")], EVERYTHING_SEEN)
    counts = queue_counts(database)
    assert (counts.open, counts.by_class) == (2, {"billing.fee": 1, "other": 1})
    assert counts.oldest_at is not None
    assert counts.oldest_at > BEGIN


@given(st.text(), st.integers(0, 9))
def test_a_lot_is_a_share_and_always_the_same(name: str, seed: int) -> None:
    drawn = lot(name, "check", seed)
    assert 0 <= drawn < 1
    assert drawn == lot(name, "check", seed)
    assert drawn != lot(name, "blind", seed)


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), max_size=6))
def test_a_margin_is_a_share_whatever_the_probabilities(probabilities: dict[str, float]) -> None:
    assert 0 <= replace(candidate("a"), probabilities=probabilities).margin <= 1
