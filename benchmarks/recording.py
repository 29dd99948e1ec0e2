"""What every result file carries: the machine, the versions, the options, and figures with their spread."""

import asyncio
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.atomic import write_text
from qwenops.hardware import detect_machine, plan_threads

if TYPE_CHECKING:
    from qwenops.models.store import Store, StoredModel

RESULTS = Path(__file__).parent / "results"
SCHEMA_VERSION = 1
PACKAGES = (
    "qwenops",
    "openvino",
    "openvino-genai",
    "numpy",
    "tokenizers",
    "llguidance",
    "uvicorn",
    "fastapi",
    "aiohttp",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "scikit-learn",
    "gguf",
    "xllamacpp",
)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum of repeated measurements, with their number."""
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ratio pair by pair of measurements that were taken in turn, so that a drift of the machine cancels."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def machine() -> dict[str, Any]:
    """The facts about this machine that a figure depends on."""
    found = detect_machine()
    threads = plan_threads(found)
    return {
        "processor": found.processor.model,
        "isa": sorted(found.processor.isa),
        "usable_cores": found.usable_cores.value,
        "threads": threads.value,
        "threads_reason": str(threads.reason),
        "memory_limit_bytes": found.memory_limit.value,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
    }


def versions() -> dict[str, str]:
    """Versions of what was measured, as far as it is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_result(name: str, *, options: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Write `results/<name>.json` atomically and return its path."""
    payload = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": name,
        "taken_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "options": dict(options),
        "results": dict(results),
    }
    target = RESULTS / f"{name}.json"
    write_text(target, json.dumps(payload, indent=2, ensure_ascii=False) + "\n")
    return target


def converted(model: str, scheme: str) -> Path:
    """Return the folder of the converted model, making what is missing."""
    from qwenops.models.artefact import Scheme

    store, stored = _stored(model)
    return store.artefact(stored, Scheme(scheme), lambda _progress, _doing: None).folder


def checkpoint_of(model: str) -> Path:
    """Return the folder of the model as it was published or made."""
    return _stored(model)[1].checkpoint


def _stored(model: str) -> "tuple[Store, StoredModel]":
    from qwenops.models.hub import HubOptions
    from qwenops.models.store import Store, default_root

    store = Store(root=default_root(os.environ))
    return store, asyncio.run(store.ensure(model, HubOptions(), lambda _progress: None))
