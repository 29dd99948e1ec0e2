import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from qwenops.command import run
from qwenops.errors import QwenOpsError
from qwenops.hardware import detect_machine, plan_threads
from qwenops.hardware import measure as measuring
from qwenops.hardware.measure import Bandwidth, GemmRate, Measured, buffer_bytes, from_json, measure, to_json
from tests.hardware.trees import processor, write_tree

GIB = 1024**3


class TestTheBestOfSeveralPasses:
    def test_the_two_first_passes_warm_up_and_do_not_count(self) -> None:
        times = iter([0.1, 0.2, 3.0, 2.0, 4.0, 5.0, 6.0])
        assert measuring._best(lambda: next(times), pass_s=0.0) == (2.0, 0.5)

    def test_it_goes_on_for_the_time_given(self) -> None:
        calls: list[float] = []

        def once() -> float:
            calls.append(time.perf_counter())
            time.sleep(0.01)
            return 0.01

        measuring._best(once, pass_s=0.15)
        assert 0.1 < calls[-1] - calls[0] < 1.0
        assert len(calls) > 7


class _Part:
    """Takes a known time to read, as a thread that computes without the GIL does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def max(self) -> int:
        time.sleep(self.seconds)
        return 0


def test_the_time_of_a_read_is_that_of_the_slowest_thread_and_not_their_sum() -> None:
    took_s = measuring._read(cast("Any", [_Part(0.05), _Part(0.15), _Part(0.1)]))
    assert 0.15 <= took_s < 0.29


class TestBuffer:
    def buffer_for(self, root: Path, *, cache: str, available: int) -> int:
        files = processor(1) | {
            "sys/devices/system/cpu/cpu0/cache/index3/size": cache,
            "proc/meminfo": f"MemTotal: {available // 1024} kB\nMemAvailable: {available // 1024} kB\n",
        }
        write_tree(root, files)
        return buffer_bytes(detect_machine(root, affinity=lambda: {0}, environ={}))

    def test_no_cache_can_hold_it(self, tmp_path: Path) -> None:
        assert self.buffer_for(tmp_path, cache="65536K", available=64 * GIB) == 512 * 1024**2

    def test_it_takes_at_most_an_eighth_of_the_memory(self, tmp_path: Path) -> None:
        assert self.buffer_for(tmp_path, cache="65536K", available=GIB) == GIB // 8

    def test_it_is_bounded_on_large_machines(self, tmp_path: Path) -> None:
        assert self.buffer_for(tmp_path, cache="1048576K", available=1024 * GIB) == 2 * GIB


def measured() -> Measured:
    return Measured(
        bandwidth=(
            Bandwidth(threads=1, bytes_per_s=10e9, spread=0.1),
            Bandwidth(threads=2, bytes_per_s=18e9, spread=0.0),
        ),
        gemm=(
            GemmRate(precision="f32", threads=2, op_per_s=1e11, spread=0.0),
            GemmRate(precision="bf16", threads=2, op_per_s=0.0, spread=0.0, missing="arithmetic"),
        ),
        buffer_bytes=4096,
        took_s=1.5,
    )


def test_figures_cross_the_process_border_unchanged() -> None:
    assert from_json(to_json(measured())) == measured()


def test_figures_are_found_by_name() -> None:
    assert measured().bandwidth_bytes_per_s == 18e9
    assert measured().rates == {"f32": 1e11}


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"bandwidth": 3}', "Traceback"])
def test_an_answer_that_makes_no_sense_is_an_error(line: str) -> None:
    with pytest.raises(QwenOpsError, match="answered what it should not"):
        from_json(line)


def test_importing_it_loads_no_heavy_library() -> None:
    code = (
        "import sys, qwenops.hardware, qwenops.hardware.measure, qwenops.hardware.probe; print('numpy' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], timeout_s=30).stdout == "False\n"


def test_whole_numbers_are_really_multiplied_for_int8() -> None:
    import openvino as ov

    compiled = ov.Core().compile_model(measuring._mlp("int8"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    products = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in {"FullyConnected", "MatMul"}
    ]
    assert len(products) == 4
    assert set(products) <= {"u8", "i8"}


@pytest.mark.slow
def test_this_machine_is_measured_plausibly_and_repeatably_within_bounds() -> None:
    started_s = time.monotonic()
    first, second = measure(budget_s=1.0), measure(budget_s=1.0)
    assert time.monotonic() - started_s < 60
    threads = plan_threads(detect_machine()).value
    for each in (first, second):
        assert [row.threads for row in each.bandwidth] == sorted({row.threads for row in each.bandwidth})
        assert each.bandwidth[-1].threads == threads
        # From a small board computer to the fastest server with stacked memory.
        assert 0.5e9 < each.bandwidth_bytes_per_s < 10e12
        assert 1e9 < each.rates["f32"] < 1e15
        assert [row.precision for row in each.gemm] == ["f32", "bf16", "int8"]
        assert all((row.op_per_s > 0) == (row.missing == "") for row in each.gemm)
    # Other work may disturb either one, so only the order of magnitude must agree.
    assert 0.2 < first.bandwidth_bytes_per_s / second.bandwidth_bytes_per_s < 5
    assert 0.2 < first.rates["f32"] / second.rates["f32"] < 5
