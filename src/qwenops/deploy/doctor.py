"""Examine this machine: what serving a model here will be like, and what to do about it.

    report = examine(look_around(store=default_root(os.environ)))

Each check is a function from `Surroundings` to findings; the tuple `CHECKS` is the whole examination. Nothing here
prints, and nothing is changed on the machine.
"""

import importlib
import importlib.metadata
import re
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qwenops.deploy import machine_checks, software_checks
from qwenops.deploy.checkup import SCHEMA, Check, Examine, Installed, Report, Status, Surroundings
from qwenops.engines import ENGINES
from qwenops.errors import QwenOpsError
from qwenops.hardware import detect_machine, free_disk_bytes
from qwenops.hardware.files import read_text
from qwenops.hardware.measure import Measured, measure
from qwenops.hardware.ports import port_holder
from qwenops.hardware.probe import probe
from qwenops.text import say

__all__ = ["CHECKS", "SCHEMA", "Check", "Report", "Status", "Surroundings", "examine", "look_around"]

CHECKS: tuple[Examine, ...] = (
    software_checks.python,
    machine_checks.instruction_sets,
    machine_checks.cores,
    machine_checks.numa,
    machine_checks.memory,
    machine_checks.model_fit,
    machine_checks.disk,
    software_checks.engines,
    software_checks.arithmetic,
    software_checks.port,
    machine_checks.container,
    machine_checks.huge_pages,
    machine_checks.clock,
    machine_checks.open_files,
    software_checks.telemetry,
)


def examine(around: Surroundings, report: Callable[[float, str], None] = lambda _fraction, _doing: None) -> Report:
    """Look at everything; takes a few seconds when measuring is part of it.

    Args:
        around: What to look at.
        report: Told how far it is, from 0 to 1, and what it is doing.
    """
    checks: list[Check] = []
    measured: Measured | None = None
    for number, check in enumerate(CHECKS):
        report(0.4 * number / len(CHECKS), say("Looking at this machine"))
        checks.extend(check(around))
    if around.measure is not None:
        report(0.4, say("Measuring memory bandwidth and matrix products"))
        try:
            measured = around.measure(around.machine)
            checks.extend(machine_checks.speed(measured))
        except QwenOpsError as error:
            checks.append(
                Check(
                    name="bandwidth",
                    title=say("Memory bandwidth"),
                    status=Status.WARN,
                    what=say("Could not be measured: {reason}", reason=error.message),
                    todo=error.hint,
                )
            )
    report(1.0, say("Done"))
    return Report(checks=tuple(checks), machine=around.machine, measured=measured)


def look_around(*, store: Path, host: str = "127.0.0.1", port: int = 8000, measuring: bool = True) -> Surroundings:
    """Gather the real surroundings of this process.

    Args:
        store: Where models lie or will lie.
        host: Address that the server would listen on.
        port: Port that the server would listen on.
        measuring: Whether to measure bandwidth and matrix products.
    """
    return Surroundings(
        machine=detect_machine(),
        store=store,
        host=host,
        port=port,
        python=sys.version_info[:3],
        engines=tuple(installed(name) for name in ENGINES),
        measure=measure if measuring else None,
        probe=probe,
        free_disk_bytes=free_disk_bytes,
        is_port_free=is_port_free,
        port_holder=port_holder,
        version_of=version_of,
        wanted_version_of=wanted_version_of,
        is_telemetry_off=is_telemetry_off,
        now_s=time.time(),
        installed_at_s=Path(__file__).stat().st_mtime,
        clock_source=read_text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")) or "",
        max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def installed(engine: str) -> Installed:
    """Find out what an engine of the table needs (`REQUIRES` of its module) and what of that is missing."""
    module_name = ENGINES[engine].partition(":")[0]
    try:
        needs = tuple(getattr(importlib.import_module(module_name), "REQUIRES", ()))
    except ImportError as error:
        missing = error.name or module_name
        return Installed(engine=engine, needs=(missing,), missing=(missing,))
    return Installed(engine=engine, needs=needs, missing=tuple(name for name in needs if version_of(name) is None))


def version_of(package: str) -> str | None:
    """Return the installed version of a package without a build's name (`+cpu`), or None."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted_version_of(package: str) -> str | None:
    """Return the version that this project pins exactly, or None when it takes several."""
    for line in importlib.metadata.requires("qwenops") or ():
        match = re.match(r"([A-Za-z0-9_.-]+)==([^;,\s]+)", line)
        if match and match[1].lower() == package:
            return match[2]
    return None


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((host, port))
        except OSError:
            return False
    return True


def is_telemetry_off() -> bool:
    """Whether OpenVINO's telemetry package cannot be found in this process."""
    return "openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is None
