from pathlib import Path

from qwenops.state.audit import Action, read_events
from qwenops.state.feedback import read_feedback
from qwenops.state.options import RetentionOptions
from qwenops.state.retention import expire
from qwenops.state.review import answer, offer, queue_counts
from tests.state.reviewing import EVERYTHING_SEEN, candidate, opened, said

DAY_S = 86_400.0


def test_each_kind_of_data_goes_when_its_own_time_is_over(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, clock):
        offer(database, [candidate("old")], EVERYTHING_SEEN)
        answer(database, said("old", "x", "wang"))
        clock.wait(10 * DAY_S)
        offer(database, [candidate("new")], EVERYTHING_SEEN)
        kept = RetentionOptions(review_s=5 * DAY_S, feedback_s=0.0, audit_s=20 * DAY_S)
        gone = expire(database, kept)
        assert (gone.review, gone.feedback, gone.audit) == (1, 0, 0)
        counts = queue_counts(database)
        assert (counts.open, counts.done) == (1, 0)
        assert len(read_feedback(database)) == 1
        assert [each.subject for each in read_events(database, action=Action.EXPIRED)] == ["review"]
        clock.wait(30 * DAY_S)
        gone = expire(database, RetentionOptions(review_s=0.0, feedback_s=DAY_S, audit_s=DAY_S))
        assert (gone.review, gone.feedback) == (0, 1)
        assert gone.audit == 2
        assert queue_counts(database).open == 1


def test_nothing_is_removed_and_nothing_is_logged_where_everything_is_young(tmp_path: Path) -> None:
    with opened(tmp_path / "calls.sqlite") as (database, _):
        offer(database, [candidate("a")], EVERYTHING_SEEN)
        assert expire(database, RetentionOptions()).total == 0
        assert read_events(database) == []


def test_what_has_expired_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with opened(path) as (database, clock):
        offer(database, [candidate("old")], EVERYTHING_SEEN)
        clock.wait(10 * DAY_S)
        expire(database, RetentionOptions(review_s=DAY_S))
        stored = b"".join(each.read_bytes() for each in tmp_path.iterdir())
        assert b"said in old" not in stored
