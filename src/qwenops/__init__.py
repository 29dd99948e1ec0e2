"""Qwen3-0.6B and Qwen3-1.7B made useful on machines without a GPU."""

import sys

__version__ = "0.1.0"

# `import openvino` reports itself over the network unless its telemetry package is missing. Nothing here may leave the
# machine unasked, and that must not depend on remembering a call before each import, so here, alone in this project,
# something happens at import: the telemetry package cannot be found, and OpenVINO falls back to its own silent stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None is how Python marks it as missing
