import dataclasses
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from qwenops.command import run
from qwenops.deploy.checkup import Check, Installed, Report, Status, Surroundings
from qwenops.deploy.doctor import (
    SCHEMA,
    examine,
    installed,
    is_port_free,
    look_around,
    version_of,
    wanted_version_of,
)
from qwenops.engines import ENGINES
from qwenops.errors import CommandError
from qwenops.hardware.measure import Bandwidth
from qwenops.hardware.ports import PortHolder, port_holder
from qwenops.hardware.probe import Probe
from qwenops.text import Text, say
from tests.deploy.conftest import GIB, MEASURED, MakeSurroundings


def found(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def finding(around: Surroundings, name: str) -> tuple[Status, str, str]:
    check = found(examine(around), name)
    return check.status, check.what, check.todo


class TestAHealthyMachine:
    def test_everything_is_ok_and_usable(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings())
        assert {check.name: check.status for check in report.checks if check.status is not Status.OK} == {}
        assert (report.is_usable, report.exit_code) == (True, 0)

    def test_each_thing_of_the_list_is_looked_at_once(self, surroundings: MakeSurroundings) -> None:
        names = [check.name for check in examine(surroundings()).checks]
        assert sorted(names) == sorted(set(names))
        assert set(names) == {
            *("python", "isa", "cores", "smt", "numa", "memory", "swap", "fit qwen3:0.6b", "fit qwen3:1.7b", "disk"),
            *("engine openvino", "engine fake", "engine transformers", "arithmetic", "port", "container"),
            *("throttling", "huge_pages", "clock", "open_files", "telemetry", "bandwidth", "gemm"),
        }

    def test_every_sentence_can_be_translated(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings())
        plain = [check.name for check in report.checks if not isinstance(check.title, Text)]
        plain += [check.name for check in report.checks if check.todo and not isinstance(check.todo, Text)]
        # A version needs no translation.
        plain += [
            check.name
            for check in report.checks
            if not isinstance(check.what, Text) and check.name not in {"python", "engine openvino"}
        ]
        assert plain == []

    def test_progress_is_told_from_nothing_to_all(self, surroundings: MakeSurroundings) -> None:
        told: list[tuple[float, str]] = []
        examine(surroundings(), lambda fraction, doing: told.append((fraction, doing)))
        fractions = [fraction for fraction, _ in told]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, 1.0)

    def test_without_measuring_nothing_is_measured(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings(measure=None))
        assert report.measured is None
        assert not [check for check in report.checks if check.name in {"bandwidth", "gemm"}]


class TestJson:
    def test_it_is_versioned_and_plain(self, surroundings: MakeSurroundings) -> None:
        data = json.loads(json.dumps(examine(surroundings()).to_json()))
        assert data["schema"] == SCHEMA == "qwenops.doctor/1"
        assert data["usable"] is True
        assert data["worst"] == "ok"
        first = data["checks"][0]
        assert set(first) == {"name", "title", "status", "what", "todo", "facts"}
        assert data["machine"]["memory_limit"] == {"value": 8 * GIB, "reason": "memory that the host has available"}
        assert data["measured"]["bandwidth"][0]["bytes_per_s"] == 30e9

    def test_it_says_when_the_machine_is_unusable(self, surroundings: MakeSurroundings) -> None:
        data = examine(surroundings(free_disk_bytes=lambda _folder: 0)).to_json()
        assert (data["usable"], data["worst"]) == (False, "fail")


class TestCores:
    def test_a_quota_of_whole_cores_is_fine_and_explained(self, surroundings: MakeSurroundings) -> None:
        status, what, _ = finding(surroundings({"sys/fs/cgroup/cpu.max": "200000 100000"}), "cores")
        assert status is Status.OK
        assert what.startswith("2 threads will compute. A CPU quota of 2 cores at /sys/fs/cgroup allows")

    def test_a_part_of_a_core_is_said_to_be_unused(self, surroundings: MakeSurroundings) -> None:
        status, _, todo = finding(surroundings({"sys/fs/cgroup/cpu.max": "250000 100000"}), "cores")
        assert (status, todo) == (Status.WARN, "Give a whole number of cores; the part of a core is left unused.")

    def test_less_than_a_core_is_a_warning(self, surroundings: MakeSurroundings) -> None:
        status, what, todo = finding(surroundings({"sys/fs/cgroup/cpu.max": "50000 100000"}), "cores")
        assert status is Status.WARN
        assert "less than one core" in what
        assert todo.startswith("Raise the CPU quota")

    def test_one_core_with_amx_loses_amx_and_says_so(self, surroundings: MakeSurroundings) -> None:
        files = {"proc/cpuinfo": "processor: 0\nmodel name: X\nflags: avx2 fma amx_tile amx_bf16\n"}
        around = surroundings(files | {"sys/fs/cgroup/cpu.max": "100000 100000"})
        check = found(examine(around), "cores")
        assert check.status is Status.WARN
        assert "AMX" in check.todo
        assert check.facts["environment"] == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


class TestMachine:
    def test_two_numa_nodes_ask_for_two_servers(self, surroundings: MakeSurroundings) -> None:
        nodes = {
            "sys/devices/system/node/node0/cpulist": "0-1",
            "sys/devices/system/node/node1/cpulist": "2-3",
        }
        status, what, todo = finding(surroundings(nodes), "numa")
        assert status is Status.WARN
        assert "2 NUMA nodes" in what
        assert "numactl" in todo

    def test_a_processor_without_avx2_is_slow(self, surroundings: MakeSurroundings) -> None:
        files = {"proc/cpuinfo": "processor: 0\nmodel name: Old\nflags: sse4_2\n"}
        status, _, todo = finding(surroundings(files), "isa")
        assert status is Status.WARN
        assert "AVX2" in todo

    def test_a_small_memory_limit_leaves_no_model(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings({"sys/fs/cgroup/memory.max": str(GIB)}))
        assert found(report, "fit qwen3:0.6b").status is Status.FAIL
        assert found(report, "fit qwen3:1.7b").status is Status.WARN
        assert found(report, "fit qwen3:0.6b").todo == "Raise the memory limit, or shorten the context."
        assert report.exit_code == 1

    def test_a_limit_between_the_two_models_fits_the_smaller(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings({"sys/fs/cgroup/memory.max": str(3 * GIB)}))
        assert found(report, "fit qwen3:0.6b").status is Status.OK
        assert "int8" in found(report, "fit qwen3:0.6b").what
        assert found(report, "fit qwen3:1.7b").status is Status.WARN
        assert report.exit_code == 0

    def test_what_is_said_to_fit_does_fit(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings())
        facts = found(report, "fit qwen3:0.6b").facts
        limit_bytes = report.machine.memory_limit.value
        assert facts["int8"]["needed_bytes"] < 0.9 * limit_bytes
        assert facts["int4"]["needed_bytes"] < facts["int8"]["needed_bytes"] < facts["bf16"]["needed_bytes"]
        assert facts["int4"]["kv_tokens"] > facts["int8"]["kv_tokens"] > 8192

    def test_swap_in_use_is_a_warning(self, surroundings: MakeSurroundings) -> None:
        meminfo = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 1000 kB\nSwapFree: 100 kB\n"
        assert finding(surroundings({"proc/meminfo": meminfo}), "swap")[0] is Status.WARN

    @pytest.mark.parametrize(
        ("free_bytes", "status"), [(GIB, Status.FAIL), (4 * GIB, Status.WARN), (9 * GIB, Status.OK)]
    )
    def test_a_full_disk_is_noticed(self, surroundings: MakeSurroundings, free_bytes: int, status: Status) -> None:
        assert finding(surroundings(free_disk_bytes=lambda _folder: free_bytes), "disk")[0] is status

    @pytest.mark.parametrize(("throttled", "status"), [(1, Status.OK), (50, Status.WARN)])
    def test_being_stopped_often_is_a_warning(
        self, surroundings: MakeSurroundings, throttled: int, status: Status
    ) -> None:
        files = {
            "sys/fs/cgroup/cpu.max": "200000 100000",
            "sys/fs/cgroup/cpu.stat": f"nr_periods 100\nnr_throttled {throttled}\nthrottled_usec 1500000\n",
        }
        found_status, what, _ = finding(surroundings(files), "throttling")
        assert found_status is status
        assert f"in {throttled}% of its periods, for 1.5 s in all" in what

    def test_huge_pages_that_are_off_are_worth_a_word(self, surroundings: MakeSurroundings) -> None:
        files = {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"}
        assert finding(surroundings(files), "huge_pages")[0] is Status.WARN

    def test_a_clock_before_the_installation_is_wrong(self, surroundings: MakeSurroundings) -> None:
        assert finding(surroundings(now_s=1e9), "clock")[0] is Status.WARN

    def test_a_slow_clock_source_is_named(self, surroundings: MakeSurroundings) -> None:
        status, what, _ = finding(surroundings(clock_source="hpet"), "clock")
        assert status is Status.WARN
        assert "hpet" in what

    def test_few_open_files_are_a_warning(self, surroundings: MakeSurroundings) -> None:
        assert finding(surroundings(max_open_files=256), "open_files")[0] is Status.WARN


class TestSpeed:
    def test_the_bounds_follow_from_the_figures(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings())
        # 30 GB/s over 0.6 GB of int8 weights, and 2 * 10^12 operations/s over two for each of 0.44 * 10^9 weights.
        assert found(report, "bandwidth").facts["decode_bound_tokens_per_s"]["qwen3:0.6b"] == pytest.approx(50, abs=1)
        assert found(report, "gemm").facts["prefill_bound_tokens_per_s"]["qwen3:0.6b"] == pytest.approx(2270, abs=30)

    def test_figures_that_differ_much_say_so(self, surroundings: MakeSurroundings) -> None:
        shaky = dataclasses.replace(MEASURED, bandwidth=(Bandwidth(threads=4, bytes_per_s=30e9, spread=0.4),))
        report = examine(surroundings(measure=lambda _machine: shaky))
        assert found(report, "bandwidth").todo.startswith("The passes differed by 40%")
        assert found(report, "gemm").todo == ""

    def test_without_an_engine_no_matrix_rate_is_a_warning(self, surroundings: MakeSurroundings) -> None:
        rates = tuple(dataclasses.replace(each, op_per_s=0.0, missing="engine") for each in MEASURED.gemm)
        report = examine(surroundings(measure=lambda _machine: dataclasses.replace(MEASURED, gemm=rates)))
        assert found(report, "gemm").status is Status.WARN
        assert "pip install openvino" in found(report, "gemm").todo

    def test_a_failure_to_measure_is_a_warning_and_no_crash(self, surroundings: MakeSurroundings) -> None:
        def fail(_machine: Any) -> Any:
            raise CommandError(say("it broke"), hint=say("Mend it."))

        report = examine(surroundings(measure=fail))
        check = found(report, "bandwidth")
        assert (check.status, check.what, check.todo) == (
            Status.WARN,
            "Could not be measured: it broke",
            "Mend it.",
        )
        assert report.is_usable


class TestSoftware:
    def test_a_missing_default_engine_makes_it_unusable(self, surroundings: MakeSurroundings) -> None:
        around = surroundings(engines=(Installed(engine="openvino", needs=("openvino",), missing=("openvino",)),))
        report = examine(around)
        check = found(report, "engine openvino")
        assert (check.status, check.todo) == (Status.FAIL, "pip install openvino")
        assert not [each for each in report.checks if each.name == "arithmetic"]
        assert report.exit_code == 1

    def test_a_missing_reference_engine_is_no_fault_and_says_why(self, surroundings: MakeSurroundings) -> None:
        status, what, _ = finding(surroundings(), "engine transformers")
        assert (status, what) == (Status.OK, "Not usable: torch is not installed.")

    def test_another_version_than_the_pinned_one_is_a_warning(self, surroundings: MakeSurroundings) -> None:
        status, what, todo = finding(surroundings(version_of={"openvino": "2025.1"}.get), "engine openvino")
        assert (status, what) == (Status.WARN, "openvino 2025.1")
        assert "openvino 2026.4.1" in todo

    def test_an_engine_that_crashes_here_makes_it_unusable(self, surroundings: MakeSurroundings) -> None:
        crashed = Probe(version="", threads=1, f32_error=None, bf16_error=None, failure="was ended by SIGFPE.")
        status, what, todo = finding(surroundings(probe=lambda _machine: crashed), "arithmetic")
        assert (status, what) == (Status.FAIL, "was ended by SIGFPE.")
        assert "ONEDNN_MAX_CPU_ISA" in todo

    def test_wrong_numbers_make_it_unusable(self, surroundings: MakeSurroundings) -> None:
        wrong = Probe(version="1", threads=4, f32_error=1e-7, bf16_error=0.9)
        assert finding(surroundings(probe=lambda _machine: wrong), "arithmetic")[0] is Status.FAIL

    def test_a_taken_port_names_its_holder(self, surroundings: MakeSurroundings) -> None:
        around = surroundings(
            is_port_free=lambda _host, _port: False, port_holder=lambda _port: PortHolder(pid=7, name="nginx")
        )
        status, what, todo = finding(around, "port")
        assert (status, what) == (Status.WARN, "Taken by nginx (process 7).")
        assert "--port 8001" in todo

    def test_an_old_python_is_refused(self, surroundings: MakeSurroundings) -> None:
        assert finding(surroundings(python=(3, 9, 2)), "python")[0] is Status.FAIL

    def test_telemetry_that_is_on_is_a_warning(self, surroundings: MakeSurroundings) -> None:
        assert finding(surroundings(is_telemetry_off=lambda: False), "telemetry")[0] is Status.WARN


class TestTheRealSurroundings:
    def test_this_machine_is_examined_without_loading_a_heavy_library(self, tmp_path: Path) -> None:
        # A server elsewhere on this machine may hold 8000; a free port is asked for.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = (
            "import json, pathlib, sys; from qwenops.deploy.doctor import examine, look_around\n"
            "around = look_around(store=pathlib.Path(sys.argv[1]), port=int(sys.argv[2]), measuring=False)\n"
            "report = examine(around).to_json()\n"
            "report['heavy'] = [name for name in ('numpy', 'openvino', 'torch', 'fastapi') if name in sys.modules]\n"
            "print(json.dumps(report))"
        )
        report = json.loads(run([sys.executable, "-c", code, tmp_path, str(port)], timeout_s=60).stdout)
        assert report["heavy"] == []
        checks = {check["name"]: check for check in report["checks"]}
        for name in ("arithmetic", "engine openvino", "port", "telemetry", "python"):
            assert checks[name]["status"] == "ok", checks[name]["what"]
        assert checks["python"]["what"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
        assert {f"engine {name}" for name in ENGINES} <= set(checks)

    @pytest.mark.slow
    @pytest.mark.proves("A3")
    def test_this_machine_is_measured(self, tmp_path: Path) -> None:
        report = examine(look_around(store=tmp_path))
        assert report.measured is not None
        assert found(report, "bandwidth").facts["bytes_per_s"] > 0
        assert found(report, "gemm").status is Status.OK
        assert json.loads(json.dumps(report.to_json()))["measured"]["took_s"] > 0

    def test_a_port_in_use_is_found_with_who_holds_it(self) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            port = server.getsockname()[1]
            assert not is_port_free("127.0.0.1", port)
            assert not is_port_free("", port)
            holder = port_holder(port)
            assert holder.pid > 0
            assert holder.name
        assert is_port_free("127.0.0.1", port)
        assert port_holder(port) == PortHolder()

    def test_versions_are_those_of_the_installed_packages(self) -> None:
        assert version_of("openvino") == wanted_version_of("openvino")
        assert version_of("no-such-package") is None
        assert wanted_version_of("numpy") is None

    def test_an_engine_tells_what_it_needs(self) -> None:
        assert installed("openvino") == Installed(engine="openvino", needs=("openvino", "llguidance"), missing=())
        assert installed("fake") == Installed(engine="fake", needs=(), missing=())

    def test_an_engine_that_cannot_be_imported_is_missing_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(ENGINES, "other", "no_such_package.engine:open_engine")
        assert installed("other").missing == ("no_such_package",)

    def test_nothing_can_be_changed_in_a_report(self, surroundings: MakeSurroundings) -> None:
        report = examine(surroundings(measure=None))
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.checks[0].status = Status.FAIL  # type: ignore[misc]  # that it cannot be set is the point
