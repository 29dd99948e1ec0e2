from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="arithmetic is torch's, which comes with the train extra")

from qwenops.classify.train import precision  # noqa: E402 -- after the skip
from qwenops.classify.train.precision import choose_precision, gemm_flops  # noqa: E402 -- after the skip
from qwenops.models.spec import TINY  # noqa: E402 -- after the skip

pytestmark = pytest.mark.reference
CPU = torch.device("cpu")


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that moves on by so much whenever it is read."""
    at = iter(range(10**9))
    return lambda: next(at) * step_s


def test_what_was_asked_for_is_taken_without_measuring() -> None:
    found = choose_precision("bf16", TINY, device=CPU, clock=lambda: pytest.fail("it measured"))
    assert found.value == "bf16"
    assert "asked" in found.reason


@pytest.mark.parametrize(("bf16", "f32", "wanted"), [(2e12, 1e12, "bf16"), (1.1e12, 1e12, "f32"), (1e11, 1e12, "f32")])
def test_bf16_is_taken_where_it_is_clearly_faster_and_both_speeds_are_told(
    monkeypatch: pytest.MonkeyPatch, bf16: float, f32: float, wanted: str
) -> None:
    speeds = {"bf16": bf16, "f32": f32}
    monkeypatch.setattr(precision, "gemm_flops", lambda _spec, kind, **_kwargs: speeds[kind])
    found = choose_precision("auto", TINY, device=CPU, clock=ticking(0.1))
    assert found.value == wanted
    assert "TFLOP/s in bf16" in found.reason


def test_the_measured_speed_is_operations_over_the_best_time() -> None:
    flops = 2 * precision.PROBE_TOKENS * TINY.hidden_size * TINY.intermediate_size
    assert gemm_flops(TINY, "f32", clock=ticking(0.125)) == pytest.approx(flops / 0.125)


def test_both_arithmetics_can_really_be_measured() -> None:
    import time

    for kind in ("bf16", "f32"):
        assert gemm_flops(TINY, kind, clock=time.monotonic) > 1e6
