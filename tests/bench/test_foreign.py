import json
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.folder import read_run
from qwenops.bench.foreign import import_results, read_foreign
from qwenops.bench.gate import gate, read_side
from qwenops.bench.record import Failure
from qwenops.bench.report.write import write_report
from qwenops.bench.stats import summarise
from qwenops.errors import ConfigError, RunFolderError

NOW_NS = 1_790_000_000_000_000_000


def vllm(*, detailed: bool = True, **changes: Any) -> dict[str, Any]:
    """Return a result as `vllm bench serve --save-result` writes it: two answers, one of one token, one failure."""
    found: dict[str, Any] = {
        "date": "20261120-101500",
        "backend": "openai-chat",
        "label": "openai-chat",
        "model_id": "Qwen/Qwen3-0.6B",
        "tokenizer_id": "Qwen/Qwen3-0.6B",
        "num_prompts": 3,
        "request_rate": 0.5,
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": 6.0,
        "completed": 2,
        "failed": 1,
        "total_input_tokens": 30,
        "total_output_tokens": 5,
        "request_throughput": 2 / 6,
        "request_goodput": None,
        "output_throughput": 5 / 6,
        "mean_ttft_ms": 300.0,
        "median_ttft_ms": 300.0,
        "std_ttft_ms": 100.0,
        "p99_ttft_ms": 399.0,
        "mean_tpot_ms": 50.0,
        "median_tpot_ms": 50.0,
        "std_tpot_ms": 0.0,
        "p99_tpot_ms": 50.0,
    }
    if detailed:
        found |= {
            "input_lens": [10, 20, 10],
            "output_lens": [4, 1, 0],
            "ttfts": [0.2, 0.4, 0.0],
            "itls": [[0.05, 0.05, 0.05], [], []],
            "latencies": [0.35, 0.4, 0.0],
            "start_times": [100.0, 102.5, 104.0],
            "queue_times": [0.0, 0.5, 0.0],
            "generated_texts": ["a b c d", "a", ""],
            "errors": ["", "", "Traceback\nClientConnectorError: refused"],
        }
    return found | changes


def guidellm(**changes: Any) -> dict[str, Any]:
    """Return a report as GuideLLM writes it, with what is read of it: one good answer, one error, one cut off."""

    def request(number: int, start: float, **moments: float) -> dict[str, Any]:
        timings = {"targeted_start": start - 0.1, "request_start": start, "request_iterations": 5, **moments}
        return {
            "type_": "generative_request_stats",
            "request_id": f"r{number}",
            "info": {
                "status": "completed",
                "timings": timings,
                "error": "ReadTimeout: too slow" if number == 1 else None,
            },
            "input_metrics": {"text_tokens": 12, "total_tokens": 12, "cached_tokens": 8},
            "output_metrics": {"text_tokens": 5 if number == 0 else None, "total_tokens": 5 if number == 0 else None},
        }

    good = request(
        0, 1000.5, first_token_iteration=1000.8, first_output_token_iteration=1001.0, last_token_iteration=1001.2,
        request_end=1001.25, resolve_end=1001.3,
    )  # fmt: skip
    benchmark = {
        "type_": "generative_benchmark",
        "config": {"strategy": {"type_": "constant", "rate": 0.25}, "backend": {"model": "qwen"}, "profile": {}},
        "metrics": {"request_totals": {"successful": 1, "errored": 1, "incomplete": 1, "total": 3}},
        "requests": {
            "successful": [good],
            "errored": [request(1, 1004.5, resolve_end=1009.0)],
            "incomplete": [request(2, 1008.5, resolve_end=1010.0)],
        },
        "start_time": 1000.0,
        "end_time": 1010.0,
        "duration": 10.0,
    }
    return {"metadata": {"version": 2, "guidellm_version": "0.7.3"}, "benchmarks": [benchmark | changes]}


def written(folder: Path, *documents: dict[str, Any]) -> Path:
    path = folder / "result.json"
    path.write_text("\n".join(json.dumps(each) for each in documents), "utf-8")
    return path


def test_a_detailed_result_of_vllm_has_its_requests(tmp_path: Path) -> None:
    (driven,) = read_foreign(written(tmp_path, vllm())).drivens
    found = summarise(driven)
    assert driven.segment.name == "rate=0.5"
    assert found.counts.ok == 2
    assert found.counts.failures == {"failed": 1}
    assert found.distributions["ttft"].mean == pytest.approx(0.3)
    assert found.distributions["ttft_response"].max == pytest.approx(0.9)
    assert found.distributions["e2e"].max == pytest.approx(0.4)
    assert found.distributions["tpot"].n == 1, "an answer of one token has none"
    assert found.distributions["tpot"].mean == pytest.approx(0.05)
    # The first answer, of four tokens, and half an answer's time after it are the ramp; 5.5125 s of six are left.
    assert found.rates["output_tokens_per_s"] == pytest.approx(1 / 5.5125)
    assert found.completion_tokens == 5
    assert found.token_source is None, "nobody knows who counted"
    assert found.distributions["ttft"].p99.note == "n/a (2 < 299)"
    assert driven.records[2].message == "ClientConnectorError: refused"


def test_several_results_in_one_file_are_parts_one_after_the_other(tmp_path: Path) -> None:
    found = read_foreign(written(tmp_path, vllm(), vllm(request_rate="inf", max_concurrency=4)))
    assert [each.segment.name for each in found.drivens] == ["rate=0.5 #1", "users=4 #2"]
    assert found.drivens[1].began_ns >= found.drivens[0].ended_ns
    assert [record.index for each in found.drivens for record in each.records] == list(range(6))


def test_without_send_times_that_is_said(tmp_path: Path) -> None:
    found = read_foreign(written(tmp_path, vllm(start_times=None, queue_times=None)))
    assert any("send times" in each for each in found.caveats)
    assert summarise(found.drivens[0]).distributions["ttft"].mean == pytest.approx(0.3)


def test_a_result_of_vllm_without_requests_keeps_the_figures_that_its_number_of_requests_bears(tmp_path: Path) -> None:
    conclusion = import_results(written(tmp_path, vllm(detailed=False, completed=40)), tmp_path / "run", wall_ns=NOW_NS)
    (part,) = conclusion.data["segments"]
    ttft = part["distributions"]["ttft_s"]
    assert ttft["mean"] == pytest.approx(0.3)
    assert ttft["p50"]["value"] == pytest.approx(0.3)
    assert ttft["p99"] == {"value": None, "low": None, "high": None, "note": "n/a (40 < 299)"}
    assert any("--save-detailed" in each for each in conclusion.sentences)
    assert read_run(tmp_path / "run").drivens == ()


def test_a_report_of_guidellm_has_its_requests(tmp_path: Path) -> None:
    foreign = read_foreign(written(tmp_path, guidellm()))
    (driven,) = foreign.drivens
    found = summarise(driven)
    assert foreign.version == "0.7.3"
    assert driven.segment.name == "constant rate=0.25"
    assert found.counts.ok == 1
    assert found.counts.failures == {"failed": 1}
    assert found.counts.interrupted == 1
    assert driven.records[1].message == "ReadTimeout: too slow"
    assert driven.records[2].failure is Failure.INTERRUPTED
    assert found.distributions["ttft"].mean == pytest.approx(0.3, abs=1e-6)
    assert found.distributions["ttft_response"].mean == pytest.approx(0.4, abs=1e-6)
    assert found.distributions["ttfa"].mean == pytest.approx(0.5, abs=1e-6)
    assert found.distributions["tpot"].mean == pytest.approx(0.1, abs=1e-6)
    assert "icl" not in found.distributions, "it keeps no gaps"
    assert found.cached_tokens == 8
    assert found.window_s == pytest.approx(10)


def test_a_sample_of_the_requests_is_called_a_sample(tmp_path: Path) -> None:
    found = read_foreign(written(tmp_path, guidellm(metrics={"request_totals": {"total": 500}})))
    assert any("3 of 500" in each for each in found.caveats)


@pytest.mark.parametrize("make", [vllm, guidellm])
def test_what_was_imported_is_a_run_that_is_read_reported_and_gated(tmp_path: Path, make: Any) -> None:
    source = written(tmp_path, make())
    conclusion = import_results(source, tmp_path / "run", wall_ns=NOW_NS)
    recorded = read_run(tmp_path / "run")
    assert recorded.manifest["validity"]["verdict"] == "SUSPECT"
    assert recorded.manifest["imported"]["file"] == "result.json"
    assert recorded.summary["data"] == json.loads(json.dumps(conclusion.data))
    assert summarise(recorded.drivens[0]) == summarise(read_foreign(source).drivens[0])
    assert write_report(tmp_path / "run").read_text("utf-8").startswith("<!")
    side = read_side(tmp_path / "run")
    with pytest.raises(RunFolderError, match="same machine"):
        gate([side], [side])
    assert gate([side], [side], force=True).exit_code == 12, "so few requests decide nothing"
    with pytest.raises(RunFolderError, match="already"):
        import_results(source, tmp_path / "run", wall_ns=NOW_NS)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"benchmarks": []}', '{"benchmarks": [{}]}', ""])
def test_what_no_known_tool_wrote_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError):
        read_foreign(path)


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not what its tool writes"):
        read_foreign(written(tmp_path, vllm(output_lens=[1])))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_foreign(tmp_path / "missing.json")
