"""Slots are filled as the call writes numbers, and mostly with the same all through it."""

import re
from statistics import fmean

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.facts import SLOTS, Facts
from tests.calls.generator.tongues import world


def facts(lang: str, seed: int, *, written: bool) -> Facts:
    return Facts(lang=lang, names=world().lexicon.names[lang], written=written, dice=Dice(seed, "facts"))


@pytest.mark.parametrize("slot", sorted(SLOTS))
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_slot_is_filled_in_both_languages(slot: str, lang: str) -> None:
    for seed in range(30):
        filled = facts(lang, seed, written=bool(seed % 2)).fill(slot)
        assert filled == filled.strip() != ""
        assert lang == "zh" or not re.search(r"[\u4e00-\u9fff]", filled)


@pytest.mark.parametrize("slot", ["amount", "months", "days", "times", "data", "speed", "hours"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_numbers_are_digits_or_words(slot: str, lang: str) -> None:
    for seed in range(30):
        assert re.match(r"\d+", facts(lang, seed, written=True).fill(slot))
        assert not re.search(r"\d", facts(lang, seed, written=False).fill(slot))


def test_a_pair_is_said_as_one_says_it() -> None:
    said = {facts("zh", seed, written=False).fill("months") for seed in range(80)}
    assert "两个月" in said
    assert not any(each.startswith("二") for each in said)


def test_what_was_said_once_mostly_stays() -> None:
    same = []
    for seed in range(300):
        call = facts("zh", seed, written=True)
        same.append(call.fill("plan") == call.fill("plan"))
    assert 0.6 < fmean(same) < 0.85
