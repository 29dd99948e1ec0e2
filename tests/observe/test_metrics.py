import re
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwenops.observe.metrics import Metrics
from qwenops.observe.record import RequestRecord, Status


def record(status: Status = "success", **more: object) -> RequestRecord:
    fields: dict[str, object] = {
        "request_id": "r",
        "endpoint": "/v1/chat/completions",
        "model": "whatever a client writes",
        "served_model": "qwen3:0.6b",
        "status": status,
        "http_status": 200,
        "prompt_tokens": 100,
        "completion_tokens": 11,
        "cached_tokens": 64,
        "queue_s": 0.2,
        "ttft_s": 0.5,
        "duration_s": 1.5,
    }
    return RequestRecord(**(fields | more))  # type: ignore[arg-type]  # the table above has the right types


async def values_of(metrics: Metrics) -> dict[str, float]:
    text = (await metrics.render()).decode()
    return {
        each.name + "".join(f"|{key}={value}" for key, value in sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


@pytest.mark.proves("F3")
async def test_the_four_names_of_the_users_design_are_there_with_the_types_it_gives() -> None:
    metrics = Metrics()
    metrics.request_finished(record())
    metrics.model_memory.labels("qwen3:0.6b").set(7)
    text = (await metrics.render()).decode()
    types = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert types["qwen3_inference_requests_total"] == "counter"
    assert types["qwen3_inference_duration_seconds"] == "histogram"
    assert types["qwen3_model_memory_usage_bytes"] == "gauge"
    assert types["qwen3_active_connections"] == "gauge"


async def test_a_finished_request_moves_what_it_should_and_by_how_much() -> None:
    metrics = Metrics()
    metrics.request_finished(record())
    metrics.request_finished(record("error", error_code="engine_crashed", completion_tokens=3))
    values = await values_of(metrics)
    model = "|model=qwen3:0.6b"
    path = "|endpoint=/v1/chat/completions"
    assert values[f"qwen3_inference_requests_total{path}{model}|status=success"] == 1
    assert values[f"qwen3_inference_requests_total{path}{model}|status=error"] == 1
    assert values["qwen3_errors_total|code=engine_crashed"] == 1
    assert values[f"qwen3_inference_duration_seconds_sum{model}"] == 1.5
    assert values[f"qwen3_time_to_first_token_seconds_sum{model}"] == 0.5
    assert values[f"qwen3_time_per_output_token_seconds_sum{model}"] == pytest.approx(0.1)
    assert values[f"qwen3_queue_time_seconds_sum{model}"] == 0.2
    assert values[f"qwen3_prompt_tokens_total{model}"] == 200
    assert values[f"qwen3_generated_tokens_total{model}"] == 14
    assert values[f"qwen3_cached_tokens_total{model}"] == 128
    assert not [name for name in values if "whatever" in name]


async def test_failed_requests_do_not_make_latency_look_good() -> None:
    metrics = Metrics()
    metrics.request_finished(record("error", duration_s=0.001, ttft_s=None))
    metrics.request_finished(record("cancelled", duration_s=0.001))
    assert not [name for name in await values_of(metrics) if "duration_seconds_count" in name]


async def test_a_total_that_somebody_else_counts_is_followed_even_when_they_begin_anew() -> None:
    metrics = Metrics()
    for total in (2, 5, 5, 1, 4):
        metrics.raise_to(metrics.engine_restarts, total)
    assert (await values_of(metrics))["qwen3_engine_restarts_total"] == 9


async def test_values_are_refreshed_right_before_a_rendering() -> None:
    metrics = Metrics()
    metrics.refresh.append(lambda each: each.queue_requests.set(42))
    assert (await values_of(metrics))["qwen3_queue_requests"] == 42


async def test_other_servers_names_carry_the_same_values() -> None:
    metrics = Metrics(compat="vllm")
    metrics.request_finished(record())
    metrics.queue_requests.set(3)
    values = await values_of(metrics)
    assert values["vllm:num_requests_waiting"] == values["qwen3_queue_requests"] == 3
    assert values["vllm:prompt_tokens_total|model_name=qwen3:0.6b"] == 100
    assert values["vllm:time_to_first_token_seconds_bucket|le=0.5|model_name=qwen3:0.6b"] == 1


def test_every_metric_has_help_a_prefix_a_name_that_says_its_unit_and_bounded_labels() -> None:
    metrics = Metrics()
    bounded = {"model", "endpoint", "status", "code", "reason", "result", "log", "version"}
    bounded |= {"engine", "quantization", "revision", "fallback_for", "decision"}
    for each in metrics.declared:
        assert each.name.startswith("qwen3_")
        assert each.help.endswith(".")
        assert set(each.labels) <= bounded, each
        if each.unit in {"seconds", "bytes", "ratio", "tokens"}:
            assert each.unit in each.name, each
        assert (each.kind == "counter") == each.name.endswith("_total"), each
    assert not [name for name, count in Counter(each.name for each in metrics.declared).items() if count > 1]
