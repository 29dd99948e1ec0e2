import math

import numpy as np
import pytest

from qwenops.classify.train.scoring import Figures, figures

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.5]], dtype=np.float32)


def test_the_figures_are_those_of_the_definitions() -> None:
    found = figures(LOGITS, np.array([0, 1, 2, 2], dtype=np.int64))
    assert found.accuracy == 0.75
    assert found.macro_f1 == pytest.approx((1.0 + 2 / 3 + 2 / 3) / 3)
    wide = LOGITS.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    assert found.nll == pytest.approx(-np.log(probabilities[[0, 1, 2, 3], [0, 1, 2, 2]]).mean())


def test_a_logit_that_is_no_number_makes_all_figures_such() -> None:
    found = figures(np.array([[math.nan, 1.0]], dtype=np.float32), np.array([0], dtype=np.int64))
    assert math.isnan(found.macro_f1)
    assert math.isnan(found.nll)


def test_of_equal_macro_f1_the_likelier_is_better() -> None:
    better = Figures(macro_f1=0.5, accuracy=0.1, nll=1.0)
    assert better.rank > Figures(macro_f1=0.5, accuracy=0.9, nll=1.1).rank
    assert better.rank < Figures(macro_f1=0.51, accuracy=0.1, nll=9.0).rank
