from datetime import timedelta
from pathlib import Path

from qwenops.state.audit import Action, Event, Kind, read_events, record
from tests.state.reviewing import BEGIN, opened


def event(actor: str, subject: str, action: Action = Action.SAW) -> Event:
    return Event(action=action, kind=Kind.CALL, subject=subject, actor=actor, detail={"号": 1})


def test_events_come_back_as_they_were_recorded_the_latest_first(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        record(database, event("wang", "a"), event("wang", "b"))
        record(database, event("li", "a", Action.LABELLED))
        found = read_events(database)
        assert [(each.actor, each.subject) for each in found] == [("li", "a"), ("wang", "b"), ("wang", "a")]
        assert found[0].detail == {"号": 1}
        assert found[0].at is not None
        assert found[0].at.tzinfo is not None


def test_events_are_found_by_subject_actor_action_and_time(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, clock):
        record(database, event("wang", "a"))
        clock.wait(3600)
        record(database, event("li", "a", Action.LABELLED), event("li", "b"))
        assert len(read_events(database, subject="a")) == 2
        assert len(read_events(database, actor="li")) == 2
        assert [each.actor for each in read_events(database, action=Action.LABELLED)] == ["li"]
        assert len(read_events(database, since=BEGIN + timedelta(minutes=30))) == 2
        assert len(read_events(database, most=1)) == 1


def test_an_event_without_events_is_no_row(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        record(database)
        assert read_events(database) == []
