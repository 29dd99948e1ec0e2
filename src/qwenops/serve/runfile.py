"""Run files: how `qwenops ps` and `qwenops stop` find the servers of this user.

A server writes one file when it listens and removes it when it ends. A server that was killed leaves its file behind;
it is known to be stale because no process has its pid, or one that started at another time has.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text

START_TOLERANCE_S = 2.0
"""A process start is known to a clock tick, and the boot time it is counted from moves when the clock is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """One server that runs, as it described itself."""

    pid: int
    process_started_s: float
    """Seconds since 1970 at which the process started; tells a pid that was used again."""
    url: str
    model: str
    engine: str
    name: str = ""
    """What `stop` calls it; the port unless it was given one."""
    version: str = ""


def run_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of run files: under QWENOPS_HOME, else in the user's state folder."""
    if environ.get("QWENOPS_HOME"):
        return Path(environ["QWENOPS_HOME"]).expanduser() / "servers"
    import platformdirs

    return Path(platformdirs.user_state_dir("qwenops")) / "servers"


def process_start_s(pid: int) -> float | None:
    """Return when a process started, in seconds since 1970; None when there is none (a zombie is none)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def write_run_file(folder: Path, run: RunFile) -> Path:
    """Write the file of a server atomically and return its path."""
    path = folder / f"{run.pid}.json"
    write_text(path, json.dumps(asdict(run)), mode=0o600)
    return path


def this_process(*, url: str, model: str, engine: str, name: str = "", version: str = "") -> RunFile:
    """Describe the server that is this process."""
    started_s = process_start_s(os.getpid()) or 0.0
    return RunFile(
        pid=os.getpid(), process_started_s=started_s, url=url, model=model, engine=engine, name=name, version=version
    )


def running(folder: Path, *, start_s: Callable[[int], float | None] = process_start_s) -> list[RunFile]:
    """Return the servers that run, oldest first; the files of processes that are gone are removed.

    A file that cannot be understood stays as long as a process has its pid: a newer qwenops may have written it.
    """
    found = []
    for path in folder.glob("*.json"):
        run = _read(path)
        if run is not None and is_running(run, start_s=start_s):
            found.append(run)
        elif run is not None or not path.stem.isdecimal() or start_s(int(path.stem)) is None:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda run: run.process_started_s)


def is_running(run: RunFile, *, start_s: Callable[[int], float | None] = process_start_s) -> bool:
    """Whether the process that wrote the file still runs."""
    started_s = start_s(run.pid)
    return started_s is not None and abs(started_s - run.process_started_s) < START_TOLERANCE_S


def _read(path: Path) -> RunFile | None:
    """Read a file, without the fields that a newer version may have added; None when it cannot be understood."""
    known = {each.name for each in fields(RunFile)}
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return RunFile(**{name: value for name, value in found.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
