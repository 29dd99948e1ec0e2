from itertools import pairwise

import pytest

from qwenops.classify.train.schedule import rate


def rates(num_steps: int, warmup: float) -> list[float]:
    return [rate(step, num_steps, highest=0.01, warmup_share=warmup) for step in range(num_steps)]


def test_it_rises_in_a_line_and_falls_along_a_cosine_to_almost_nothing() -> None:
    found = rates(100, 0.1)
    assert found[:10] == pytest.approx([0.001 * each for each in range(1, 11)])
    assert found[10] == 0.01
    assert found[55] == pytest.approx(0.005)
    assert all(after < before for before, after in pairwise(found[10:]))
    assert 0 < found[-1] < 1e-5


@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.06), (3, 1.0), (7, 0.5)])
def test_no_step_of_a_short_run_is_wasted_or_out_of_bounds(num_steps: int, warmup: float) -> None:
    assert all(0 < each <= 0.01 for each in rates(num_steps, warmup))


def test_steps_past_the_end_learn_nothing() -> None:
    assert rate(50, 10, highest=0.01, warmup_share=0.1) == pytest.approx(0.0)
