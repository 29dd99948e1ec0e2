"""Scenarios come as often as their shares say, and nothing in them but the matter tells the class."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from statistics import fmean

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.generate import Generator
from qwenops.calls.generator.options import Difficulty, GeneratorOptions
from qwenops.calls.generator.plan import Move, plan_call
from qwenops.calls.generator.scenario import (
    Beside,
    Copy,
    Mood,
    Scenario,
    Telling,
    customer_of,
    draw_scenario,
    original_of,
)
from qwenops.calls.generator.world import NONE, OTHER
from qwenops.errors import ConfigError
from tests.calls.generator.made import opened, with_knobs

COUNT = 6000


@cache
def drawn() -> tuple[Scenario, ...]:
    return several(opened(), COUNT)


def several(generator: Generator, count: int) -> tuple[Scenario, ...]:
    return tuple(draw_scenario(index, generator.options, generator.world, generator.priors) for index in range(count))


def share(found: Sequence[bool]) -> float:
    return fmean(found)


def test_priors_add_up_and_drift() -> None:
    priors = opened().priors
    assert len(priors) == 12
    for month in priors:
        assert sum(month.values()) == pytest.approx(1)
        assert month[NONE] == pytest.approx(0.15)
    first, sixth = priors[0], priors[6]
    assert max(abs(math.log(first[code] / sixth[code])) for code in first) > 0.5


def test_without_drift_every_month_is_like_the_first() -> None:
    priors = with_knobs(drift=0.0).priors
    assert all(month == priors[0] for month in priors)


def test_a_late_leaf_comes_late() -> None:
    found = several(with_knobs(late_leaf="network.speed"), 2000)
    months = {each.month for each in found if each.leaf == "network.speed"}
    assert months
    assert min(months) >= 6


def test_frequencies_follow_the_priors() -> None:
    counted = Counter(each.leaf for each in drawn())
    expected: dict[str, float] = defaultdict(float)
    for each in drawn():
        for code, weight in opened().priors[each.month].items():
            expected[code] += weight
    for code, count in expected.items():
        assert counted[code] == pytest.approx(count, abs=4.5 * math.sqrt(count)), code
    assert counted[NONE] / COUNT == pytest.approx(0.15, abs=0.02)
    assert counted[OTHER] / COUNT == pytest.approx(0.03, abs=0.01)


def test_languages_months_and_authors_come_as_asked() -> None:
    languages = Counter(each.lang for each in drawn())
    assert languages["zh"] / COUNT == pytest.approx(0.8, abs=0.03)
    assert languages["en"] / COUNT == pytest.approx(0.15, abs=0.03)
    assert languages["mixed"] / COUNT == pytest.approx(0.05, abs=0.02)
    assert {each.month for each in drawn()} == set(range(12))
    authors = Counter(each.author for each in drawn())
    assert min(authors.values()) > 0.25 * COUNT


def test_times_lie_within_the_months() -> None:
    options = opened().options
    for each in drawn():
        assert options.first_moment() <= each.started_at < options.last_moment()
        assert 8 <= each.started_at.hour <= 21
        assert each.month == each.started_at.month - 1


def test_later_calls_of_a_customer_do_not_come_earlier() -> None:
    begun = {each.index: each.started_at for each in drawn()}
    repeated = [each for each in drawn() if each.customer != each.index]
    assert len(repeated) / COUNT == pytest.approx(0.15, abs=0.02)
    assert all(each.started_at.date() >= begun[each.customer].date() for each in repeated)
    by_customer = {each.index: (each.lang, each.author) for each in drawn()}
    assert all((each.lang, each.author) == by_customer[each.customer] for each in repeated)


@pytest.mark.parametrize("name", ["mood", "threat", "urgent", "third_party", "late", "accepted", "read_label", "offer"])
def test_manners_do_not_depend_on_the_class(name: str) -> None:
    complaints = Counter(getattr(each, name) for each in drawn() if each.complaint)
    others = Counter(getattr(each, name) for each in drawn() if not each.complaint)
    for value, count in complaints.items():
        here, there = count / complaints.total(), others[value] / others.total()
        error = math.sqrt(max(here * (1 - here), 0.01) * (1 / others.total() + 1 / complaints.total()))
        assert abs(here - there) < 4 * error, value


def test_angry_inquiries_and_polite_complaints_exist() -> None:
    assert any(each.mood is Mood.ANGRY and each.leaf == NONE for each in drawn())
    assert any(each.mood is Mood.CALM and each.complaint for each in drawn())
    assert any(each.mood is Mood.SARCASTIC for each in drawn())


def test_a_quarter_of_the_complaints_are_only_felt() -> None:
    felt = [each.telling is Telling.FELT for each in drawn() if each.complaint]
    assert share(felt) == pytest.approx(0.25, abs=0.03)
    kinds = Counter(each.hard_negative for each in drawn() if each.leaf == NONE)
    assert kinds["asks"] / kinds.total() == pytest.approx(0.5, abs=0.06)
    assert kinds["settled"]
    assert kinds["turned"]


def test_another_matter_never_changes_the_class() -> None:
    for each in drawn():
        if each.competing is None:
            continue
        assert each.competing.leaf != each.about
        if not each.complaint:
            assert each.competing.kind is not Beside.SECOND
        if each.leaf == NONE and each.competing.kind is Beside.TURNED:
            assert not each.competing.full


def test_copies_are_of_calls_that_are_none_themselves() -> None:
    knobs = Difficulty(near_duplicates=0.3, exact_duplicates=0.1)
    found = {index: original_of(index, 1, knobs) for index in range(4000)}
    copies = {index: original for index, original in found.items() if original is not None}
    assert len(copies) / 4000 == pytest.approx(0.4, abs=0.04)
    exact = share([original.copy is Copy.EXACT for original in copies.values()])
    assert exact == pytest.approx(0.25, abs=0.05)
    for index, original in copies.items():
        assert original.index < index
        assert found[original.index] is None


def test_customers_begin_with_a_call_of_their_own() -> None:
    knobs = Difficulty(repeat_callers=0.5)
    first = [customer_of(index, 1, knobs) for index in range(2000)]
    assert all(customer_of(each, 1, knobs) == each for each in set(first))
    assert len(set(first)) / 2000 == pytest.approx(0.5, abs=0.05)


def test_plans_are_as_long_as_was_drawn_whatever_the_class() -> None:
    knobs = opened().options.difficulty
    plans = [(each, plan_call(each, knobs, Dice(3, each.index, "plan"))) for each in drawn()[:3000]]
    complaints = fmean(len(plan) for each, plan in plans if each.complaint)
    others = fmean(len(plan) for each, plan in plans if not each.complaint)
    assert complaints == pytest.approx(others, rel=0.08)
    by_length = sorted((each.tokens, len(plan)) for each, plan in plans)
    assert fmean(length for _tokens, length in by_length[-300:]) > 2 * fmean(
        length for _tokens, length in by_length[:300]
    )
    for each, plan in plans:
        moves = [act.move for act in plan]
        assert moves.count(Move.STATE) == 1
        assert Move.GREETING in moves
        assert Move.READ_LABEL in moves or not each.read_label


def test_what_was_turned_away_from_comes_before_the_main_matter() -> None:
    knobs = opened().options.difficulty
    for each in drawn()[:2000]:
        if each.competing is None or each.competing.kind is Beside.SETTLED:
            continue
        moves = [act.move for act in plan_call(each, knobs, Dice(3, each.index, "plan"))]
        turned = each.competing.kind is Beside.TURNED
        assert (moves.index(Move.TURNED if turned else Move.SECOND) < moves.index(Move.STATE)) is turned


@pytest.mark.parametrize(
    ("start", "months", "last"),
    [("2025-01-01", 12, "2026-01-01"), ("2025-11-15", 3, "2026-02-01"), ("2024-12-31", 1, "2025-01-01")],
)
def test_months_end_where_the_calendar_says(start: str, months: int, last: str) -> None:
    assert GeneratorOptions(start=start, months=months).last_moment().date().isoformat() == last


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="'tomorrow' is no day"):
        GeneratorOptions(start="tomorrow").first_moment()
    with pytest.raises(ConfigError, match=r"add up to 1\.2"):
        GeneratorOptions(en_share=0.35).languages()
    with pytest.raises(ConfigError, match=r"no complaint 'network\.sped'"):
        with_knobs(specialist="network.sped")
