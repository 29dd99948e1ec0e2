"""What the log writers can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwenops.options import Unit, option

Destination = Literal["files", "stdout", "both", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Where the log lines of requests and of the system go, and how long they stay."""

    destination: Destination = option(
        "files",
        help="Where request and system lines go.",
        choices=("files", "stdout", "both", "off"),
        flag="--log-destination",
    )
    dir: Path = option(
        Path("logs"), help="Folder of requests_YYYYMMDD.jsonl and system_YYYYMMDD.jsonl.", flag="--log-dir"
    )
    format: Literal["text", "json"] = option(
        "text",
        help="How the server's own messages look on standard error.",
        choices=("text", "json"),
        flag="--log-format",
    )
    level: Literal["debug", "info", "warning", "error"] = option(
        "info",
        help="Least severe message that is shown.",
        choices=("debug", "info", "warning", "error"),
        live=True,
        flag="--log-level",
    )
    rotate_bytes: int = option(
        100 * 1024**2,
        help="A log file of one day is continued in a new one beyond this size.",
        unit=Unit.BYTES,
        minimum=1024,
        live=True,
        flag=False,
    )
    retention_days: int = option(
        30, help="Days after which archived logs are removed; 0 keeps them.", minimum=0, live=True, flag=False
    )
    compress: bool = option(True, help="Archive files of past days with gzip.", live=True, flag=False)
    system_interval_s: float = option(
        60.0, help="Time between two system lines.", unit=Unit.SECONDS, minimum=1.0, live=True, flag=False
    )
    prompts: bool = option(False, help="Write prompts and answers into the request lines.", live=True, flag=False)
