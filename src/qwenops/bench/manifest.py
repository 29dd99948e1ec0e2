"""What a run's manifest says: what was measured, with which options, on which machine, by which versions.

Nothing secret is in it: targets are named without their keys, options that are secret are left out.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from qwenops import __version__
from qwenops.bench.clock import Clock
from qwenops.bench.folder import SCHEMA
from qwenops.bench.options import BenchOptions
from qwenops.bench.target import Target
from qwenops.hardware import Machine, detect_machine
from qwenops.options import parse_value, walk

LIBRARIES = ("aiohttp", "uvloop", "numpy", "openvino", "locust")
"""Whose versions a result depends on; those that are not installed are left out."""


def new_manifest(
    verb: str, targets: Mapping[str, Target], options: BenchOptions, clock: Clock, command: Sequence[str]
) -> dict[str, Any]:
    """Return what is known when a run begins."""
    wall_ns = clock.wall_ns()
    return {
        "schema": SCHEMA,
        "verb": verb,
        "command": list(command),
        "state": "running",
        "virtual": clock.virtual,
        "began_wall_ns": wall_ns,
        "began": datetime.fromtimestamp(wall_ns / 1e9, tz=UTC).isoformat(timespec="milliseconds"),
        "salt": f"{wall_ns:x}",
        "seed": options.seed,
        "options": options_data(options),
        "targets": {name: target_data(each) for name, each in targets.items()},
        "machine": machine_data(detect_machine()),
        "versions": versions(),
        "gaps": [],
    }


def options_data(options: BenchOptions) -> dict[str, Any]:
    """Return the options as JSON holds them: seconds and tokens as numbers."""
    found = {}
    for path, _, spec in walk(BenchOptions):
        value = getattr(options, path[0])
        if not spec.secret:
            found[path[0]] = str(value) if isinstance(value, Path) else value
    return found


def options_of(manifest: Mapping[str, Any]) -> BenchOptions:
    """Return the options that a run was made with, to continue it; what a newer version added is left out."""
    given = manifest["options"]
    known = {}
    for path, each, spec in walk(BenchOptions):
        if path[0] in given:
            known[path[0]] = parse_value(given[path[0]], each.type, spec, path[0])
    return BenchOptions(**known)


def target_data(target: Target) -> dict[str, Any]:
    """Return what is known about a target."""
    info = target.engine.info
    facts = {name: _plain(getattr(info, name)) for name in (each.name for each in fields(info)) if name != "health"}
    return {
        "text": target.text,
        "kind": target.kind,
        "url": target.url,
        "model": target.model,
        "facts": dict(target.facts),
        "engine": {name: value for name, value in facts.items() if value not in ("", 0, 0.0, {}, None)},
    }


def machine_data(machine: Machine) -> dict[str, Any]:
    """Return the machine's facts; `fingerprint` is equal for machines that may be compared."""
    processor, memory = machine.processor, machine.memory
    facts: dict[str, Any] = {
        "processor": processor.model,
        "architecture": processor.architecture,
        "isa": list(processor.isa),
        "cpus": len(processor.cpus),
        "usable_cores": machine.usable_cores.value,
        "physical_cores": machine.physical_cores.value,
        "cpu_quota": machine.cpu_quota.value if machine.cpu_quota else None,
        "last_cache_bytes": processor.last_cache_bytes,
        "numa_nodes": len(processor.numa_nodes),
        "memory_total_bytes": memory.total_bytes,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return {
        **facts,
        "fingerprint": digest,
        "memory_limit_bytes": machine.memory_limit.value,
        "memory_available_bytes": memory.available_bytes,
        "swap_total_bytes": memory.swap_total_bytes,
        "container": machine.container.value,
        "cgroup_layout": machine.cgroup_layout,
        "huge_pages": machine.huge_pages,
        "kernel": platform.release(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the libraries that a result depends on."""
    found = {"qwenops": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Fingerprint:
    """A hash over what was sent, in any order and in no more room for millions of requests than for one."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sum = 0

    def add(self, index: int, prompt_hash: str) -> None:
        """Add one request."""
        digest = hashlib.sha256(f"{index}:{prompt_hash}".encode()).digest()
        self._sum = (self._sum + int.from_bytes(digest)) % 2**256

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self._sum:064x}"[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: str(each) for name, each in value.items()}
    return str(value) if is_dataclass(value) else value
