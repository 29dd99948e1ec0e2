"""Facts about this machine; every derived number travels with its reason.

`detect_machine` reads, `plan_threads` decides, `measure` finds out how fast memory and arithmetic are (in a child
process, a few seconds). Nothing here is told by the user; everything can be injected by a test.
"""

from qwenops.hardware.machine import (
    Machine,
    Memory,
    current_affinity,
    detect_machine,
    free_disk_bytes,
    plan_environment,
    plan_threads,
)
from qwenops.hardware.processor import NumaNode, Processor
from qwenops.hardware.reasoned import Reasoned

__all__ = [
    "Machine",
    "Memory",
    "NumaNode",
    "Processor",
    "Reasoned",
    "current_affinity",
    "detect_machine",
    "free_disk_bytes",
    "plan_environment",
    "plan_threads",
]
