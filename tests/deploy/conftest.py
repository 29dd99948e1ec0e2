"""A machine and its surroundings in which everything is well; a test changes one thing."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from qwenops.deploy.checkup import Installed, Surroundings
from qwenops.hardware import detect_machine
from qwenops.hardware.measure import Bandwidth, GemmRate, Measured
from qwenops.hardware.ports import PortHolder
from qwenops.hardware.probe import Probe
from tests.hardware.trees import mounted_v2, processor, write_tree

GIB = 1024**3
WELL = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": mounted_v2(),
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
}
MEASURED = Measured(
    bandwidth=(Bandwidth(threads=4, bytes_per_s=30e9, spread=0.0),),
    gemm=(
        GemmRate(precision="f32", threads=4, op_per_s=0.5e12, spread=0.0),
        GemmRate(precision="bf16", threads=4, op_per_s=2e12, spread=0.0),
        GemmRate(precision="int8", threads=4, op_per_s=0.0, spread=0.0, missing="arithmetic"),
    ),
    buffer_bytes=GIB,
    took_s=2.0,
)

MakeSurroundings = Callable[..., Surroundings]


@pytest.fixture
def surroundings(tmp_path: Path) -> MakeSurroundings:
    """Return a function: fake files of the machine, and fields to replace, give surroundings."""

    def make(files: Mapping[str, str] | None = None, *, num_cpus: int = 4, **changes: Any) -> Surroundings:
        root = tmp_path / "machine"
        write_tree(root, processor(num_cpus) | WELL | dict(files or {}))
        around = Surroundings(
            machine=detect_machine(root, affinity=lambda: set(range(num_cpus)), environ={}),
            store=tmp_path / "models",
            host="127.0.0.1",
            port=8000,
            python=(3, 12, 1),
            engines=(
                Installed(engine="openvino", needs=("openvino",), missing=()),
                Installed(engine="fake", needs=(), missing=()),
                Installed(engine="transformers", needs=("torch",), missing=("torch",)),
            ),
            measure=lambda _machine: MEASURED,
            probe=lambda _machine: Probe(version="2026.4.1", threads=4, f32_error=1e-7, bf16_error=1e-3),
            free_disk_bytes=lambda _folder: 100 * GIB,
            is_port_free=lambda _host, _port: True,
            port_holder=lambda _port: PortHolder(),
            version_of={"openvino": "2026.4.1"}.get,
            wanted_version_of={"openvino": "2026.4.1"}.get,
            is_telemetry_off=lambda: True,
            now_s=2e9,
            installed_at_s=1.9e9,
            clock_source="tsc",
            max_open_files=4096,
        )
        return dataclasses.replace(around, **changes)

    return make
