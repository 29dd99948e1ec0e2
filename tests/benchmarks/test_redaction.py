"""What counts as found and as found for nothing, and all of it on calls of the generator."""

import json
from pathlib import Path

import pytest

from benchmarks import recording, redaction
from benchmarks.redaction import Tally, compare, figures, judged, share, table
from qwenops.calls.generator.transcript import PersonalSpan
from qwenops.calls.generator.words import Surface
from qwenops.calls.redact import Kind, Span
from qwenops.calls.schema import Role, Turn

NUMBER = "12800138000"
TURNS = (
    Turn(role=Role.CUSTOMER, text="我的号码是128 0013，8000对吧"),
    Turn(role=Role.AGENT, text=f"{NUMBER}，王先生"),
)


def piece(turn: int, start: int, end: int, *, kind: str = "PHONE", surface: Surface = Surface.DIGITS) -> PersonalSpan:
    return PersonalSpan(
        turn=turn, start=start, end=end, kind=kind, surface=surface, value=NUMBER, corrected=False, intact=True
    )


def found(turn: int, start: int, end: int, kind: Kind = Kind.PHONE) -> Span:
    return Span(kind=kind, turn=turn, start=start, end=end, value=NUMBER, confidence=1.0)


def test_a_number_is_found_when_all_its_digits_are_taken_out_whatever_stands_between_them() -> None:
    truth = [piece(0, 5, 18)]
    assert TURNS[0].text[5:18] == "128 0013，8000"
    assert compare(TURNS, truth, [found(0, 5, 8), found(0, 9, 18)]).found.total() == 1
    half = compare(TURNS, truth, [found(0, 5, 13)])
    assert (half.found.total(), half.clean) == (0, False)
    assert half.misses == ["missed PHONE, digits: 我的号码是[128 0013，8000]对吧"]


def test_what_it_was_called_is_counted_apart() -> None:
    tally = compare(TURNS, [piece(1, 0, 11)], [found(1, 0, 11, Kind.ACCOUNT)])
    assert (tally.found.total(), tally.as_its_kind.total(), tally.right.total()) == (1, 0, 1)
    surname = compare(TURNS, [piece(1, 12, 13, kind="SURNAME", surface=Surface.WORDS)], [found(1, 12, 13, Kind.NAME)])
    assert surname.as_its_kind.total() == 1


def test_a_find_is_right_when_half_of_it_is_personal_data() -> None:
    assert compare(TURNS, [piece(1, 0, 11)], [found(1, 0, 15)]).right.total() == 1
    assert compare(TURNS, [piece(1, 12, 13)], [found(1, 12, 15)]).right.total() == 0
    nothing = compare(TURNS, [], [found(0, 0, 2)])
    assert nothing.misses == ["for nothing, PHONE: [我的]号码是128 0013，"]


def test_a_call_is_clean_when_nothing_was_missed() -> None:
    assert compare(TURNS, [], []).clean
    assert compare(TURNS, [piece(1, 0, 11)], [found(1, 0, 11), found(0, 0, 2)]).clean


def test_shares_have_exact_intervals() -> None:
    assert share(0, 0) is None
    all_of_them = share(100, 100)
    assert all_of_them is not None
    assert (all_of_them["value"], all_of_them["high"]) == (1.0, 1.0)
    assert all_of_them["low"] == pytest.approx(0.025 ** (1 / 100), abs=1e-4)
    half = share(5, 10)
    assert half is not None
    assert [half["low"], half["high"]] == pytest.approx([0.18709, 0.81291], abs=1e-4)


def made(*, digits: int = 100, spoken: int = 100, split: int = 100, right: int = 100) -> Tally:
    """Return counts in which so many of a hundred are found."""
    tally = Tally(calls=10, clean=9)
    for surface, hits in (("digits", digits), ("spoken", spoken), ("split", split)):
        tally.there["PHONE", surface] = 100
        tally.found["PHONE", surface] = hits
    tally.taken["PHONE"], tally.right["PHONE"] = 100, right
    return tally


@pytest.mark.parametrize(
    ("tally", "missed"),
    [
        (made(digits=99, spoken=95, split=95, right=98), set()),
        (made(digits=98), {"recall_digits"}),
        (made(spoken=94), {"recall_spoken"}),
        (made(split=94), {"recall_split"}),
        (made(right=97), {"precision"}),
    ],
)
def test_goals_are_those_of_each_surface(tally: Tally, missed: set[str]) -> None:
    goals = judged(figures(tally), 1_000_000.0)
    assert {name for name, goal in goals.items() if not goal["met"]} == missed
    assert not judged(figures(tally), 999_999.0)["bytes_per_s"]["met"]


def test_nothing_to_find_is_no_success() -> None:
    goals = judged(figures(Tally(calls=1, clean=1)), 2e6)
    assert not goals["recall_split"]["met"]
    assert not goals["precision"]["met"]


def test_counts_add_up_over_calls() -> None:
    whole = made()
    whole.add(made(digits=50))
    assert figures(whole)["recall"]["digits"]["value"] == 0.75
    assert figures(whole)["recall_by_kind"]["PHONE"]["digits"]["n"] == 200
    assert figures(whole)["calls_without_a_miss"]["value"] == 0.9


def test_the_table_has_a_row_for_each_author() -> None:
    rows = table({"pine": figures(made()), "stone": figures(made(digits=98))}).splitlines()
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1
    assert "98.00% (92.96% to 99.76%) of 100" in rows[3]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_of_the_generator_are_redacted_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    arguments = ["--calls", "60", "--timed-calls", "20", "--repetitions", "1", "--show", "3"]
    assert redaction.main(arguments) in {0, 3}
    results = json.loads((tmp_path / "redaction.json").read_text())["results"]
    assert set(results["by_author"]) == {"pine", "river", "stone"}
    for row in results["by_author"].values():
        assert set(redaction.GOALS) <= set(row["recall"])
        assert row["recall"]["digits"]["value"] > 0.8
        assert row["precision"]["value"] > 0.8
    assert results["bytes_per_s"]["all"]["median"] > 0
