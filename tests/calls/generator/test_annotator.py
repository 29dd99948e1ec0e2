"""Annotators err where people err, each in his own way."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from qwenops.calls.generator.annotator import ANNOTATORS, Annotation, annotate
from qwenops.calls.generator.scenario import Beside, Competing, Scenario, Telling, draw_scenario
from qwenops.calls.generator.world import NONE, OTHER
from tests.calls.generator.made import opened

COUNT = 4000


@cache
def scenario() -> Scenario:
    generator = opened()
    drawn = draw_scenario(0, generator.options, generator.world, generator.priors)
    return replace(drawn, leaf="billing.roaming", about="billing.roaming", telling=Telling.SAID, competing=None)


def annotations(drawn: Scenario, noise: float) -> list[Annotation]:
    return [annotate(index, drawn, opened().world, noise, 1) for index in range(COUNT)]


def wrong(found: list[Annotation], leaf: str) -> Counter[str]:
    return Counter(each.leaf for each in found if each.leaf != leaf)


def test_without_noise_nobody_errs() -> None:
    assert {each.leaf for each in annotations(scenario(), 0.0)} == {"billing.roaming"}


def test_mistakes_go_to_what_is_like_it() -> None:
    found = wrong(annotations(scenario(), 0.3), "billing.roaming")
    assert found.most_common(1)[0][0] == "billing.data_overage"
    assert found[OTHER] > 0
    assert found[NONE] > 0


def test_another_matter_is_taken_for_the_main_one() -> None:
    other = Competing(kind=Beside.SECOND, leaf="network.messages", full=True, asked=False)
    with_other = wrong(annotations(replace(scenario(), competing=other), 0.3), "billing.roaming")
    without = wrong(annotations(scenario(), 0.3), "billing.roaming")
    assert with_other["network.messages"] > 5 * max(1, without["network.messages"])


def test_an_inquiry_is_taken_for_the_complaint_that_it_sounds_like() -> None:
    asks = replace(scenario(), leaf=NONE, telling=Telling.ASKS)
    found = wrong(annotations(asks, 0.3), NONE)
    assert found.most_common(1)[0][0] == "billing.roaming"


@pytest.mark.parametrize("leaf", [NONE, OTHER, "billing.roaming"])
def test_a_mistake_is_never_the_right_class(leaf: str) -> None:
    drawn = replace(scenario(), leaf=leaf, about="" if leaf == OTHER else "billing.roaming")
    share = sum(wrong(annotations(drawn, 0.4), leaf).values()) / COUNT
    assert share > 0.15


def test_annotators_differ_in_care() -> None:
    by_annotator: dict[str, list[bool]] = {}
    for each in annotations(scenario(), 0.3):
        by_annotator.setdefault(each.annotator, []).append(each.leaf != "billing.roaming")
    shares = [sum(several) / len(several) for several in by_annotator.values()]
    assert len(by_annotator) == ANNOTATORS
    assert max(shares) > 1.5 * min(shares)
