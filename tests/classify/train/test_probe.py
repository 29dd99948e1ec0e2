import numpy as np
import pytest

pytest.importorskip("torch", reason="the linear model is fitted by torch, which comes with the train extra")

from qwenops.classify.train.losses import adjustment, class_counts
from qwenops.classify.train.probe import Probed, probe

pytestmark = pytest.mark.reference


def fitted(scale: float, *, seed: int = 0, count: int = 300) -> Probed:
    """Classes whose states differ by `scale` of their spread."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, size=2 * count)
    centres = rng.normal(size=(4, 20))
    states = (scale * centres[labels] + rng.normal(size=(2 * count, 20))).astype(np.float32)
    weights = np.ones(count, dtype=np.float32)
    adjusted = adjustment(class_counts(labels[:count], weights, 4), 1.0)
    return probe(states[:count], labels[:count], weights, states[count:], labels[count:], adjusted)


def test_it_finds_what_is_linearly_there() -> None:
    assert fitted(3.0).figures.macro_f1 > 0.97


def test_where_there_is_nothing_it_is_no_better_than_chance_and_the_penalty_is_strong() -> None:
    found = fitted(0.0)
    assert found.figures.macro_f1 < 0.40
    assert found.figures.nll < 1.1 * np.log(4)
    assert found.strength >= 0.1


def test_it_gives_the_same_each_time() -> None:
    assert fitted(1.0) == fitted(1.0)
