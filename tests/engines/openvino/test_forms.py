import math

import numpy as np
import pytest

from qwenops.engines.openvino.forms import (
    Forms,
    Times,
    _better,
    _choose,
    _decode_up_to,
    _not_needed,
    _wanted,
    difference,
)
from qwenops.engines.openvino.paged import CacheLayout, Form
from qwenops.engines.openvino.stepper import open_stepper
from qwenops.engines.options import EngineOptions
from qwenops.errors import ConfigError
from qwenops.models.spec import KvPrecision, Precision, Scheme
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


def test_where_memory_allows_one_form_it_is_the_one_that_was_asked_for() -> None:
    both: tuple[Precision, ...] = ("f32", "bf16")
    assert _wanted(both, "auto", "auto", 2) == (["f32", "bf16"], "")
    assert _wanted(both, "auto", "auto", 1)[0] == ["bf16"]
    assert _wanted(both, "auto", "f32", 1)[0] == ["f32"]
    assert _wanted(both, "bf16", "bf16", 1) == (["bf16"], "")
    assert "Memory allows one" in _wanted(both, "auto", "auto", 1)[1]
    with pytest.raises(ConfigError, match=r"one compiled form.*bf16 and f32"):
        _wanted(both, "bf16", "f32", 1)


def test_where_the_forms_cannot_share_a_cache_the_one_that_was_asked_for_stays() -> None:
    assert _not_needed([]) == "f32"
    assert _not_needed(["f32"]) == "bf16"
    with pytest.raises(ConfigError, match="differently"):
        _not_needed(["bf16", "f32"])


def test_the_larger_cache_is_taken_only_where_it_is_worth_its_memory() -> None:
    def forms(kv: KvPrecision, call_s: float) -> Forms:
        form = Form(precision="bf16", request=None, layout=CacheLayout(tensors=(), block_bytes=1))
        return Forms(
            prefill=form,
            decode=form,
            decode_up_to=8,
            reason="",
            kv_precision=kv,
            kv_reason="",
            prompt_tokens_per_s=1.0,
            call_s=call_s,
        )

    assert _better(forms("u8", 1.10), forms("bf16", 1.0)).kv_precision == "bf16"
    kept = _better(forms("u8", 1.02), forms("bf16", 1.0))
    assert kept.kv_precision == "u8"
    assert "1.02 s over u8 and 1.00 s over bf16" in kept.kv_reason


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
