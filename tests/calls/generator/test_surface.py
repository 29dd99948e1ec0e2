"""What is said follows the plan, in the words of the author and of the class, and never in those it must not use."""

from functools import cache

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.generate import Generator
from qwenops.calls.generator.options import Difficulty
from qwenops.calls.generator.plan import plan_call
from qwenops.calls.generator.scenario import Scenario, Telling, draw_scenario
from qwenops.calls.generator.surface import Spoken, word_call
from qwenops.calls.schema import Role
from tests.calls.generator.made import opened, with_knobs

COUNT = 400


@cache
def worded() -> tuple[tuple[Scenario, Spoken], ...]:
    return tuple(word(opened(), index) for index in range(COUNT))


def word(generator: Generator, index: int) -> tuple[Scenario, Spoken]:
    options, world = generator.options, generator.world
    scenario = draw_scenario(index, options, world, generator.priors)
    plan = plan_call(scenario, options.difficulty, Dice(options.seed, index, "plan"))
    return scenario, word_call(scenario, plan, world, options.difficulty, options.seed)


def used(spoken: Spoken, part: str) -> list[str]:
    return [line for line in spoken.used if part in line]


def test_words_are_of_the_one_author_of_the_call() -> None:
    for scenario, spoken in worded():
        authors = {line.split("/")[0] for line in spoken.used} - {"phrases"}
        assert authors == {scenario.author}


def test_the_main_matter_is_told_as_was_drawn() -> None:
    for scenario, spoken in worded():
        (first, *_others) = [each for each in spoken.utterances if each.main]
        assert first.role is Role.CUSTOMER
        match scenario.telling:
            case Telling.SAID | Telling.FELT | Telling.ASKS:
                assert used(spoken, f"leaves.{scenario.about}.{scenario.telling}.")
            case Telling.PLAIN:
                assert used(spoken, f"/{scenario.leaf.partition('.')[0]}.said.")


def test_no_detail_or_remedy_of_a_felt_complaint_names_it() -> None:
    usual = opened().world.lexicon.leaves
    lines = {
        line.source: line for packs in opened().world.packs.values() for pack in packs.values() for line in pack.lines()
    }
    seen = 0
    for scenario, spoken in worded():
        if scenario.telling is not Telling.FELT:
            continue
        for part in ("detail", "agent", "fix"):
            for source in used(spoken, f"leaves.{scenario.leaf}.{part}."):
                seen += 1
                assert not lines[source].has(usual[scenario.leaf].usual)
    assert seen > 30


def test_an_inquiry_is_never_asked_about_a_wrong() -> None:
    for scenario, spoken in worded():
        if scenario.telling is Telling.ASKS:
            assert not used(spoken, f"leaves.{scenario.about}.detail.")
            assert not used(spoken, f"leaves.{scenario.about}.fix.")
            assert not used(spoken, f"leaves.{scenario.about}.said.")


def test_another_matter_is_named_with_what_it_has_to_do_with_the_call() -> None:
    cues = {"settled": "past", "turned": "decoy", "second": "besides"}
    for scenario, spoken in worded():
        found = {kind: used(spoken, f"frame.{part}.") for kind, part in cues.items()}
        for kind, lines in found.items():
            assert len(lines) == (scenario.competing is not None and scenario.competing.kind.value == kind)
        if scenario.competing is not None:
            assert used(spoken, f"leaves.{scenario.competing.leaf}.short.")


def test_lines_come_again_only_when_there_are_no_others() -> None:
    for _scenario, spoken in worded()[:100]:
        openings = used(spoken, "frame.promise.")
        assert len(openings) == len(set(openings))


@pytest.mark.parametrize("lang", ["zh", "en", "mixed"])
def test_calls_are_in_the_languages_that_were_drawn(lang: str) -> None:
    found = {each.lang for scenario, spoken in worded() if scenario.lang == lang for each in spoken.utterances}
    assert found == ({"zh", "en"} if lang == "mixed" else {lang})


def test_a_label_that_is_read_out_is_the_right_one() -> None:
    generator = with_knobs(read_label=1.0)
    for index in range(40):
        scenario, spoken = word(generator, index)
        (read, _answer) = [each for each in spoken.utterances if each.act.startswith("read_label:")]
        names = {generator.world.taxonomy.name_of(scenario.leaf, lang) for lang in ("zh", "en")}
        assert any(name in read.text for name in names)


def test_threats_and_moods_are_heard() -> None:
    generator = with_knobs(threats=1.0, emotion=1.0)
    assert isinstance(generator.options.difficulty, Difficulty)
    for index in range(40):
        _scenario, spoken = word(generator, index)
        assert used(spoken, "frame.threat.")
