"""The real kernel kills an engine's process for lack of memory, and the service goes on with less."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.infra.conftest import Limited

pytestmark = pytest.mark.infra

MIB = 1024**2
LIMIT_BYTES = 400 * MIB
"""Room for a cache of 250 MiB beside both processes, not for one of 500 or 1,000."""
CACHE_BYTES = 1000 * MIB


@pytest.fixture
def served(memory_group: Limited, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets the small server serve within the limit and returns what happened."""
    memory_group.limit_memory(LIMIT_BYTES)
    for name, value in {"memory.swappiness": "0", "memory.swap.max": "0"}.items():
        if (memory_group.folder / name).exists():
            (memory_group.folder / name).write_text(value)  # swapping would only delay the end
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def run(name: str) -> dict[str, Any]:
        argv = [sys.executable, "-m", "tests.infra.hungry", name, str(CACHE_BYTES)]
        found: dict[str, Any] = json.loads(memory_group.run(argv, timeout_s=90).stdout)
        return found

    return run


def kills(group: Limited) -> int:
    name = "memory.oom_control" if group.version == "v1" else "memory.events"
    lines = (group.folder / name).read_text().splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])


def test_an_engine_that_the_kernel_kills_while_it_answers_is_opened_smaller_and_serves(
    memory_group: Limited, served: Any
) -> None:
    found = served("hungry")
    assert kills(memory_group) == 2
    assert [(each["kind"], each["cause"]) for each in found["errors"]] == [
        ("EngineCrashedError", "InsufficientMemoryError")
    ] * 2
    for each in found["errors"]:
        assert "memory limit was reached" in each["said"]
        assert "kv_cache_bytes" in each["hint"]
    assert found["answer"] == "1 2 3 "
    assert f"kv_cache_bytes {CACHE_BYTES // 4} for lack of memory" in found["reason"]
    assert found["pid"] != os.getpid()


def test_an_engine_that_the_kernel_kills_while_it_loads_is_opened_smaller_and_serves(
    memory_group: Limited, served: Any
) -> None:
    found = served("hungry at load")
    assert kills(memory_group) == 2
    assert (found["answer"], found["errors"]) == ("1 2 3 ", [])
    assert "The kernel killed the engine's process because its memory limit was reached." in found["reason"]
