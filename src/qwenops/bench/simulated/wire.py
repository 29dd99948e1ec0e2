"""How events are written to a stream, well or badly: pure functions from JSON to bytes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qwenops.bench.simulated.options import Faults

_LINE_ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}
DONE = "[DONE]"
HALF = '{"choices": [{"delta": {"content": "ha'
"""What a server sends that breaks off while it writes JSON."""


def compact(found: Mapping[str, Any]) -> str:
    """Write JSON on one line, with characters as they are."""
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def event(data: str, faults: Faults, *, last: bool = False) -> bytes:
    """Write one server-sent event; `last` is the one that may lack its blank line."""
    end = _LINE_ENDS[faults.line_end]
    lines = _spread(data).split("\n") if faults.multiline and data not in {DONE, HALF} else [data]
    text = "".join(f"data: {line}{end}" for line in lines)
    comment = f": still here{end}{end}" if faults.comments else ""
    return (comment + text + (end if faults.blank_end or not last else "")).encode()


def line(data: str, faults: Faults, *, last: bool = False) -> bytes:
    """Write one line of a stream of JSON lines."""
    end = "\r\n" if faults.line_end == "crlf" else "\n"
    return (data + (end if faults.blank_end or not last else "")).encode()


def pieces(data: bytes, faults: Faults) -> Iterator[bytes]:
    """Cut what is sent, also within a character."""
    step = faults.split_bytes or len(data)
    for begin in range(0, len(data), step):
        yield data[begin : begin + step]


def _spread(data: str) -> str:
    """Write the same JSON on several lines."""
    return json.dumps(json.loads(data), ensure_ascii=False, indent=1)
