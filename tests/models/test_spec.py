from collections.abc import Callable
from typing import Any

import pytest

from qwenops.errors import ModelLoadError
from qwenops.models.spec import (
    QWEN3_0_6B,
    QWEN3_1_7B,
    TINY,
    KvPrecision,
    ModelSpec,
    Scheme,
    group_size,
)

BOTH = pytest.mark.parametrize("spec", [QWEN3_0_6B, QWEN3_1_7B], ids=["0.6b", "1.7b"])


def test_the_parameters_are_those_of_the_published_models() -> None:
    assert QWEN3_0_6B.num_parameters == 596_049_920
    assert QWEN3_1_7B.num_parameters == 1_720_574_976
    assert QWEN3_0_6B.num_linear_parameters == 28 * 15_728_640
    assert QWEN3_1_7B.num_linear_parameters == 28 * 50_331_648


def test_an_untied_head_counts_once_more() -> None:
    untied = ModelSpec.from_config(QWEN3_0_6B.to_config() | {"tie_word_embeddings": False})
    assert untied.num_parameters == 596_049_920 + 155_582_464


@BOTH
@pytest.mark.parametrize(("precision", "expected"), [("u8", 66_304), ("bf16", 114_688), ("f32", 229_376)])
def test_the_kv_cache_of_both_sizes_takes_the_same_bytes_per_token(
    spec: ModelSpec, precision: KvPrecision, expected: int
) -> None:
    assert spec.kv_elements_per_token == 57_344
    assert spec.kv_bytes_per_token(precision) == expected


def test_the_kv_bytes_are_those_of_the_paged_layout() -> None:
    # The paged form's inputs for one block of 32 tokens: keys [heads, 40, dim], values [heads, 32, dim + 8], in bytes.
    for spec in (QWEN3_0_6B, QWEN3_1_7B, TINY):
        block = spec.num_layers * spec.num_kv_heads * (40 * spec.head_dim + 32 * (spec.head_dim + 8))
        assert spec.kv_bytes_per_token("u8") * 32 == block


@pytest.mark.parametrize(
    ("spec", "without_head", "with_head"), [(QWEN3_0_6B, 0.881, 1.192), (QWEN3_1_7B, 2.819, 3.441)]
)
def test_the_operations_per_token_are_two_for_each_weight(
    spec: ModelSpec, without_head: float, with_head: float
) -> None:
    assert spec.flop_per_token(head=False) / 1e9 == pytest.approx(without_head, abs=5e-4)
    assert spec.flop_per_token() / 1e9 == pytest.approx(with_head, abs=5e-4)
    assert spec.flop_per_token(1000) - spec.flop_per_token() == 229_376_000


@pytest.mark.parametrize(
    ("spec", "scheme", "megabytes"),
    [
        (QWEN3_0_6B, Scheme.BF16, 1192),
        (QWEN3_0_6B, Scheme.INT8, 596),
        (QWEN3_0_6B, Scheme.INT4, 383),
        (QWEN3_1_7B, Scheme.BF16, 3441),
        (QWEN3_1_7B, Scheme.INT8, 1721),
        (QWEN3_1_7B, Scheme.INT4, 1038),
    ],
)
def test_the_bytes_of_a_decoding_step_are_those_of_the_weights(
    spec: ModelSpec, scheme: Scheme, megabytes: float
) -> None:
    # Scales add up to half a per cent.
    assert megabytes * 0.999 <= spec.weight_bytes(scheme) / 1e6 <= megabytes * 1.005
    assert spec.decode_bytes(scheme, 1000) - spec.decode_bytes(scheme) == 66_304_000


def test_memory_grows_with_the_cache_and_with_a_second_form() -> None:
    one = QWEN3_0_6B.estimate_memory(Scheme.INT8, kv_tokens=8192, forms=1)
    two = QWEN3_0_6B.estimate_memory(Scheme.INT8, kv_tokens=8192, forms=2)
    more = QWEN3_0_6B.estimate_memory(Scheme.INT8, kv_tokens=16384, forms=1)
    assert more.total_bytes - one.total_bytes == 8192 * 66_304
    assert one.total_bytes < two.total_bytes < one.total_bytes + 8e8


@pytest.mark.parametrize(
    ("scheme", "forms", "measured_mib"),
    [(Scheme.INT8, 1, 1139), (Scheme.INT8, 2, 1788), (Scheme.INT4, 1, 958), (Scheme.INT4, 2, 1421)],
)
def test_the_estimate_is_near_what_was_measured(scheme: Scheme, forms: int, measured_mib: int) -> None:
    # OpenVINO 2026.4.1 with 4,096 tokens of u8 cache after warming up: anonymous memory, libraries and embedding table.
    found = QWEN3_0_6B.estimate_memory(scheme, kv_tokens=4096, forms=forms).total_bytes / 1024**2
    assert measured_mib <= found <= 1.2 * measured_mib


def test_a_config_survives_the_way_out_and_in() -> None:
    for spec in (QWEN3_0_6B, QWEN3_1_7B, TINY):
        assert ModelSpec.from_config(spec.to_config(), {"eos_token_id": [151645, 151643]}) == spec


def test_the_newer_way_to_write_the_rotation_is_read() -> None:
    config = QWEN3_0_6B.to_config()
    del config["rope_theta"]
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert ModelSpec.from_config(config).rope_theta == 5e5


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        del config[key]

    return change


def _with(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with("model_type", "llama"), "architecture 'llama'"),
        (_with("model_type", "qwen3_moe"), "architecture 'qwen3_moe'"),
        (_without("model_type"), "architecture None"),
        (_with("hidden_act", "gelu"), "hidden_act = 'gelu'"),
        (_with("attention_bias", True), "attention_bias = True"),  # noqa: FBT003 -- a value of the config
        (_with("quantization_config", {"quant_method": "gptq"}), "quantization_config"),
        (_with("rope_scaling", {"rope_type": "yarn", "factor": 4.0}), "'yarn'"),
        (_with("num_hidden_layers", 0), "num_hidden_layers = 0"),
        (_with("hidden_size", "1024"), "hidden_size = '1024'"),
        (_without("head_dim"), "head_dim = None"),
        (_with("rms_norm_eps", -1), "rms_norm_eps = -1"),
        (_with("num_key_value_heads", 3), "cannot share 3 key heads"),
        (_with("head_dim", 127), "127 numbers"),
        (_with("eos_token_id", "</s>"), "'</s>'"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    config = QWEN3_0_6B.to_config()
    change(config)
    with pytest.raises(ModelLoadError) as caught:
        ModelSpec.from_config(config)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_row_is_cut_into_the_largest_group_that_divides_it() -> None:
    assert [group_size(length) for length in (1024, 3072, 192, 64)] == [128, 128, 64, 64]
    with pytest.raises(ModelLoadError, match="100 weights"):
        group_size(100)
