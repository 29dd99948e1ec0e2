import math

import numpy as np
import pytest

from qwenops.engines.openvino.forms import Times, _choose, _decode_up_to, difference
from qwenops.engines.openvino.stepper import open_stepper
from qwenops.engines.options import EngineOptions
from qwenops.errors import ConfigError
from qwenops.models.spec import Scheme
from tests.engines.openvino.conftest import Open

AMX: Times = {
    "bf16": {1: 0.039, 8: 0.083, 32: 0.120, 256: 0.25},
    "f32": {1: 0.031, 8: 0.054, 32: 0.130, 256: 0.50},
}
NO_AMX: Times = {
    "bf16": {1: 0.020, 8: 0.047, 32: 0.050, 256: 0.190},
    "f32": {1: 0.0198, 8: 0.0465, 32: 0.052, 256: 0.205},
}


def test_with_amx_prompts_are_read_in_bf16_and_answers_written_in_f32() -> None:
    assert _choose(AMX, "auto", "auto") == ("bf16", "f32")
    assert _decode_up_to(AMX, ("bf16", "f32")) == 8


def test_where_one_form_is_good_at_both_there_is_one() -> None:
    assert _choose(NO_AMX, "auto", "auto") == ("bf16", "bf16")


def test_what_the_options_say_is_done() -> None:
    assert _choose(AMX, "f32", "bf16") == ("f32", "bf16")
    assert _choose(AMX, "f32", "auto") == ("f32", "f32")
    assert _choose(AMX, "auto", "bf16") == ("bf16", "bf16")
    assert _choose({"f32": AMX["f32"]}, "auto", "auto") == ("f32", "f32")


def test_the_difference_of_nonsense_is_infinite() -> None:
    row = np.ones(10, dtype=np.float32)
    assert difference(row, row) == 0
    assert difference(row * 1.1, row) == pytest.approx(0.1, rel=1e-3)
    assert difference(row * np.float32("nan"), row) == math.inf


@pytest.mark.slow
def test_two_forms_over_one_cache_answer_as_one(stepper_of: Open) -> None:
    from tests.engines.openvino.test_stepper import ask, finish, ids, prompt

    exact = {"dynamic_quantization": False}
    wanted = ids(
        finish(stepper_of(prefill_precision="f32", decode_precision="f32", **exact), [ask("a", prompt(99))])["a"]
    )
    both = stepper_of(prefill_precision="bf16", decode_precision="f32", **exact)
    found = ids(finish(both, [ask("a", prompt(99))])["a"])
    assert sum(a == b for a, b in zip(wanted, found, strict=True)) >= 8


@pytest.mark.slow
def test_arithmetic_that_the_cache_cannot_hold_is_refused(stepper_of: Open) -> None:
    with pytest.raises(ConfigError, match="bf16 arithmetic is not possible"):
        stepper_of(Scheme.F32, kv_precision="f32", prefill_precision="bf16")


@pytest.mark.slow
def test_more_threads_than_cores_are_not_used(stepper_of: Open) -> None:
    facts = stepper_of(Scheme.F32, threads=1000).facts()
    assert facts["threads"] < 1000
    assert "1000" in facts["notes"]["threads"]


@pytest.mark.slow
def test_progress_goes_from_the_beginning_to_the_end(stepper_of: Open) -> None:
    folder = stepper_of(Scheme.F32, threads=1000)._grammars._source[0]
    from pathlib import Path

    seen: list[float] = []
    stepper = open_stepper(
        EngineOptions(model_dir=Path(folder).parent, context_tokens=256, max_running=2),
        lambda progress, doing: seen.append(progress) if doing else None,
        environ={},
    )
    stepper.close()
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
