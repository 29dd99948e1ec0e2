"""Our paged engine on OpenVINO's kernels. It runs in a process of its own; here is the door to it."""

from qwenops.engines.options import EngineOptions
from qwenops.engines.worker import WorkerEngine, open_worker

REQUIRES = ("openvino", "llguidance")
"""Packages that must be installed."""


async def open_engine(options: EngineOptions) -> WorkerEngine:
    """Start the engine's process; the model loads in the background (`ready` waits for it)."""
    return await open_worker("qwenops.engines.openvino.stepper:open_stepper", options, name="openvino")
