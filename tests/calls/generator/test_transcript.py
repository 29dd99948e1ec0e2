"""Turns say what was heard, in order, and spans point at exactly what they name."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from qwenops.calls.generator.channel import Atom, Heard
from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.transcript import Transcript, write_down
from qwenops.calls.generator.words import Mark, Surface
from qwenops.calls.schema import Role
from tests.calls.generator.test_channel import CLEAN

MARK = Mark(kind="PHONE", value="15412345678", surface=Surface.SPOKEN)
SAID = {MARK: "幺五四，一二三四"}


def heard(
    role: Role, *atoms: Atom, lang: str = "zh", main: bool = False, wait_s: float = 0.0, errors: int = 0
) -> Heard:
    return Heard(
        role=role, atoms=atoms, lang=lang, act="state", main=main, wait_s=wait_s, errors=errors, units=len(atoms)
    )


def written(text: str, mark: Mark | None = None) -> list[Atom]:
    return [Atom(char, mark, pause=char == "，") for char in text]


def put_together(several: Sequence[Heard], *, merged: float = 0.0, chopped: float = 0.0) -> Transcript:
    return write_down(several, SAID, replace(CLEAN, merged=merged, chopped=chopped), Dice(1))


def test_spans_point_at_what_they_name_after_merging() -> None:
    several = [
        heard(Role.CUSTOMER, *written("号码是")),
        heard(Role.CUSTOMER, *written("幺五四，一二三四", MARK), *written("对吧"), main=True),
    ]
    made = put_together(several, merged=1.0)
    assert [turn.text for turn in made.turns] == ["号码是幺五四，一二三四对吧"]
    (span,) = made.spans
    assert made.turns[span.turn].text[span.start : span.end] == "幺五四，一二三四"
    assert (span.kind, span.value, span.surface, span.intact) == ("PHONE", "15412345678", Surface.SPOKEN, True)
    assert made.evidence == (0,)


def test_spans_count_from_the_text_without_the_spaces_around_it() -> None:
    atoms = [Atom(" "), Atom("", None, pause=True), *written("幺五四一二三四", MARK), Atom(" ")]
    made = put_together([heard(Role.CUSTOMER, *atoms)])
    assert made.turns[0].text == "幺五四一二三四"
    assert (made.spans[0].start, made.spans[0].end, made.spans[0].intact) == (0, 7, True)


def test_what_recognition_damaged_is_told() -> None:
    made = put_together([heard(Role.CUSTOMER, *written("幺五是，一二三四", MARK))])
    assert not made.spans[0].intact


def test_nothing_is_cut_within_personal_data() -> None:
    atoms = [
        *written("我的那个号码呢，是这个，"),
        *written("幺五四，一二三四", MARK),
        *written("，麻烦你帮我看一下吧，谢谢了啊"),
    ]
    made = put_together([heard(Role.CUSTOMER, *atoms)], chopped=1.0)
    assert len(made.turns) > 1
    assert "".join(turn.text for turn in made.turns) == "".join(atom.text for atom in atoms)
    (span,) = made.spans
    assert made.turns[span.turn].text[span.start : span.end] == "幺五四，一二三四"


def test_turns_follow_one_another_and_waiting_takes_time() -> None:
    roles = (Role.AGENT, Role.CUSTOMER) * 4
    several = [heard(role, *written("好的"), wait_s=20.0 if place == 3 else 0.0) for place, role in enumerate(roles)]
    made = put_together(several, merged=1.0)
    times = [time for turn in made.turns for time in (turn.t0 or 0.0, turn.t1 or 0.0)]
    assert len(made.turns) == 8
    assert times == sorted(times)
    assert [turn.i for turn in made.turns] == list(range(8))
    assert times[8] - times[7] > 20
    assert made.duration_s > times[-1]


def test_utterances_of_two_speakers_or_languages_are_never_one_turn() -> None:
    several = [
        heard(Role.CUSTOMER, *written("好的")),
        heard(Role.AGENT, *written("嗯")),
        heard(Role.CUSTOMER, *written("那行")),
        heard(Role.CUSTOMER, Atom("fine"), lang="en"),
        heard(Role.CUSTOMER, Atom("bye"), lang="en"),
    ]
    assert [turn.text for turn in put_together(several, merged=1.0).turns] == ["好的", "嗯", "那行", "fine bye"]


def test_confidence_falls_with_errors() -> None:
    good = put_together([heard(Role.CUSTOMER, *written("好的好的好的"))] * 40)
    bad = put_together([heard(Role.CUSTOMER, *written("好的好的好的"), errors=2)] * 40)
    assert bad.confidence < good.confidence - 0.1
    assert good.word_error_rate == 0.0
    assert bad.word_error_rate == pytest.approx(1 / 3, abs=1e-3)


def test_utterances_of_which_nothing_is_left_make_no_turn() -> None:
    several = [heard(Role.CUSTOMER, Atom("", None, pause=True)), heard(Role.AGENT, *written("喂"))]
    assert [turn.text for turn in put_together(several).turns] == ["喂"]
