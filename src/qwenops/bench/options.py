"""What a measurement can be told. One object for all commands; None means: as the command does by itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwenops.options import Unit, option

DRAIN_SPARE_S = 5.0
"""Beyond the time-out, so that it is the time-out that ends a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How to measure. Each command of `qwenops bench` offers the flags that mean something to it."""

    rate: float | None = option(
        None, help="Requests per second, sent on schedule whether or not answers are back (open loop).", minimum=0.0
    )
    users: int | None = option(
        None, help="Callers that each wait for their answer before they ask again (closed loop).", minimum=1
    )
    arrivals: Literal["poisson", "constant", "gamma"] = option(
        "poisson", help="How the requests of an open loop are spaced.", choices=("poisson", "constant", "gamma")
    )
    burstiness: float = option(
        1.0, help="Shape of gamma arrivals: 1 is Poisson, less comes in bursts.", minimum=0.01, flag=False
    )
    duration_s: float | None = option(None, help="How long to send.", unit=Unit.SECONDS, minimum=0.0)
    requests: int | None = option(None, help="How many requests to send.", minimum=1)
    warmup: int | None = option(
        None, help="Requests before the measured ones; they are recorded and not counted.", minimum=0
    )
    workload: str = option(
        "calls-zh",
        help="What to ask: calls-zh or calls-en (synthetic calls), or jsonl:FILE, sharegpt:FILE, trace:FILE.",
    )
    prompt_tokens: int = option(
        512, help="Median length of a synthetic prompt.", unit=Unit.TOKENS, minimum=16, maximum=40960
    )
    max_tokens: int = option(64, help="Longest answer.", unit=Unit.TOKENS, minimum=1, maximum=40960)
    force_length: bool = option(False, help="Ask the server to write exactly --max-tokens (where it knows ignore_eos).")
    cache: Literal["cold", "warm", "bust"] = option(
        "warm",
        help="What a prefix cache may find: the shared beginning (warm), nothing at first (cold), nothing ever (bust).",
        choices=("cold", "warm", "bust"),
    )
    thinking: bool = option(False, help="Let the model think before it answers.")
    slo: str = option("", help="Objective, such as 'ttft p95 < 2s, errors < 1%'.")
    timeout_s: float = option(
        300.0, help="A request that takes longer counts as failed.", unit=Unit.SECONDS, minimum=0.001
    )
    seed: int = option(1, help="Makes prompts and send times repeatable.", minimum=0)
    record_text: bool = option(False, help="Write prompts and answers into the record; they may hold personal data.")
    folder: Path = option(Path("runs"), help="Folder in which each run makes its own.", flag="--runs")
    sample_every_s: float = option(
        1.0, help="How often the host is looked at.", unit=Unit.SECONDS, minimum=0.1, flag=False
    )
    num_connections: int = option(
        0,
        help="Most connections at the same time; 0 takes as many as there are requests in flight.",
        minimum=0,
        flag=False,
    )

    @property
    def drain_s(self) -> float:
        """How long the answers in flight at the end are waited for: the last request has as much time as the first."""
        return self.timeout_s + DRAIN_SPARE_S

    second_api_key: str = option(
        "",
        help="Key for the second server of a comparison; the first one's (engine.api_key) is never sent to another.",
        secret=True,
    )
