import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qwenops.calls.classes import Migration, Taxonomy
from qwenops.calls.label_review import label_from_review, reviewed
from qwenops.calls.schema import LabelSource, parse_label
from qwenops.calls.taxonomy import load
from qwenops.errors import InvalidDataError
from qwenops.state.audit import Action, read_events
from qwenops.state.database import Database
from qwenops.state.feedback import Feedback
from qwenops.state.review import answer, offer
from tests.state.reviewing import BEGIN, EVERYTHING_SEEN, Clock, candidate, opened, said

MADE = Path(__file__).parents[1] / "classify" / "made.yaml"


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load(MADE)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Database, Clock]]:
    with opened(tmp_path / "calls.sqlite") as both:
        yield both


def timed(*answers: Feedback) -> list[Feedback]:
    return [replace(each, at=BEGIN, id=f"{number:04d}") for number, each in enumerate(answers)]


def test_agreed_answers_become_labels_with_their_people_and_weight(taxonomy: Taxonomy) -> None:
    found = reviewed(
        timed(
            replace(said("a", "billing.fee", "wang"), predicted="network.down", secondary=("service.rude",)),
            said("b", "billing.fee", "wang"),
            said("b", "network.down", "li"),
            said("b", "network.down", "zhao"),
        ),
        taxonomy,
    )
    first, second = found.labels
    assert (first.primary, first.secondary, first.annotator, first.weight) == (
        "billing.fee",
        ("service.rude",),
        "wang",
        1.0,
    )
    assert (first.source, first.taxonomy, first.predicted) == (LabelSource.HUMAN, "made@1", "network.down")
    assert (second.primary, second.annotator) == ("network.down", "li+zhao")
    assert second.weight == pytest.approx(2 / 3, abs=1e-4)


def test_what_a_blind_person_did_not_see_is_not_in_the_label(taxonomy: Taxonomy) -> None:
    (label,) = reviewed(
        timed(replace(said("a", "billing.fee", "wang"), predicted="network.down", blind=True)), taxonomy
    ).labels
    assert label.predicted == ""


def test_open_and_disputed_calls_have_no_label_and_are_named(taxonomy: Taxonomy) -> None:
    found = reviewed(
        timed(
            said("half", "billing.fee", "a", is_critical=True),
            said("torn", "billing.fee", "a"),
            said("torn", "network.down", "b"),
            said("torn", "service.rude", "c"),
        ),
        taxonomy,
    )
    assert (found.labels, found.open, found.disputed) == ((), ("half",), ("torn",))


def test_agreement_is_between_people_and_following_between_people_and_the_model(taxonomy: Taxonomy) -> None:
    answers = []
    for number in range(10):
        truth = taxonomy.leaves[number % 3]
        other = taxonomy.leaves[(number + 1) % 3] if number < 2 else truth
        answers += [said(f"c{number}", truth, "wang", seconds=3.0), said(f"c{number}", other, "li", seconds=2.0)]
    shown = [replace(said(f"s{n}", "billing.fee", "wang"), predicted="billing.fee") for n in range(4)]
    blind = [
        replace(said(f"b{n}", taxonomy.leaves[n % 2], "wang"), predicted="billing.fee", blind=True) for n in range(4)
    ]
    found = reviewed(timed(*answers, *shown, *blind), taxonomy)
    assert found.agreement is not None
    assert (found.agreement.num, found.agreement.observed) == (10, 0.8)
    assert list(found.by_people) == [("li", "wang")]
    assert (found.shown.share, found.blind.share) == (1.0, 0.5)
    assert found.seconds == pytest.approx(50.0)


def test_answers_in_the_words_of_an_older_version_follow_and_those_that_cannot_are_named(taxonomy: Taxonomy) -> None:
    newer = replace(
        taxonomy,
        version=2,
        migrations={
            1: Migration(
                since=1,
                until=2,
                renamed={"old.fee": "billing.fee"},
                split={"old.split": ("network.down", "service.rude")},
            )
        },
    )
    found = reviewed(
        timed(
            replace(said("a", "old.fee", "wang"), predicted="old.fee"),
            said("b", "old.split", "wang"),
            said("c", "gone", "wang"),
        ),
        newer,
    )
    (label,) = found.labels
    assert (label.conversation_id, label.primary, label.taxonomy, label.predicted) == (
        "a",
        "billing.fee",
        "made@2",
        "billing.fee",
    )
    assert [problem.conversation_id for problem in found.problems] == ["b", "c"]


def test_each_version_is_a_file_of_its_own_and_nothing_new_is_no_version(
    state: tuple[Database, Clock], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    database, _ = state
    folder = tmp_path / "labels"
    answer(database, said("a", "billing.fee", "wang"))
    first, _ = label_from_review(database, folder, taxonomy, actor="ops")
    again, _ = label_from_review(database, folder, taxonomy, actor="ops")
    assert (first.version, first.is_new) == (1, True)
    assert (again.version, again.is_new, again.path) == (1, False, first.path)
    before = first.path.read_bytes()
    answer(database, said("b", "network.down", "wang"))
    second, _ = label_from_review(database, folder, taxonomy, actor="ops")
    assert (second.version, second.is_new) == (2, True)
    assert first.path.read_bytes() == before
    labels = [parse_label(line) for line in second.path.read_text("utf-8").splitlines()]
    assert [label.conversation_id for label in labels] == ["a", "b"]
    manifest = json.loads(second.path.with_suffix(".json").read_text("utf-8"))
    assert (manifest["version"], manifest["labels"], manifest["made_by"]) == (2, 2, "ops")
    assert manifest["sha256"] == second.sha256
    assert manifest["previous"] == {"version": 1, "sha256": first.sha256}
    assert manifest["taxonomy"] == {"ref": "made@1", "sha256": taxonomy.sha256}
    exported = read_events(database, action=Action.EXPORTED)
    assert [event.subject for event in exported] == ["labels-0002.jsonl", "labels-0001.jsonl"]


def test_without_an_agreed_answer_there_is_no_file_and_a_reason(
    state: tuple[Database, Clock], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    database, _ = state
    answer(database, said("a", "billing.fee", "wang", is_critical=True))
    with pytest.raises(InvalidDataError, match="1 calls wait for another person"):
        label_from_review(database, tmp_path / "labels", taxonomy, actor="ops")
    assert not (tmp_path / "labels").exists()


def test_what_is_in_the_queue_reaches_the_label_with_what_was_predicted(
    state: tuple[Database, Clock], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    database, _ = state
    offer(database, [candidate("a")], EVERYTHING_SEEN)
    answer(database, said("a", "network.down", "wang"))
    written, _ = label_from_review(database, tmp_path, taxonomy, actor="ops")
    label = parse_label(written.path.read_text("utf-8"))
    assert (label.primary, label.predicted) == ("network.down", "billing.fee")
