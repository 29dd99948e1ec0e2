"""The generator is no toy: models that understand nothing do as badly on its calls as they should.

It proves a pipeline, never a product: no figure from here says how well real calls are classified.
"""

from functools import cache

import pytest

from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from tools.difficulty import Scores, changed, scores

COUNT = 4500


@cache
def found() -> Scores:
    return scores(list(generate(GeneratorOptions(calls=COUNT, seed=11))))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_linear_model_is_right_often_but_not_too_often() -> None:
    assert 0.75 <= found().in_distribution <= 0.85
    assert found().in_distribution < 0.95


def test_words_of_an_unknown_author_cost_it_ten_to_twenty_points() -> None:
    lost = found().in_distribution - found().unseen_author
    assert 0.10 <= lost <= 0.20


def test_what_is_known_without_reading_says_next_to_nothing() -> None:
    assert found().metadata < found().chance + 0.04


def test_without_what_makes_it_hard_it_would_be_a_toy() -> None:
    options = changed(
        GeneratorOptions(calls=COUNT, seed=11, noise=0.0, label_noise=0.0),
        ["felt_share=0", "competing_share=0", "asks_share=0", "threats=0", "emotion=0", "details=2"],
    )
    assert scores(list(generate(options))).in_distribution > 0.95
