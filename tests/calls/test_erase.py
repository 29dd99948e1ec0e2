import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwenops.calls import erase as module
from qwenops.calls.erase import erase
from qwenops.calls.without import Rewritten, rewrite_without
from qwenops.errors import ConfigError
from qwenops.models.checkpoint import file_sha256
from qwenops.state.audit import Action, read_events
from qwenops.state.database import Database
from qwenops.state.review import answer, offer, queue_counts
from tests.state.reviewing import EVERYTHING_SEEN, Clock, candidate, opened, said


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Database, Clock]]:
    with opened(tmp_path / "state" / "calls.sqlite") as both:
        yield both


def quiet(_fraction: float, _doing: str) -> None:
    """Nobody listens."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "runs").mkdir(parents=True)
    calls = [("a", "h:a"), ("a2", "h:a"), ("b", "h:b")]
    write(folder / "calls.jsonl", [{"conversation_id": call, "customer_id": who} for call, who in calls])
    write(folder / "runs" / "predictions.jsonl", [{"conversation_id": call, "primary": "x"} for call, _ in calls])
    (folder / "splits.json").write_text(json.dumps({"train": ["a", "b"], "test": ["a2"]}), "utf-8")
    return folder


def write(path: Path, objects: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), "utf-8")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["conversation_id"] for line in path.read_text("utf-8").splitlines()]


def test_a_customers_calls_are_nowhere_any_more_also_where_only_their_ids_were(
    state: tuple[Database, Clock], data: Path
) -> None:
    database, _ = state
    offer(database, [candidate("a"), candidate("b")], EVERYTHING_SEEN)
    answer(database, said("a2", "x", "wang"))
    done = erase(database, "h:a", [data], models={}, actor="ops", report=quiet)
    assert done.num_conversations == 2
    assert {each.path.name: each.num_entries for each in done.files} == {
        "calls.jsonl": 2,
        "predictions.jsonl": 2,
        "splits.json": 2,
    }
    assert ids(data / "calls.jsonl") == ids(data / "runs" / "predictions.jsonl") == ["b"]
    assert json.loads((data / "splits.json").read_text("utf-8")) == {"train": ["b"], "test": []}
    assert (done.rows.review, done.rows.feedback, done.is_scrubbed) == (1, 1, True)
    assert queue_counts(database).open == 1
    again = erase(database, "h:a", [data], models={}, actor="ops", report=quiet)
    assert (again.num_conversations, again.files, again.unreadable) == (0, (), ())


def test_models_that_were_trained_on_the_data_are_named_also_after_earlier_erasures(
    state: tuple[Database, Clock], data: Path
) -> None:
    database, _ = state
    models = {
        "complaints@1": [file_sha256(data / "calls.jsonl")],
        "complaints@2": ["0" * 64],
    }
    first = erase(database, "h:a", [data], models=models, actor="ops", report=quiet)
    assert first.models == ("complaints@1",)
    second = erase(database, "h:b", [data], models=models, actor="ops", report=quiet)
    assert second.models == ("complaints@1",), "the file has another hash by now, and the log knows the first"
    events = read_events(database, action=Action.ERASED)
    assert [event.detail["models"] for event in events] == [["complaints@1"], ["complaints@1"]]
    assert "h:a" not in json.dumps([dict(event.detail) for event in events])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_erasure_that_is_broken_off_anywhere_is_completed_by_the_next(
    state: tuple[Database, Clock], data: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    database, _ = state
    rewrite = rewrite_without
    monkeypatch.setattr(module, "rewrite_without", dying(rewrite, after))
    with pytest.raises(KeyboardInterrupt):
        erase(database, "h:a", [data], models={}, actor="ops", report=quiet)
    monkeypatch.setattr(module, "rewrite_without", rewrite)
    done = erase(database, "h:a", [data], models={}, actor="ops", report=quiet)
    assert done.num_conversations == 2, "also those whose file of calls was rewritten before"
    assert ids(data / "calls.jsonl") == ids(data / "runs" / "predictions.jsonl") == ["b"]
    assert json.loads((data / "splits.json").read_text("utf-8")) == {"train": ["b"], "test": []}


def dying(act: Callable[..., Rewritten | None], after: int) -> Callable[..., Rewritten | None]:
    count = 0

    def work(*arguments: object) -> Rewritten | None:
        nonlocal count
        if count == after:
            raise KeyboardInterrupt
        count += 1
        return act(*arguments)

    return work


def test_files_that_a_person_has_to_look_at_are_named(state: tuple[Database, Clock], data: Path) -> None:
    database, _ = state
    (data / "report.html").write_text("<p>a2</p>", "utf-8")
    done = erase(database, "h:a", [data], models={}, actor="ops", report=quiet)
    assert done.unreadable == (data / "report.html",)


@pytest.mark.parametrize("customer", ["", "  "])
def test_nobody_is_erased_without_an_id(state: tuple[Database, Clock], data: Path, customer: str) -> None:
    with pytest.raises(ConfigError, match="without an id"):
        erase(state[0], customer, [data], models={}, actor="ops", report=quiet)


def test_a_folder_that_is_not_there_is_said_before_anything_is_touched(
    state: tuple[Database, Clock], data: Path
) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        erase(state[0], "h:a", [data, data / "nowhere"], models={}, actor="ops", report=quiet)
    assert ids(data / "calls.jsonl") == ["a", "a2", "b"]
