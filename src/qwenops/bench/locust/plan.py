"""What Locust is told: a locustfile as text, and the command lines of a master and its workers. Pure."""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.bench.options import BenchOptions

RECORDS_VARIABLE = "QWENOPS_LOCUST_RECORDS"
"""Folder in which each worker writes its journal."""
ORIGIN_VARIABLE = "QWENOPS_LOCUST_ORIGIN_NS"
"""The run's origin on the monotonic clock, which all processes of a machine share."""
WORKERS_VARIABLE = "QWENOPS_LOCUST_WORKERS"
"""How many workers there are, so that each takes its share of the requests."""
SALT_VARIABLE = "QWENOPS_LOCUST_SALT"
KEY_VARIABLE = "QWENOPS_ENGINE_API_KEY"
"""The server's key; it stands in no file and on no command line."""

DEFAULT_USERS = 5
DEFAULT_RUN_TIME_S = 60.0
MOST_RUN_TIME_S = 24 * 3600.0
"""Of a run that ends with its last request."""

TOLD = (
    "rate",
    "arrivals",
    "burstiness",
    "duration_s",
    "requests",
    "workload",
    "prompt_tokens",
    "max_tokens",
    "force_length",
    "cache",
    "thinking",
    "timeout_s",
    "seed",
    "record_text",
)
"""Options that callers need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocustPlan:
    """One run with Locust."""

    url: str
    """The server's address, with or without `/v1`."""
    model: str
    owner: str = ""
    """What the server calls itself; decides the names of some fields."""
    options: BenchOptions
    users: int
    spawn_rate: float
    run_time_s: float
    workers: int = 2

    @property
    def whole_run_time_s(self) -> int:
        """The run time as Locust takes it."""
        return math.ceil(self.run_time_s)


def plan_of(
    url: str, model: str, options: BenchOptions, *, spawn_rate: float | None = None, workers: int = 2
) -> LocustPlan:
    """Return a plan with what the options leave open: five callers at once, for a minute."""
    users = options.users or DEFAULT_USERS
    run_time_s = options.duration_s or (MOST_RUN_TIME_S if options.requests else DEFAULT_RUN_TIME_S)
    return LocustPlan(
        url=url,
        model=model,
        options=options,
        users=users,
        spawn_rate=spawn_rate or float(users),
        run_time_s=run_time_s,
        workers=workers,
    )


_FILE = '''"""Locust against {url}; written by `qwenops bench locust`, to be changed as you like.

    locust -f {name} --headless --users {users} --spawn-rate {spawn_rate:g} --run-time {run_time_s}s

Callers stream; `TTFT` and `E2E` stand in Locust's statistics unrounded, and every request is a line of
`worker-*.jsonl` in the folder that {records} names (`locust-records` without it). With several workers, give each
{workers}=<how many there are>. A key comes from {key}.
"""

from pathlib import Path

from qwenops.bench.locust.user import QwenUser
from qwenops.bench.options import BenchOptions


class Caller(QwenUser):
    """Asks the workload below, and waits for each answer before the next request unless there is a rate."""

    host = {url!r}
    model = {model!r}
    owner = {owner!r}
    options = BenchOptions(
{options}
    )
'''


def locustfile(plan: LocustPlan, name: str = "locustfile.py") -> str:
    """Return the text of the locustfile."""
    given = [
        f"        {field.name}={_literal(getattr(plan.options, field.name))},"
        for field in dataclasses.fields(BenchOptions)
        if field.name in TOLD
    ]
    text = _FILE.format(
        url=plan.url,
        name=name,
        users=plan.users,
        spawn_rate=plan.spawn_rate,
        run_time_s=plan.whole_run_time_s,
        records=RECORDS_VARIABLE,
        workers=WORKERS_VARIABLE,
        key=KEY_VARIABLE,
        model=plan.model,
        owner=plan.owner,
        options="\n".join(given),
    )
    return text if "Path(" in "\n".join(given) else text.replace("from pathlib import Path\n\n", "")


def _literal(value: Any) -> str:
    return f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def master_argv(plan: LocustPlan, file: Path, port: int) -> list[str]:
    """Return the command line of the master, which waits for all workers before it begins."""
    # Under a rate each worker has one user, which sends that worker's share of the schedule.
    users = plan.workers if plan.options.rate else plan.users
    spawn_rate = float(plan.workers) if plan.options.rate else plan.spawn_rate
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(file), "--headless", "--master"),
        *("--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)),
        *("--expect-workers", str(plan.workers), "--expect-workers-max-wait", "60"),
        *("--users", str(users), "--spawn-rate", f"{spawn_rate:g}", "--run-time", f"{plan.whole_run_time_s}s"),
        *("--stop-timeout", str(math.ceil(plan.options.drain_s)), "--exit-code-on-error", "0", "--only-summary"),
    ]


def worker_argv(file: Path, port: int) -> list[str]:
    """Return the command line of a worker."""
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(file), "--worker"),
        *("--master-host", "127.0.0.1", "--master-port", str(port)),
    ]
