from dataclasses import replace

import pytest

from qwenops.engines.openvino.sizing import forms_that_fit, kv_choices, mixed_tokens, plan_blocks
from qwenops.engines.options import EngineOptions
from qwenops.errors import InsufficientMemoryError
from qwenops.hardware.machine import Machine, detect_machine
from qwenops.hardware.reasoned import Reasoned
from qwenops.models.artefact import Artefact
from qwenops.models.spec import QWEN3_0_6B, KvPrecision, Scheme

MIB = 2**20
MODEL = Artefact(folder=None, spec=QWEN3_0_6B, scheme=Scheme.INT8, sha256="", manifest={})  # type: ignore[arg-type] # no file is opened


def blocks(limit: int, used: int = 1000, **options: int) -> Reasoned[int]:
    return plan_blocks(
        EngineOptions(max_running=4, **options),  # type: ignore[arg-type] # numbers only
        context_tokens=2048,
        block_bytes=2 * MIB,
        limit_bytes=limit * MIB,
        used_bytes=used * MIB,
    )


def test_all_sequences_fit_at_full_length_where_memory_is_plenty() -> None:
    assert blocks(64_000).value == 4 * 64


def test_the_cache_takes_half_of_what_the_limit_leaves() -> None:
    found = blocks(1400)
    assert found.value == 100
    assert "0.4 GiB" in found.reason


def test_the_options_decide_how_large_the_cache_is() -> None:
    assert blocks(1400, kv_cache_bytes=50 * MIB).value == 25
    assert blocks(1400, kv_cache_bytes=50_000 * MIB).value == 256


@pytest.mark.parametrize("limit", [1010, 1000, 500])
def test_a_cache_of_no_use_is_refused(limit: int) -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        blocks(limit)
    assert caught.value.needed_bytes == 16 * 2 * MIB
    assert caught.value.hint


def with_limit(mib: int) -> Machine:
    return replace(detect_machine(), memory_limit=Reasoned(value=mib * MIB, reason="a control group says so"))


def test_a_model_over_the_memory_limit_is_refused_before_it_is_loaded() -> None:
    assert forms_that_fit(MODEL, EngineOptions(), with_limit(4000)) == 3
    assert forms_that_fit(MODEL, EngineOptions(), with_limit(1500)) == 1
    with pytest.raises(InsufficientMemoryError, match="a control group says so"):
        forms_that_fit(MODEL, EngineOptions(), with_limit(700))


def test_the_larger_cache_is_offered_only_where_long_calls_fit_it() -> None:
    assert kv_choices(MODEL, EngineOptions(), with_limit(20_000)) == ("u8", "bf16")
    assert kv_choices(MODEL, EngineOptions(), with_limit(4000)) == ("u8",)
    assert kv_choices(MODEL, EngineOptions(max_running=8, kv_cache_bytes=2048 * MIB), with_limit(4000)) == (
        "u8",
        "bf16",
    )
    assert kv_choices(MODEL, EngineOptions(max_running=8, kv_cache_bytes=1024 * MIB), with_limit(20_000)) == ("u8",)


@pytest.mark.parametrize("kv", ["u8", "bf16", "f32"])
def test_a_format_that_was_asked_for_is_the_only_choice(kv: KvPrecision) -> None:
    assert kv_choices(MODEL, EngineOptions(kv_precision=kv), with_limit(20_000)) == (kv,)


@pytest.mark.parametrize(("tokens_per_s", "tokens"), [(10_000, 512), (1100, 512), (400, 192), (70, 32), (1, 32)])
def test_a_step_beside_answers_takes_what_can_be_read_in_half_a_second(tokens_per_s: float, tokens: int) -> None:
    assert mixed_tokens(tokens_per_s, 512) == tokens
